"""What is done to get a picture: one file for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import json_object
from latentrt.runtime.tasks.depth_to_image import DepthToImage
from latentrt.runtime.tasks.hires_fix import HiresFix
from latentrt.runtime.tasks.image_to_image import ImageToImage
from latentrt.runtime.tasks.inpainting import Inpainting
from latentrt.runtime.tasks.instruct_pix2pix import InstructPix2Pix
from latentrt.runtime.tasks.task import Task
from latentrt.runtime.tasks.text_to_image import TextToImage

__all__ = [
    "TASKS",
    "DepthToImage",
    "HiresFix",
    "ImageToImage",
    "Inpainting",
    "InstructPix2Pix",
    "Task",
    "TextToImage",
    "name_of",
    "read_task",
    "task_json",
]

TASKS: Final[Mapping[str, type[Task]]] = {
    "text_to_image": TextToImage,
    "hires_fix": HiresFix,
    "image_to_image": ImageToImage,
    "inpainting": Inpainting,
    "depth_to_image": DepthToImage,
    "instruct_pix2pix": InstructPix2Pix,
}
"""The tasks by the names that requests have for them."""


def name_of(task: Task) -> str:
    """The name that requests have for a task."""
    return next(name for name, kind in TASKS.items() if type(task) is kind)


def task_json(task: Task) -> dict[str, Any]:
    """A task as a JSON object: its name, its fields, and of pictures their SHA-256."""
    return {"name": name_of(task), **task.to_json()}


def read_task(value: object, attachments: Sequence[NDArray[Any]]) -> Task:
    """A task from `task_json`, with its pictures among the attachments. Raises `InputError`."""
    found = json_object("task", value)
    name = found.pop("name", None)
    if not isinstance(name, str) or name not in TASKS:
        raise InputError("task", f"one of {', '.join(TASKS)}", shown(name))
    return TASKS[name].from_json(found, attachments)

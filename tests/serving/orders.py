"""Orders of every kind, and the pictures that they give alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.serving.live import opened

from latentrt.serving.bodies import JobBody
from latentrt.serving.limits import Limits
from latentrt.serving.order import order_of
from latentrt.serving.shelf import Shelf

Pixels = NDArray[np.uint8]


def picture(seed: int, mode: str = "RGB") -> str:
    """A random picture of 64 x 64 in base64."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((64, 64)).convert(mode).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def mask() -> str:
    """The left half white, in base64."""
    buffer = io.BytesIO()
    image = Image.new("L", (64, 64))
    image.paste(255, (0, 0, 32, 64))
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def mixed(count: int, models: tuple[str, ...]) -> list[dict[str, Any]]:
    """Bodies of jobs of several tasks, samplers, sizes and models."""
    tasks: list[Mapping[str, Any]] = [
        {"name": "text_to_image"},
        {"name": "image_to_image", "image": picture(1), "strength": 0.6},
        {"name": "inpainting", "image": picture(2), "mask": mask()},
        {"name": "hires_fix", "scale": 1.5, "steps": 2},
    ]
    samplers = ("euler", "dpmpp_2m", "euler_a", "ddim", "unipc")
    return [
        {
            "prompt": f"a ({'red' if i % 2 else 'blue'}:1.2) fox {i}",
            "seed": i,
            "model": models[i % len(models)],
            "task": tasks[i % len(tasks)],
            "size": "64x64",
            "sampling": {"sampler": samplers[i % len(samplers)], "steps": 3 + i % 4},
            "guidance": {"scale": 1 if i % 7 == 0 else 5},
        }
        for i in range(count)
    ]


def alone(bodies: list[dict[str, Any]], shelf: Shelf) -> list[Pixels]:
    """The picture of each body, drawn by a batcher that draws nothing else."""
    limits = Limits()
    found: dict[int, Pixels] = {}
    for name in shelf.model_names:
        path: Path = shelf.model(name)
        with opened(path) as pipeline, pipeline.batcher(batch_sizes=(4,)) as batcher:
            for index, body in enumerate(bodies):
                if body["model"] == name:
                    order = order_of(JobBody.model_validate(body), shelf, limits)
                    (image,) = batcher.submit(order.request).result().images
                    found[index] = np.asarray(image)
    return [found[index] for index in range(len(bodies))]


def pixels(content: bytes) -> Pixels:
    """The pixels of a file."""
    return np.asarray(Image.open(io.BytesIO(content)))

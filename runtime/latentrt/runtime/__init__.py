"""Stable Diffusion without PyTorch: requests to pictures.

A `Pipeline` is a bundle that is opened. It draws a `Request` and gives a `Result`:

    from latentrt.runtime import Pipeline, Request, Sampling

    with Pipeline.open("my-model") as pipe:
        request = Request("a lighthouse at dusk", seed=7, sampling=Sampling("dpmpp_2m", steps=20))
        pipe(request).save("lighthouse.png")

`pipe.run(request)` gives a `Run`, to follow its `Step`s and to cancel it. `pipe.batcher()` gives a
`Batcher`, which draws many requests at once. Every error is a `LatentrtError`.

A name is loaded when it is first used, so that the import itself takes next to no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from latentrt.bundle.errors import (
        BuildFailed,
        BundleError,
        Busy,
        Cancelled,
        CheckpointError,
        Closed,
        DeadlineExceeded,
        EngineError,
        FileError,
        InputError,
        InternalError,
        LatentrtError,
        NonFinite,
        QueueFull,
        ShapeNotBuilt,
        Stopped,
        Unavailable,
        Unwritable,
        VerificationFailed,
        WeightsError,
    )
    from latentrt.runtime.batcher import Batcher
    from latentrt.runtime.clip import Clip, Similarity
    from latentrt.runtime.control import Control
    from latentrt.runtime.edges import canny
    from latentrt.runtime.guidance import Guidance
    from latentrt.runtime.interpolation import Interpolation
    from latentrt.runtime.picture import Step
    from latentrt.runtime.pipeline import Pipeline
    from latentrt.runtime.refiner import Refiner
    from latentrt.runtime.request import Request
    from latentrt.runtime.result import Result
    from latentrt.runtime.reuse import Reuse
    from latentrt.runtime.run import Run
    from latentrt.runtime.sampling import Sampling
    from latentrt.runtime.size import Size
    from latentrt.runtime.tasks import (
        DepthToImage,
        HiresFix,
        ImageToImage,
        Inpainting,
        InstructPix2Pix,
        TextToImage,
    )
    from latentrt.weights.embedding import Embedding
    from latentrt.weights.lora.lora import Lora

__all__ = [
    "Batcher",
    "BuildFailed",
    "BundleError",
    "Busy",
    "Cancelled",
    "CheckpointError",
    "Clip",
    "Closed",
    "Control",
    "DeadlineExceeded",
    "DepthToImage",
    "Embedding",
    "EngineError",
    "FileError",
    "Guidance",
    "HiresFix",
    "ImageToImage",
    "Inpainting",
    "InputError",
    "InstructPix2Pix",
    "InternalError",
    "Interpolation",
    "LatentrtError",
    "Lora",
    "NonFinite",
    "Pipeline",
    "QueueFull",
    "Refiner",
    "Request",
    "Result",
    "Reuse",
    "Run",
    "Sampling",
    "ShapeNotBuilt",
    "Similarity",
    "Size",
    "Step",
    "Stopped",
    "TextToImage",
    "Unavailable",
    "Unwritable",
    "VerificationFailed",
    "WeightsError",
    "canny",
]

_MODULES: Final = {
    "Batcher": "runtime.batcher",
    "Clip": "runtime.clip",
    "Control": "runtime.control",
    "canny": "runtime.edges",
    "Embedding": "weights.embedding",
    "Lora": "weights.lora.lora",
    "Guidance": "runtime.guidance",
    "DepthToImage": "runtime.tasks",
    "HiresFix": "runtime.tasks",
    "ImageToImage": "runtime.tasks",
    "Inpainting": "runtime.tasks",
    "InstructPix2Pix": "runtime.tasks",
    "Interpolation": "runtime.interpolation",
    "Pipeline": "runtime.pipeline",
    "Refiner": "runtime.refiner",
    "Request": "runtime.request",
    "Result": "runtime.result",
    "Reuse": "runtime.reuse",
    "Run": "runtime.run",
    "Sampling": "runtime.sampling",
    "Similarity": "runtime.clip",
    "Size": "runtime.size",
    "Step": "runtime.picture",
    "TextToImage": "runtime.tasks",
}
"""The modules of the names that are no errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"latentrt.{_MODULES.get(name, 'bundle.errors')}"
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return __all__

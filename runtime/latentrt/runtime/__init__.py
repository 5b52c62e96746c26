"""Requests to pictures, in NumPy."""

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
from latentrt.runtime.guidance import Guidance
from latentrt.runtime.picture import Step
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.request import Request
from latentrt.runtime.result import Result
from latentrt.runtime.run import Run
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.size import Size
from latentrt.runtime.tasks import ImageToImage, TextToImage

__all__ = [
    "Batcher",
    "BuildFailed",
    "BundleError",
    "Busy",
    "Cancelled",
    "CheckpointError",
    "Closed",
    "DeadlineExceeded",
    "EngineError",
    "FileError",
    "Guidance",
    "ImageToImage",
    "InputError",
    "InternalError",
    "LatentrtError",
    "NonFinite",
    "Pipeline",
    "QueueFull",
    "Request",
    "Result",
    "Run",
    "Sampling",
    "ShapeNotBuilt",
    "Size",
    "Step",
    "Stopped",
    "TextToImage",
    "Unavailable",
    "Unwritable",
    "VerificationFailed",
    "WeightsError",
]

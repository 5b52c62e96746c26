"""Requests to pictures, in NumPy."""

from latentrt.runtime.batcher import Batcher
from latentrt.runtime.guidance import Guidance
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.request import Request
from latentrt.runtime.result import Result
from latentrt.runtime.run import Run
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.size import Size
from latentrt.runtime.trajectory import Step

__all__ = [
    "Batcher",
    "Guidance",
    "Pipeline",
    "Request",
    "Result",
    "Run",
    "Sampling",
    "Size",
    "Step",
]

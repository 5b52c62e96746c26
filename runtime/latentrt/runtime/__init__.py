"""Requests to pictures, in NumPy."""

from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.request import Guidance, Request, Sampling, Size
from latentrt.runtime.result import Result
from latentrt.runtime.run import Run, Step

__all__ = ["Guidance", "Pipeline", "Request", "Result", "Run", "Sampling", "Size", "Step"]

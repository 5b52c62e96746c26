"""Gaussian noise: PyTorch's and NumPy's numbers for a seed, and Brownian paths, without PyTorch."""

from latentrt.runtime.noise.brownian import BrownianNoise
from latentrt.runtime.noise.generators import GENERATORS, noise_stream
from latentrt.runtime.noise.mt19937 import TorchNoise
from latentrt.runtime.noise.pcg64 import NumpyNoise
from latentrt.runtime.noise.philox import PhiloxNoise
from latentrt.runtime.noise.slerp import slerp
from latentrt.runtime.noise.stream import Noise

__all__ = [
    "GENERATORS",
    "BrownianNoise",
    "Noise",
    "NumpyNoise",
    "PhiloxNoise",
    "TorchNoise",
    "noise_stream",
    "slerp",
]

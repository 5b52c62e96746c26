"""The generators that a request can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise.brownian import BrownianNoise
from latentrt.runtime.noise.mt19937 import TorchNoise
from latentrt.runtime.noise.pcg64 import NumpyNoise
from latentrt.runtime.noise.philox import PhiloxNoise
from latentrt.runtime.noise.stream import Noise

__all__ = ["GENERATORS", "noise_stream"]

_STREAMS: Final[Mapping[str, Callable[[int], Noise]]] = MappingProxyType(
    {"torch": TorchNoise, "torch-cuda": PhiloxNoise, "numpy": NumpyNoise}
)

GENERATORS: Final = tuple(_STREAMS)
"""PyTorch's numbers on the CPU, its numbers on a GPU (unverified), and NumPy's."""


def noise_stream(generator: str, seed: int, *, brownian: bool = False) -> Noise:
    """The stream of one of `GENERATORS` for a seed; with `brownian`, a path for SDE samplers too.

    The path is the seed's alone: it is the same for every generator, and reading it leaves the
    stream where it is. Raises InputError for another generator, and for what is no seed.
    """
    stream = _STREAMS.get(generator)
    if stream is None:
        raise InputError("generator", f"one of {', '.join(GENERATORS)}", generator)
    noise = stream(seed)
    return BrownianNoise(noise, seed) if brownian else noise

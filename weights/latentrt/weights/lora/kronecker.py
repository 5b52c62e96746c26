"""LoKr: a Kronecker product of two matrices, each of them whole or a product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.weights.lora.layer import Array, Layer, float32, tucker


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One factor of the product: `whole`, or `a` @ `b`, or `a` x `core` x `b`."""

    whole: NDArray[Any] | None = None
    a: NDArray[Any] | None = None
    b: NDArray[Any] | None = None
    core: NDArray[Any] | None = None

    @property
    def rank(self) -> int | None:
        """The rank of the product, None of a whole factor."""
        return None if self.b is None else self.b.shape[0]

    def value(self) -> Array:
        """float32, as a matrix or with the kernel behind."""
        if self.whole is not None:
            return float32(self.whole)
        assert self.a is not None
        assert self.b is not None
        if self.core is None:
            return float32(self.a) @ float32(self.b)
        return tucker(self.core, self.a, self.b)


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker:
    """factor * kron(first, second), the kernel belonging to the second.

    `first` is [a, c] and `second` [b, d, *kernel] for a weight [a * b, c * d, *kernel]. Source:
    arXiv:2212.10650; arXiv:2309.14859.
    """

    first: Factor
    second: Factor
    sizes: tuple[int, int]
    factor: float
    shape: tuple[int, ...]

    @staticmethod
    def of(layer: Layer) -> Kronecker:
        """Read a layer's factors; raises `WeightsError` where they do not fit the layer.

        Alpha is divided by the rank of the first factor if that is a product, else by that of the
        second. Two whole factors ignore it.
        """
        first, (rows, columns) = _first(layer)
        second = _second(layer, layer.out // rows, layer.inner // columns)
        rank = first.rank or second.rank
        if rank is not None:
            factor = layer.factor(rank)
        else:
            stated = layer.configured
            factor = stated.factor(stated.rank) if stated and stated.rank else 1.0
        return Kronecker(first, second, (rows, columns), factor, layer.shape)

    def delta(self, weight: Array, scale: float) -> Array:
        """The change, float32 of the layer's shape."""
        rows, columns = self.sizes
        positions = math.prod(self.shape[2:])
        first = self.first.value() * np.float32(self.factor * scale)
        second = self.second.value()
        second = second.reshape(self.shape[0] // rows, self.shape[1] // columns, positions)
        product = first[:, None, :, None, None] * second[None, :, None, :, :]
        return product.reshape(self.shape)


def _first(layer: Layer) -> tuple[Factor, tuple[int, int]]:
    if layer.has("lokr_w1"):
        whole = layer.tensor("lokr_w1")
        found, factor = whole.shape, Factor(whole=whole)
    else:
        a = layer.matrix("lokr_w1_a", _rows(layer, "lokr_w1_a"), None)
        b = layer.matrix("lokr_w1_b", a.shape[1], None)
        found, factor = (a.shape[0], b.shape[1]), Factor(a=a, b=b)
    if len(found) != 2 or 0 in found or layer.out % found[0] or layer.inner % found[1]:
        problem = f"lokr_w1 is {list(found)}, which does not divide {[layer.out, layer.inner]}"
        raise layer.wrong(problem)
    return factor, (found[0], found[1])


def _rows(layer: Layer, role: str) -> int | None:
    shape = layer.tensor(role).shape
    return shape[0] if shape else None


def _second(layer: Layer, rows: int, columns: int) -> Factor:
    positions = math.prod(layer.kernel)
    if layer.has("lokr_w2"):
        return Factor(whole=layer.matrix("lokr_w2", rows, columns * positions))
    if layer.has("lokr_t2"):
        a = layer.matrix("lokr_w2_a", None, rows)
        b = layer.matrix("lokr_w2_b", None, columns)
        return Factor(a=a, b=b, core=layer.core("lokr_t2", a.shape[0], b.shape[0]))
    a = layer.matrix("lokr_w2_a", rows, None)
    return Factor(a=a, b=layer.matrix("lokr_w2_b", a.shape[1], columns * positions))

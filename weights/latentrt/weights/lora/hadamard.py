"""LoHa: the elementwise product of two products of matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from latentrt.weights.lora.layer import Array, Layer, float32, tucker


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """One of the two products, `a` @ `b`, or with a core `a` x `core` x `b`.

    `a` is [out, rank] and `b` [rank, in * kernel]; with a core `a` is [rank, out] and `b`
    [rank, in].
    """

    a: NDArray[Any]
    b: NDArray[Any]
    core: NDArray[Any] | None

    @staticmethod
    def of(layer: Layer, number: int, with_core: bool) -> Half:
        """Read half 1 or 2; raises `WeightsError` where it does not fit the layer."""
        first, second = f"hada_w{number}_a", f"hada_w{number}_b"
        if with_core:
            a = layer.matrix(first, None, layer.out)
            b = layer.matrix(second, None, layer.inner)
            return Half(a, b, layer.core(f"hada_t{number}", a.shape[0], b.shape[0]))
        a = layer.matrix(first, layer.out, None)
        b = layer.matrix(second, None, layer.inner * math.prod(layer.kernel))
        if a.shape[1] != b.shape[0]:
            raise layer.wrong(f"{first} has rank {a.shape[1]}, {second} {b.shape[0]}")
        return Half(a, b, None)

    def product(self) -> Array:
        """float32 [out, in * kernel] or [out, in, kernel]."""
        if self.core is None:
            return float32(self.a) @ float32(self.b)
        return tucker(self.core, self.a, self.b)


@dataclass(frozen=True, slots=True, eq=False)
class Hadamard:
    """factor * first * second, elementwise. Source: arXiv:2108.06098, Prop. 1 and 3."""

    first: Half
    second: Half
    factor: float
    shape: tuple[int, ...]

    @staticmethod
    def of(layer: Layer) -> Hadamard:
        """Read a layer's factors; raises `WeightsError` where they do not fit the layer."""
        with_core = layer.has("hada_t1", "hada_t2")
        first, second = (Half.of(layer, number, with_core) for number in (1, 2))
        return Hadamard(first, second, layer.factor(first.b.shape[0]), layer.shape)

    def delta(self, weight: Array, scale: float) -> Array:
        """The change, float32 of the layer's shape."""
        product = self.first.product()
        product *= self.second.product()
        product *= self.factor * scale
        return product.reshape(self.shape)

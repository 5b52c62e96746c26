"""LoRA, and LoCon: a product of two matrices, for convolutions with an optional core between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from latentrt.weights.lora.layer import Array, Layer, float32, tucker


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """factor * up @ down, or factor * up x mid x down.

    `up` is [out, rank] and `down` [rank, in * kernel]. With `mid` [rank, rank, kernel], `down` is
    [rank, in]. Sources: arXiv:2106.09685; LoCon, arXiv:2309.14859.
    """

    up: NDArray[Any]
    down: NDArray[Any]
    mid: NDArray[Any] | None
    factor: float
    shape: tuple[int, ...]

    @staticmethod
    def of(layer: Layer) -> LowRank:
        """Read a layer's factors; raises `WeightsError` where they do not fit the layer."""
        up = layer.matrix("lora_up", layer.out, None)
        if "lora_mid" in layer.tensors:
            down = layer.matrix("lora_down", None, layer.inner)
            mid = layer.core("lora_mid", up.shape[1], down.shape[0])
        else:
            down = layer.matrix("lora_down", None, layer.inner * math.prod(layer.kernel))
            mid = None
            if up.shape[1] != down.shape[0]:
                raise layer.wrong(f"lora_up has rank {up.shape[1]}, lora_down {down.shape[0]}")
        return LowRank(up, down, mid, layer.factor(down.shape[0]), layer.shape)

    def delta(self, weight: Array, scale: float) -> Array:
        """The change, float32 of the layer's shape."""
        if self.mid is None:
            product = float32(self.up) @ float32(self.down)
        else:
            product = tucker(self.mid, self.up.T, self.down)
        product *= self.factor * scale
        return product.reshape(self.shape)

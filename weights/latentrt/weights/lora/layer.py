"""What a LoRA file holds for one layer, and checks that every kind makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import WeightsError

Array = NDArray[np.float32]

LARGEST_RANK: Final = 4096
"""The largest rank that is read. Beyond a layer's own width a higher rank adds nothing."""


class Change(Protocol):
    """The change of one tensor."""

    def delta(self, weight: Array, scale: float) -> Array:
        """What is added to `weight`, float32 of its shape, at a scale."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The tensors that a file holds for one layer, by role.

    `name` is the layer's canonical name and `shape` that of its weight: [out, in, *kernel].
    `alpha` is None where the file has none. `configured` is the factor that PEFT's configuration
    gives for a rank; it counts where there is no alpha.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    tensors: Mapping[str, NDArray[Any]]
    alpha: float | None = None
    configured: Configured | None = None

    @property
    def out(self) -> int:
        """Rows of the weight."""
        return self.shape[0]

    @property
    def inner(self) -> int:
        """Columns of the weight, without the kernel."""
        return self.shape[1]

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel of a convolution, () of a matrix."""
        return self.shape[2:]

    def wrong(self, problem: str) -> WeightsError:
        """The error that this layer has a problem."""
        return WeightsError(self.path, f"layer {self.name!r}: {problem}")

    def has(self, *roles: str) -> bool:
        """Whether the file holds any of these roles."""
        return any(role in self.tensors for role in roles)

    def matrix(self, role: str, rows: int | None, columns: int | None) -> NDArray[Any]:
        """A tensor as [rows, columns], in the stored dtype; None stands for a rank.

        Trailing axes, such as those of a convolution's kernel, count as columns. So a 1x1
        convolution may be stored as a matrix, and a matrix as a 1x1 convolution. Raises
        `WeightsError` if it is missing or does not fit.
        """
        array = self.tensor(role)
        found = (array.shape[0], math.prod(array.shape[1:])) if array.ndim > 1 else (0, 0)
        for size, expected in zip(found, (rows, columns), strict=True):
            if size < 1 or (expected is not None and size != expected):
                text = f"[{_size(rows)}, {_size(columns)}]"
                raise self.wrong(f"{role} is {list(array.shape)}, expected {text}")
            if expected is None and size > LARGEST_RANK:
                raise self.wrong(f"{role} has rank {size}; {LARGEST_RANK} at most is read")
        return array.reshape(found)

    def core(self, role: str, first: int, second: int) -> NDArray[Any]:
        """A Tucker core as [first, second, positions of the kernel], in the stored dtype."""
        array = self.tensor(role)
        expected = (first, second, *self.kernel)
        if array.shape != expected:
            raise self.wrong(f"{role} is {list(array.shape)}, expected {list(expected)}")
        return array.reshape(first, second, math.prod(self.kernel))

    def tensor(self, role: str) -> NDArray[Any]:
        """A tensor as it is stored; raises `WeightsError` if it is missing."""
        if role not in self.tensors:
            raise self.wrong(f"{', '.join(sorted(self.tensors))} without {role}")
        return self.tensors[role]

    def factor(self, rank: int) -> float:
        """alpha / rank, 1 where the file states no alpha."""
        if self.alpha is not None:
            return self.alpha / rank
        return 1.0 if self.configured is None else self.configured.factor(rank)


@dataclass(frozen=True, slots=True)
class Configured:
    """The alpha that PEFT's configuration states for a layer.

    `stabilized` divides it by the root of the rank (arXiv:2312.03732). `rank` is the configured
    rank, which a tensor need not show.
    """

    alpha: float
    rank: int | None
    stabilized: bool

    def factor(self, rank: int) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / (math.sqrt(rank) if self.stabilized else rank)


def _size(expected: int | None) -> str:
    return "rank" if expected is None else str(expected)


def float32(array: NDArray[Any]) -> Array:
    """The same numbers as float32, without a copy where they are."""
    return array.astype(np.float32, copy=False)


def tucker(core: NDArray[Any], first: NDArray[Any], second: NDArray[Any]) -> Array:
    """sum_ij first[i, p] core[i, j, k] second[j, q], as float32 [p, q, k].

    A Tucker-2 decomposition of a convolution (arXiv:1511.06530, eq. 4).
    """
    partial = np.tensordot(float32(first), float32(core), axes=(0, 0))  # [p, j, k]
    product = np.tensordot(partial, float32(second), axes=(1, 0))  # [p, k, q]
    return np.ascontiguousarray(product.transpose(0, 2, 1))

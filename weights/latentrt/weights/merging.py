"""Two or three checkpoints merged into one, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import WeightsError
from latentrt.bundle.tensors import FLOAT8, Entry
from latentrt.weights.finite import is_finite
from latentrt.weights.source import TensorSource

_AVERAGES: Final = "model_ema."
"""Averages of a U-Net's weights that a single file may hold beside the weights."""
_FLOATS: Final = ("float64", "float32", "float16", "bfloat16", *FLOAT8)


class MergedTensors(Mapping[str, NDArray[Any]]):
    """The tensors of a merge, computed when they are read.

    Sums are float32 and rounded once to the dtype that `a` stores. Tensors that hold no floats are
    those of `a`.
    """

    renamed = ""

    def __init__(
        self,
        name: str,
        a: TensorSource,
        b: TensorSource,
        c: TensorSource | None,
        alpha: float,
    ) -> None:
        self._name = name
        self._a = a
        self._b = b
        self._c = c
        self._alpha = alpha
        self._names = tuple(n for n in a if not n.startswith(_AVERAGES))
        others = [b] if c is None else [b, c]
        for other in others:
            _check_fit(name, self._names, a, other, inpainting=c is not None)
        extra = sorted(n for n in b if n not in a and not n.startswith(_AVERAGES))
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        self.notes = (f"{name}: left out {extra[0]}{more}, which A lacks",) if extra else ()

    def entry(self, name: str) -> Entry:
        """Dtype and shape of a tensor, without computing it."""
        stored = self._a.entry(name)
        if stored.dtype.name not in FLOAT8:
            return Entry(name, stored.dtype, stored.shape, 0, stored.nbytes)
        return Entry(name, np.dtype(np.float16), stored.shape, 0, 2 * stored.nbytes)

    def place(self, name: str) -> None:
        """None: a merged tensor lies in no file."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        if self._a.entry(name).dtype.name not in _FLOATS:
            return self._a[name]
        dtype = self.entry(name).dtype
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = self._sum(name).astype(dtype)
        if not is_finite(rounded):
            raise WeightsError(self._name, f"tensor {name!r} does not fit into {dtype} when merged")
        return rounded

    def _sum(self, name: str) -> NDArray[np.float32]:
        a = self._a[name].astype(np.float32)  # copies
        b = self._b[name].astype(np.float32)
        if self._c is None:
            a *= np.float32(1 - self._alpha)
        else:
            b -= self._c[name].astype(np.float32)
        b *= np.float32(self._alpha)
        if a.shape == b.shape:
            a += b
        else:
            a[:, : b.shape[1]] += b
        return a

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def merge(a: TensorSource, b: TensorSource, alpha: float, name: str = "merge") -> MergedTensors:
    """(1 - alpha) * a + alpha * b of one component; alpha 0 is `a`, alpha 1 is `b`.

    `name` is the component's in messages. Raises `WeightsError` for a tensor that `b` lacks or has
    in another shape.
    """
    return MergedTensors(name, a, b, None, alpha)


def add_difference(
    a: TensorSource, b: TensorSource, c: TensorSource, alpha: float, name: str = "merge"
) -> MergedTensors:
    """a + alpha * (b - c) of one component.

    Where `a` takes more input channels than `b` and `c`, as a U-Net for inpainting does, those that
    only `a` has stay. Raises what `merge` raises.
    """
    return MergedTensors(name, a, b, c, alpha)


def _check_fit(
    where: str,
    names: tuple[str, ...],
    a: TensorSource,
    b: TensorSource,
    *,
    inpainting: bool,
) -> None:
    for name in names:
        own = a.entry(name)
        if own.dtype.name not in _FLOATS:
            continue
        if name not in b:
            raise WeightsError(where, f"tensor {name!r} is in A alone: the checkpoints differ")
        shape = b.entry(name).shape
        wider = (
            inpainting
            and len(shape) == len(own.shape) == 4
            and own.shape[1] > shape[1]
            and (own.shape[0], *own.shape[2:]) == (shape[0], *shape[2:])
        )
        if own.shape != shape and not wider:
            problem = f"tensor {name!r} is {own.shape} in A and {shape} in another checkpoint"
            raise WeightsError(where, problem)
        if b.entry(name).dtype.name not in _FLOATS:
            raise WeightsError(where, f"tensor {name!r} is {b.entry(name).dtype}, not a float")

"""How two checkpoints differ, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentrt.weights.source import TensorSource


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How a tensor differs from another of its name.

    `norm` is that of `a`, `distance` that of b - a, both Euclidean in float64. `changed` counts the
    parameters that differ, of `count`. `problem` says why two tensors cannot be compared, "" if
    they can.
    """

    name: str
    count: int
    norm: float = 0.0
    distance: float = 0.0
    largest: float = 0.0
    changed: int = 0
    problem: str = ""

    @property
    def relative(self) -> float:
        """||b - a|| / ||a||."""
        return _ratio(self.distance, self.norm)


@dataclass(frozen=True, slots=True)
class Summary:
    """The differences of several tensors taken together."""

    tensors: int
    changed_tensors: int
    count: int
    changed: int
    relative: float
    largest: float
    problems: int

    @staticmethod
    def of(differences: Iterable[TensorDifference]) -> Summary:
        """The sum over tensors."""
        found = list(differences)
        norm = math.sqrt(sum(d.norm**2 for d in found))
        distance = math.sqrt(sum(d.distance**2 for d in found))
        return Summary(
            tensors=len(found),
            changed_tensors=sum(1 for d in found if d.changed or d.problem),
            count=sum(d.count for d in found),
            changed=sum(d.changed for d in found),
            relative=_ratio(distance, norm),
            largest=max((d.largest for d in found), default=0.0),
            problems=sum(1 for d in found if d.problem),
        )


def diff(a: TensorSource, b: TensorSource) -> Iterator[TensorDifference]:
    """The differences of one component's tensors, sorted by name, with two in memory at a time."""
    for name in sorted({*a, *b}):
        if name not in b or name not in a:
            side, source = ("A", a) if name in a else ("B", b)
            count = math.prod(source.entry(name).shape)
            yield TensorDifference(name, count, problem=f"in {side} alone")
        elif a.entry(name).shape != b.entry(name).shape:
            text = f"{list(a.entry(name).shape)} in A, {list(b.entry(name).shape)} in B"
            yield TensorDifference(name, math.prod(a.entry(name).shape), problem=text)
        else:
            yield _difference(name, a, b)


def _difference(name: str, a: TensorSource, b: TensorSource) -> TensorDifference:
    first, second = a[name].astype(np.float32), b[name].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        distance = second - first
    return TensorDifference(
        name,
        first.size,
        norm=_norm(first),
        distance=_norm(distance),
        largest=float(np.abs(distance).max(initial=0.0)),
        changed=int(np.count_nonzero(distance)),
    )


def _norm(array: NDArray[np.float32]) -> float:
    return math.sqrt(float(np.square(array, dtype=np.float64).sum()))


def _ratio(distance: float, norm: float) -> float:
    if norm == 0:
        return 0.0 if distance == 0 else math.inf
    return distance / norm

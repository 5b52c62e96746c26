"""Rows of model calls: what a component is asked about one picture, and many in one call."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Engine

Arrays = Mapping[str, NDArray[Any]]
"""Named arrays without a batch axis."""
Outputs = Mapping[str, NDArray[np.float32]]
"""What a component gave for one row: float32 arrays without a batch axis."""


_BY_VAE: Final = ("vae_", "upscaler")
"""Beginnings of the names of components whose rows wait for the VAE's lane."""


@dataclass(frozen=True, eq=False)
class Model:
    """A component with its weights. Rows share a call only where their model is the same object.

    `inputs` are those of its graph; `engine` gives the engine for the sizes of its symbols. It
    takes a progress as well, which it calls with what is done for an engine that is opened.
    """

    component: str
    inputs: tuple[TensorSpec, ...]
    engine: Callable[..., Engine]

    @property
    def kind(self) -> str:
        """ "vae" or "unet": rows of one kind wait in one lane, and have the same batch sizes."""
        return "vae" if self.component.startswith(_BY_VAE) else "unet"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """What one model is asked about one picture: the graph's inputs, by name.

    The arrays of `changing` differ from step to step. `constant` is one object for as long as its
    arrays stay the same, so that they are copied once. `negative`: it is for the negative prompt.
    """

    model: Model
    changing: Arrays
    constant: Arrays = field(default_factory=dict[str, NDArray[Any]])
    negative: bool = False

    @property
    def key(self) -> object:
        """Rows with equal keys can share a call: model, names, shapes and dtypes."""
        arrays = sorted({**self.changing, **self.constant}.items())
        return self.model, tuple((name, a.shape, a.dtype.name) for name, a in arrays)

    def sizes(self, batch: int) -> dict[str, int]:
        """The sizes of the model's symbols, for an engine of `batch` rows."""
        found = {"batch": batch}
        arrays = {**self.changing, **self.constant}
        for spec in self.model.inputs:
            shape = arrays[spec.name].shape
            for dim, size in zip(spec.dims[1:], shape, strict=True):
                if isinstance(dim, str) and dim.isidentifier():
                    found[dim] = size
        return found


@dataclass(frozen=True, slots=True)
class Need:
    """An engine that a run calls: `rows` are those of one picture, `sizes` the other symbols'."""

    model: Model
    rows: int
    sizes: tuple[tuple[str, int], ...]

    @staticmethod
    def of(row: Row, rows: int) -> Need:
        """For as many rows as this one."""
        return Need(row.model, rows, tuple(sorted(row.sizes(1).items())))

    def at(self, batch: int) -> dict[str, int]:
        """The sizes of the model's symbols, for an engine of `batch` rows."""
        return {**dict(self.sizes), "batch": batch}


_Found = TypeVar("_Found")
Evaluation = Generator[Sequence[Row], Sequence[Outputs], _Found]
"""Yields rows, is sent what the models gave for each, and returns what came of it."""


class Batch:
    """The input arrays of one engine, filled with rows call after call. Not thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._arrays: dict[str, NDArray[Any]] = {
            spec.name: np.zeros(spec.shape({}), spec.dtype) for spec in engine.inputs
        }
        self.size = len(next(iter(self._arrays.values())))
        self._held: list[Arrays | None] = [None] * self.size

    def __call__(self, rows: Sequence[Row]) -> list[Outputs]:
        """The outputs of 1 to `size` rows of this engine's shapes.

        Places that are left over repeat the first row: whatever they held before might be slow or
        not finite.
        """
        if not 1 <= len(rows) <= self.size:
            raise InputError("rows", f"1 to {self.size}", len(rows))
        for place in range(self.size):
            self._put(place, rows[place] if place < len(rows) else rows[0])
        outputs = {
            name: array.astype(np.float32, copy=False)
            for name, array in self._engine(self._arrays).items()
        }
        return [{name: array[i] for name, array in outputs.items()} for i in range(len(rows))]

    def _put(self, place: int, row: Row) -> None:
        for name, array in row.changing.items():
            self._arrays[name][place] = array
        if self._held[place] is not row.constant:
            for name, array in row.constant.items():
                self._arrays[name][place] = array
            self._held[place] = row.constant


class Batches:
    """The batches of rows with one key, each made when it is first needed. Not thread-safe.

    `first` is one of the rows; `sizes` are the batch sizes there are, ascending.
    """

    def __init__(self, first: Row, sizes: Sequence[int]) -> None:
        self._first = first
        self._sizes = sizes
        self._made: dict[int, Batch] = {}

    def fitting(self, count: int) -> Batch:
        """The smallest that holds `count` rows."""
        size = next(size for size in self._sizes if size >= count)
        if size not in self._made:
            self._made[size] = Batch(self._first.model.engine(self._first.sizes(size)))
        return self._made[size]


class Calls:
    """Calls of compiled batch sizes, which are given by the kind of model. Not thread-safe.

    It keeps no arrays: who makes calls holds the `batches` of its rows for as long as it has any.
    """

    def __init__(self, sizes: Mapping[str, Sequence[int]]) -> None:
        self._sizes = sizes
        self._batches: WeakValueDictionary[object, Batches] = WeakValueDictionary()

    def most(self, row: Row) -> int:
        """The most rows that a call for this row's model can have."""
        return self._sizes[row.model.kind][-1]

    def batches(self, row: Row) -> Batches:
        """The batches for rows with this one's key."""
        key = row.key
        found = self._batches.get(key)
        if found is None:
            found = self._batches[key] = Batches(row, self._sizes[row.model.kind])
        return found

    def together(self, rows: Sequence[Row]) -> list[Outputs]:
        """The outputs of rows with one key, in one call of the smallest batch that holds them."""
        return self.batches(rows[0]).fitting(len(rows))(rows)

    def answer(self, evaluation: Evaluation[_Found]) -> _Found:
        """Drive one evaluation to its end, if it asks at all; its rows with one key share calls."""
        held: dict[object, Batches] = {}
        go_on = partial(next, evaluation)
        while True:
            try:
                rows = go_on()
            except StopIteration as finished:
                return finished.value
            held |= {row.key: self.batches(row) for row in rows}
            go_on = partial(evaluation.send, self._outputs(rows))

    def _outputs(self, rows: Sequence[Row]) -> list[Outputs]:
        found: dict[int, Outputs] = {}
        keys = [row.key for row in rows]
        for key in dict.fromkeys(keys):
            places = [place for place, own in enumerate(keys) if own == key]
            most = self.most(rows[places[0]])
            for first in range(0, len(places), most):
                some = places[first : first + most]
                outputs = self.together([rows[place] for place in some])
                found |= zip(some, outputs, strict=True)
        return [found[place] for place in range(len(rows))]

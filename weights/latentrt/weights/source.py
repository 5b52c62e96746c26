"""The source of an export: configs and tensors by folder, from files or random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from latentrt.bundle.tensors import Entry, Place

Config = Mapping[str, Any]


class TensorSource(Protocol):
    """Named arrays whose dtype and shape are known before they are read.

    `place` tells where an array lies unchanged in a file, None if it lies in none.
    """

    renamed: str
    notes: tuple[str, ...]

    def entry(self, name: str) -> Entry: ...
    def place(self, name: str) -> Place | None: ...
    def __getitem__(self, name: str) -> NDArray[Any]: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...


class Source(Protocol):
    """A checkpoint: a folder, a file, or random weights.

    `notes` have a sentence for each thing that was inferred of it as a whole.
    """

    @property
    def name(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def index(self) -> Mapping[str, Any]: ...
    def config(self, folder: str) -> Mapping[str, Any]: ...
    def tensors(self, folder: str) -> TensorSource: ...
    def tokenizer(self, folder: str) -> dict[str, bytes]: ...

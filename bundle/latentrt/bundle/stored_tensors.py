"""A component's tensors under canonical names, wherever in a bundle's files they lie.

A bundle that latentrt wrote has one file a component with these names. One that points into a
checkpoint's own file has a table instead, which says where each tensor lies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import BundleError
from latentrt.bundle.files import Field, read_object
from latentrt.bundle.tensors import DTYPES, Entry, Place, TensorFile

_LARGEST: Final = 2**53
_NAMES: Final = {dtype: code for code, dtype in DTYPES.items()}

Location = tuple[str, Entry]
"""A file, by its path in the bundle, and a tensor's range in it."""


class StoredTensors(Mapping[str, NDArray[Any]]):
    """Arrays by canonical name; an array is a view of a mapped file.

    `files` are the opened files by their paths in the bundle.
    """

    renamed = ""
    notes: tuple[str, ...] = ()

    def __init__(self, files: Mapping[str, TensorFile], locations: Mapping[str, Location]) -> None:
        self._files = files
        self.locations = locations

    @staticmethod
    def of(name: str, file: TensorFile) -> StoredTensors:
        """All tensors of one file, under their own names."""
        return StoredTensors({name: file}, {e.name: (name, e) for e in file.entries.values()})

    @staticmethod
    def read(table: Path, file: Callable[[str], Path]) -> StoredTensors:
        """The tensors of a table; raises `BundleError` naming what is malformed.

        `file` gives a file of the bundle by its path there.
        """
        try:
            members = Field("", read_object(table)).members()
            locations = {name: _location(name, field) for name, field in members.items()}
            files = {name: TensorFile(file(name)) for name in {n for n, _ in locations.values()}}
            for name, entry in locations.values():
                files[name].check_range(entry)
        except ValueError as error:
            raise BundleError(table, f"is malformed: {error}") from error
        return StoredTensors(files, locations)

    def entry(self, name: str) -> Entry:
        """Dtype and shape of a tensor, without reading it."""
        return self.locations[name][1]

    def place(self, name: str) -> Place:
        """Where a tensor lies."""
        file, entry = self.locations[name]
        return Place(self._files[file].path, entry)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for _, entry in self.locations.values())

    def __getitem__(self, name: str) -> NDArray[Any]:
        file, entry = self.locations[name]
        return self._files[file].view(entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self.locations)

    def __len__(self) -> int:
        return len(self.locations)


def table_json(locations: Mapping[str, Location]) -> str:
    """A table as `StoredTensors.read` reads it."""
    table = {
        name: {
            "file": file,
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "begin": entry.begin,
        }
        for name, (file, entry) in sorted(locations.items())
    }
    return json.dumps(table, separators=(",", ":"))


def _location(name: str, field: Field) -> Location:
    dtype = DTYPES[field.at("dtype").one_of(DTYPES)]
    shape = tuple(item.whole(0, _LARGEST) for item in field.at("shape").items())
    begin = field.at("begin").whole(0, _LARGEST)
    nbytes = dtype.itemsize * int(np.prod([1, *shape], dtype=object))
    return field.at("file").text(), Entry(name, dtype, shape, begin, begin + nbytes)

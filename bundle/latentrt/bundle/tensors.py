"""Tensor files: `.safetensors` read through a memory map and written in one canonical layout.

The format is 8 bytes of little-endian header length, a JSON header, then the raw tensors
(https://github.com/huggingface/safetensors#format). The header is checked before anything is
allocated from it, because a hostile one can name a million empty tensors or overlap them.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import WeightsError
from latentrt.bundle.files import open_file, unique

MAX_HEADER_BYTES: Final = 16 << 20
MAX_TENSORS: Final = 65_536
HEADER_ALIGNMENT: Final = 4096
"""Written headers are padded to a multiple of this, so equal tensor lists have equal offsets."""

DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "F64": np.dtype(np.float64),
        "F32": np.dtype(np.float32),
        "F16": np.dtype(np.float16),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "I64": np.dtype(np.int64),
        "I32": np.dtype(np.int32),
        "I16": np.dtype(np.int16),
        "I8": np.dtype(np.int8),
        "U8": np.dtype(np.uint8),
        "BOOL": np.dtype(np.bool_),
    }
)
_CODES: Final = {dtype: code for code, dtype in DTYPES.items()}
_READ_ONLY: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
        "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
        "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
        "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    }
)
"""Dtypes that are read, and never written."""
_READABLE: Final = {**DTYPES, **_READ_ONLY}
FLOAT8: Final = tuple(dtype.name for dtype in _READ_ONLY.values())
"""Names of the dtypes of eight bits."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: its dtype, shape, and absolute byte range `[begin, end)`."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a tensor lie in a file, in the tensor's element order.

    `entry` has the byte range, the dtype as stored, and the tensor's shape.
    """

    path: Path
    entry: Entry


class TensorFile(Mapping[str, NDArray[Any]]):
    """A read-only mapping of names to arrays; an array is a view of the mapped file.

    `metadata` has the texts that the header holds beside the tensors.
    Raises `WeightsError` for a truncated file and for a header that is too long. The header may
    neither list a name twice, nor leave gaps or overlaps, nor have an unknown dtype.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_file(path) as file:
                size = os.fstat(file.fileno()).st_size
                header = _read_header(path, file.read(8), file.read, size)
                self.entries, self.metadata = header
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise WeightsError(path, f"cannot be read: {error.strerror or error}") from error

    def __getitem__(self, name: str) -> NDArray[Any]:
        entry = self.entries[name]
        flat = np.frombuffer(
            self._map,
            dtype=entry.dtype,
            count=entry.nbytes // entry.dtype.itemsize,
            offset=entry.begin,
        )
        return flat.reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _read_header(
    path: Path, prefix: bytes, read: Callable[[int], bytes], size: int
) -> tuple[dict[str, Entry], dict[str, str]]:
    if len(prefix) < 8:
        raise WeightsError(path, "is not a safetensors file: shorter than its 8-byte prefix")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise WeightsError(path, f"header of {length} bytes exceeds {MAX_HEADER_BYTES}")
    if 8 + length > size:
        raise WeightsError(path, f"is truncated: header ends at {8 + length} of {size} bytes")
    try:
        header: object = json.loads(read(length), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(path, f"header is not valid: {error}") from error
    if not isinstance(header, dict):
        raise WeightsError(path, "header is not a JSON object")
    fields = cast("dict[str, Any]", header)
    stated: object = fields.pop("__metadata__", None)
    texts = cast("dict[str, object]", stated) if isinstance(stated, dict) else {}
    metadata = {key: text for key, text in texts.items() if isinstance(text, str)}
    if len(fields) > MAX_TENSORS:
        raise WeightsError(path, f"lists {len(fields)} tensors, more than {MAX_TENSORS}")
    entries = [_entry(path, name, value, 8 + length) for name, value in fields.items()]
    entries.sort(key=lambda e: (e.begin, e.end))
    position = 8 + length
    for entry in entries:
        if entry.begin != position:
            raise WeightsError(path, f"tensor {entry.name!r} overlaps another or leaves a gap")
        position = entry.end
    if position != size:
        word = "truncated" if position > size else "longer than its tensors"
        raise WeightsError(path, f"is {word}: tensors end at {position} of {size} bytes")
    return {e.name: e for e in entries}, metadata


def _entry(path: Path, name: str, value: Any, base: int) -> Entry:
    try:
        dtype, shape = _READABLE[value["dtype"]], tuple(index(n) for n in value["shape"])
        begin, end = (index(n) + base for n in value["data_offsets"])
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(path, f"tensor {name!r} has a malformed entry: {value}") from error
    expected = dtype.itemsize
    for n in shape:
        expected *= n
    if min(shape, default=0) < 0 or end - begin != expected:
        raise WeightsError(
            path, f"tensor {name!r} of shape {shape} needs {expected} bytes, has {end - begin}"
        )
    return Entry(name, dtype, shape, begin, end)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor of a canonical file lies: names sorted, the header padded."""

    header: bytes
    entries: Mapping[str, Entry]

    @staticmethod
    def of(tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> Layout:
        """The canonical layout of these names, dtypes and shapes."""
        fields: dict[str, Any] = {}
        position = 0
        spans: list[tuple[str, np.dtype[Any], tuple[int, ...], int, int]] = []
        for name in sorted(tensors):
            dtype, shape = tensors[name]
            end = position + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            fields[name] = {
                "dtype": _CODES[dtype],
                "shape": list(shape),
                "data_offsets": [position, end],
            }
            spans.append((name, dtype, shape, position, end))
            position = end
        text = json.dumps(fields, separators=(",", ":")).encode()
        total = -(-(8 + len(text)) // HEADER_ALIGNMENT) * HEADER_ALIGNMENT
        header = (total - 8).to_bytes(8, "little") + text.ljust(total - 8)
        entries = {n: Entry(n, d, s, b + total, e + total) for n, d, s, b, e in spans}
        return Layout(header, entries)


def write_tensors(
    path: Path,
    layout: Layout,
    load: Callable[[str], NDArray[Any]],
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write a canonical file, with one tensor in memory at a time.

    `load(name)` returns the array, with the layout's shape and dtype. `advance` is called with each
    number of bytes written.
    """
    with open(path, "wb") as file:
        file.write(layout.header)
        for name, entry in layout.entries.items():
            array = load(name)
            if array.dtype != entry.dtype or array.shape != entry.shape:
                raise WeightsError(
                    path,
                    f"tensor {name!r}: expected {entry.shape} {entry.dtype}, "
                    f"got {array.shape} {array.dtype}",
                )
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            if advance is not None:
                advance(entry.nbytes)
        file.flush()
        os.fsync(file.fileno())


def save_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a mapping of arrays that are all in memory."""
    layout = Layout.of({n: (a.dtype, a.shape) for n, a in tensors.items()})
    write_tensors(path, layout, lambda name: tensors[name])

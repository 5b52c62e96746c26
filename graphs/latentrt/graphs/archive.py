"""Graphs of one architecture in one compressed file.

They are one graph at several dtypes, so each is nearly a copy of the one before it. Compressed
together they take little more than one.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from typing import Any, Final

LARGEST: Final = 256 << 20
"""Bytes that an archive may unpack to."""


def pack(graphs: Mapping[str, bytes]) -> bytes:
    """Graphs by name, compressed."""
    header = json.dumps({name: len(content) for name, content in graphs.items()}).encode()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    content = b"\n".join((header, b"".join(graphs.values())))
    return lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_SHA256, filters=filters)


def unpack(content: bytes) -> dict[str, bytes]:
    """What `pack` packed; raises `ValueError` for bytes that it did not write."""
    try:
        whole = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(content, LARGEST)
        header, _, rest = whole.partition(b"\n")
        sizes: dict[str, Any] = json.loads(header)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(str(error)) from error
    found: dict[str, bytes] = {}
    begin = 0
    for name, size in sizes.items():
        found[name] = rest[begin : begin + size]
        begin += size
    if begin != len(rest):
        raise ValueError("the archive is cut off")
    return found

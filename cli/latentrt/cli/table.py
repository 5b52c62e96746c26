"""Aligned tables that fit the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console

_GAP = "  "
_INDENT = "    "


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print columns below their heads, those with an index in `right` aligned there.

    Columns that do not fit the terminal's width continue on further lines of the row, indented. A
    cell is never cut or broken. Without a terminal there is no limit.
    """
    console = Console()
    limit = console.width if console.is_terminal else None
    for number, line in enumerate(_lines([heads, *rows], frozenset(right), limit)):
        if number or any(heads):
            print(line)


def _lines(
    rows: Sequence[Sequence[str]], right: frozenset[int], limit: int | None
) -> Iterator[str]:
    widths = [max(map(cell_len, column)) for column in zip_longest(*rows, fillvalue="")]
    groups = _groups(widths, limit)
    for row in rows:
        for number, group in enumerate(groups):
            cells = [(row[i] if i < len(row) else "", widths[i], i in right) for i in group]
            line = _GAP.join(_aligned(*cell) for cell in cells).rstrip()
            if not number or line:
                yield _INDENT * bool(number) + line


def _groups(widths: Sequence[int], limit: int | None) -> list[list[int]]:
    """The columns of each line of a row."""
    groups: list[list[int]] = [[]]
    used = 0
    for index, width in enumerate(widths):
        if groups[-1] and limit is not None and used + len(_GAP) + width > limit:
            groups.append([])
            used = len(_INDENT)
        used += width + (len(_GAP) if groups[-1] else 0)
        groups[-1].append(index)
    return groups


def _aligned(cell: str, width: int, right: bool) -> str:
    padding = " " * (width - cell_len(cell))
    return padding + cell if right else cell + padding

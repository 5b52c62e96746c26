"""What stands in the README's tables: Markdown rows, and numbers with their units."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def decibels(psnr: float | None) -> str:
    """A PSNR in dB; None is that of equal pictures."""
    return "equal" if psnr is None else f"{psnr:.0f} dB"


def seconds_of(seconds: float | None) -> str:
    """In seconds or milliseconds; nothing for None."""
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def milliseconds(seconds: float, digits: int = 3) -> str:
    """Seconds in milliseconds."""
    return f"{1e3 * seconds:.{digits}f} ms"

"""Escape sequences that show a picture on a terminal: kitty's, iTerm2's and sixel.

Sources: https://sw.kovidgoyal.net/kitty/graphics-protocol/,
https://iterm2.com/documentation-images.html and https://vt100.net/docs/vt3xx-gp/chapter14.html.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Protocol = Callable[["Image.Image", int, int], str]
"""A picture, the rows of text that it fills and pixels a row to an escape sequence."""

_CHUNK: Final = 4096
"""Most base64 characters in one of kitty's sequences."""
_ESCAPE: Final = "\x1b"
_STRING_END: Final = "\x1b\\"
_COLOURS: Final = 128
"""Of a sixel picture; terminals have 256 or more."""
_BAND: Final = 6
"""Rows of pixels in a row of sixels."""


def terminal_protocol(environment: Mapping[str, str]) -> Protocol | None:
    """How a terminal shows pictures, by its environment variables; None if it is not known to.

    Nothing is asked of the terminal itself. Inside tmux or screen it is None: they show none.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("tmux", "screen")):
        return None
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
        return kitty
    if program == "ghostty" or "KONSOLE_VERSION" in environment:
        return kitty
    if program in ("iTerm.app", "WezTerm", "mintty"):
        return iterm
    if environment.get("LC_TERMINAL") == "iTerm2":  # which ssh passes on
        return iterm
    if term.startswith(("foot", "mlterm", "contour", "yaft")) or "sixel" in term:
        return sixel
    return None


def kitty(picture: Image.Image, rows: int, pixels: int) -> str:
    """By kitty's graphics protocol; a picture of the same process takes the place of the last."""
    del pixels
    content = base64.b64encode(_png(picture)).decode()
    chunks = [content[i : i + _CHUNK] for i in range(0, len(content), _CHUNK)]
    # q=2: the terminal answers nothing. C=1: the cursor stays.
    first = f"a=T,f=100,i={os.getpid()},p=1,q=2,C=1,r={rows},"
    keys = [first, *[""] * (len(chunks) - 1)]
    more = [1] * (len(chunks) - 1) + [0]
    return "".join(
        f"{_ESCAPE}_G{key}m={left};{chunk}{_STRING_END}"
        for key, left, chunk in zip(keys, more, chunks, strict=True)
    )


def iterm(picture: Image.Image, rows: int, pixels: int) -> str:
    """As an inline image of iTerm2."""
    del pixels
    content = _png(picture)
    keys = f"inline=1;size={len(content)};height={rows};preserveAspectRatio=1"
    return f"{_ESCAPE}]1337;File={keys}:{base64.b64encode(content).decode()}\x07"


def sixel(picture: Image.Image, rows: int, pixels: int) -> str:
    """As sixels: the largest multiple of the picture's size that is no higher than the rows."""
    room = rows * pixels
    if picture.height > room:
        picture = picture.resize((max(1, picture.width * room // picture.height), room))
    scale = room // picture.height
    reduced = picture.quantize(_COLOURS)
    palette = np.array(reduced.getpalette(), np.int64).reshape(-1, 3)
    places = np.kron(np.asarray(reduced), np.ones((scale, scale), np.uint8))
    height, width = places.shape
    hundredths = np.rint(palette / 2.55).astype(int).tolist()
    defined = "".join(f"#{i};2;{r};{g};{b}" for i, (r, g, b) in enumerate(hundredths))
    bands = "-".join(_band(places[top : top + _BAND]) for top in range(0, height, _BAND))
    return f'{_ESCAPE}P0;1q"1;1;{width};{height}{defined}{bands}{_STRING_END}'


def _band(places: NDArray[np.uint8]) -> str:
    """One row of sixels: a line for each colour that is in it, over one another."""
    bits = 1 << np.arange(len(places))
    lines = [
        f"#{colour}{''.join(_runs((places == colour).T @ bits))}" for colour in np.unique(places)
    ]
    return "$".join(lines)


def _runs(values: NDArray[np.int64]) -> Iterator[str]:
    """Sixels of 0 to 63 with repetitions counted."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    counts = np.diff(np.r_[starts, len(values)])
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        letter = chr(63 + int(values[start]))
        yield f"!{count}{letter}" if count > 3 else letter * count


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

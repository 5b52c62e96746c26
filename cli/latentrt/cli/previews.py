"""`latentrt generate --preview`: what is being drawn, on the terminal or in a file."""

from __future__ import annotations

import io
import math
import os
import struct
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from latentrt.bundle.errors import InputError
from latentrt.bundle.publish import write_file
from latentrt.cli.places import OUTPUT, Place, check_writable, same
from latentrt.cli.progress import Bars
from latentrt.cli.terminal_pictures import terminal_protocol
from latentrt.runtime import Step

if TYPE_CHECKING:
    from PIL import Image

_INTERVAL: Final = 0.25
_ROWS: Final = 20
_KEPT: Final = 6
"""Rows of the terminal that are left for the bars."""
_PIXELS: Final = 14
"""Height of a row where the terminal does not say it: fewer pixels than most have."""


class Previews:
    """Shows the newest step by a function, every quarter of a second at most; then `end` is called.

    The last step of a picture is always shown.
    """

    def __init__(self, show: Callable[[Image.Image], None], end: Callable[[], None]) -> None:
        self._show = show
        self._end = end
        self._shown = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def __call__(self, step: Step) -> None:
        """Show a step, unless another was shown a moment ago."""
        last = step.index + 1 == step.total
        if last or time.monotonic() - self._shown >= _INTERVAL:
            self._show(step.preview(fast=True))
            self._shown = time.monotonic()


def preview_file(output: Path | None) -> Path:
    """The file of the previews of a picture: `fox.preview.png` beside `fox.jpg`."""
    path = OUTPUT if output is None else output
    return path.with_name(f"{path.stem}.preview.png")


def previews_of(
    bars: Bars,
    pictures: Place,
    output: Path | None,
    factor: int,
    used: Mapping[str, Path | None],
) -> Previews:
    """Previews above the bars on a terminal that shows pictures, else in a file.

    The last one stays on the terminal; the file is removed at the end. `factor` is pixels per place
    of a latent; `used` are the command's other files, by option. Raises `InputError` where there is
    no place for them.
    """
    protocol = terminal_protocol(os.environ) if bars.terminal else None
    rows = min(_ROWS, bars.height - _KEPT)
    if protocol is not None and rows > 1:
        pixels = _row_pixels(bars.descriptor)
        return Previews(lambda p: bars.show(protocol(p, rows, pixels), rows), lambda: None)
    if pictures.folder is None:
        raise InputError("preview", "a file for the picture", "-o -, standard output")
    path = preview_file(output)
    check_writable("preview", path)
    for option, given in used.items():
        if given is not None and same(path, given):
            raise InputError("preview", f"another file than the one of --{option}", path)
    if pictures.takes(path):
        raise InputError("preview", "another file than the picture's", path)
    return Previews(partial(_write, path, factor), partial(path.unlink, missing_ok=True))


def _write(path: Path, factor: int, picture: Image.Image) -> None:
    """Write a preview of the picture's size."""
    from PIL import Image

    size = (picture.width * factor, picture.height * factor)
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG", compress_level=1)
    write_file(path, buffer.getvalue())


def _row_pixels(descriptor: int | None) -> int:
    """Height of a row of text in pixels, as the terminal's driver says without a query."""
    try:
        import fcntl
        import termios
    except ImportError:  # Windows
        return _PIXELS
    if descriptor is None:
        return _PIXELS
    try:
        answer = fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return _PIXELS
    rows, _, _, height = struct.unpack("4H", answer)
    return height // rows if rows and height >= rows else _PIXELS

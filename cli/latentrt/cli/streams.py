"""Standard output and standard error that never fail on a letter or a closed pipe."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Generator
from typing import Any, TextIO, cast

_ENCODE = "latentrt.replace"


@contextlib.contextmanager
def standard_streams() -> Generator[None]:
    """Within the block no letter and no closed pipe ends a command.

    A letter that the encoding lacks becomes a question mark. A byte that is not text, as in some
    file names, is written unchanged. Output to a closed pipe is dropped, and so is everything that
    standard error cannot take. If standard output cannot be written for another reason, such as a
    full disk, printing raises `OSError` of the file "standard output".
    """
    codecs.register_error(_ENCODE, _encode)
    _fill_closed()
    before = sys.stdout, sys.stderr
    sys.stdout = _lasting(sys.stdout, _Output, _ENCODE)
    sys.stderr = _lasting(sys.stderr, _Error, "backslashreplace")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # pyright: ignore[reportUnnecessaryComparison]
                # A failed write was reported already.
                with contextlib.suppress(OSError):
                    stream.flush()
        sys.stdout, sys.stderr = before


def write_bytes(content: bytes) -> None:
    """Write bytes to standard output, as `print` writes text there; raises what that raises."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        if not isinstance(sys.stdout, _Output):
            raise
        sys.stdout.lose(error)


class _Output(io.TextIOWrapper):
    """Standard output."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.lose(error)

    def lose(self, error: OSError) -> None:
        """Discard output from now on; raises `OSError` unless the error is forgiven."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not self.forgives(error):
            raise OSError(error.errno, error.strerror, "standard output") from error

    def forgives(self, error: OSError) -> bool:
        """Whether the command goes on."""
        return isinstance(error, BrokenPipeError)


class _Error(_Output):
    """Standard error: an error that it cannot take has no other place."""

    def forgives(self, error: OSError) -> bool:
        return True


def _lasting(stream: Any, kind: type[_Output], errors: str) -> TextIO:
    if not hasattr(stream, "reconfigure"):  # None, or a program's own
        return stream
    stream.reconfigure(errors=errors)
    try:
        descriptor = stream.fileno()
    except OSError:
        return stream
    terminal = stream.isatty()
    if os.name == "nt" and terminal:  # a console of Windows is no file
        return stream
    stream.flush()
    lasting = kind(
        open(descriptor, "wb", closefd=False),  # noqa: SIM115
        encoding=stream.encoding,
        errors=errors,
        line_buffering=terminal or stream.line_buffering or stream.write_through,
    )
    return cast("TextIO", lasting)


def _fill_closed() -> None:
    """Open closed standard streams: else the next file opened would become one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("replace")(error)

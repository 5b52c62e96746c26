"""Every error that latentrt raises, sorted by what the caller does next.

`InputError`: mend the argument. `FileError`: mend the file. `EngineError`: get or build an engine.
`NonFinite`: take another precision. `Stopped`: nothing, the run was ended on request. `Busy`: try
again later. `Closed`: open another pipeline or batcher. `InternalError`: report a bug. A message
names the thing that is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

__all__ = [
    "BuildFailed",
    "BundleError",
    "Busy",
    "Cancelled",
    "CheckpointError",
    "Closed",
    "DeadlineExceeded",
    "EngineError",
    "FileError",
    "InputError",
    "InternalError",
    "LatentrtError",
    "NonFinite",
    "QueueFull",
    "ShapeNotBuilt",
    "Stopped",
    "Unavailable",
    "Unwritable",
    "VerificationFailed",
    "WeightsError",
]


class LatentrtError(Exception):
    """The root of the tree.

    `pickle` and `copy` keep an error's class, message and attributes, of subclasses too: a process
    can hand its error to another.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is made again by calling its class with `args`, which are the message's.
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[LatentrtError], args: tuple[object, ...]) -> LatentrtError:
    """An error of a class without a call of its `__init__`."""
    return kind.__new__(kind, *args)


class InputError(LatentrtError, ValueError):
    """An argument that cannot be used: which one, what would do, and what came (as text)."""

    def __init__(self, field: str, expected: str, got: object) -> None:
        # As text: the value itself may be large, and of a kind that cannot be pickled.
        self.field = field
        self.expected = expected
        self.got = str(got)
        super().__init__(f"{field}: expected {expected}, got {self.got}")


class Unwritable(InputError):
    """A place that cannot be written: no room, no permission, or not what it should be."""


class FileError(LatentrtError):
    """A file or folder that is missing, damaged or not what it should be."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)
        self.problem = problem


class BundleError(FileError):
    """A bundle that is incomplete, changed, or written by another schema version."""


class CheckpointError(FileError):
    """A checkpoint that cannot be exported."""


class WeightsError(FileError):
    """A weights file that is damaged or does not fit its graph."""


class EngineError(LatentrtError):
    """An engine that cannot be had or cannot be trusted."""


class Unavailable(EngineError):
    """A backend that is not installed or has no device here."""


class ShapeNotBuilt(EngineError):
    """No engine of this shape exists and building one was not allowed."""


class BuildFailed(EngineError):
    """A backend refused to compile a graph."""


class VerificationFailed(EngineError):
    """An engine's outputs are further from the reference than its tolerance."""


class NonFinite(LatentrtError):
    """A component returned NaN or infinity."""

    def __init__(self, component: str, step: int | None = None) -> None:
        at = "" if step is None else f" at step {step}"
        super().__init__(f"{component} returned a value that is not finite{at}")
        self.component = component
        self.step = step


class Stopped(LatentrtError):
    """A run that was ended on request, before its picture was there."""


class Cancelled(Stopped):
    """The caller cancelled the run."""


class DeadlineExceeded(Stopped):
    """The run's deadline passed."""


class Busy(LatentrtError):
    """There is no room for a request now; try again later."""


class QueueFull(Busy):
    """A bounded queue had no room."""


class Closed(LatentrtError):
    """The pipeline, batcher or engine is closed; open another."""


class InternalError(LatentrtError, RuntimeError):
    """An exception that latentrt did not expect; please report it, with its `__cause__`."""


def as_latentrt(error: BaseException) -> BaseException:
    """An exception as the public API raises it.

    Errors of ours, MemoryError and what ends a program stay as they are. An OSError becomes a
    `FileError`, anything else an `InternalError`. The exception is its `__cause__`.
    """
    if isinstance(error, LatentrtError | MemoryError) or not isinstance(error, Exception):
        return error
    if isinstance(error, OSError):
        raised = FileError(str(error.filename or "system"), error.strerror or str(error))
    else:
        raised = InternalError(f"unexpected {type(error).__name__}: {error}")
    raised.__cause__ = error
    return raised


@contextlib.contextmanager
def only_latentrt_errors() -> Generator[None]:
    """A block of the public API: exceptions leave it as `as_latentrt` gives them."""
    try:
        yield
    except Exception as error:
        raised = as_latentrt(error)
        if raised is error:
            raise
        raise raised from error

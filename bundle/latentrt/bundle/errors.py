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
    """Any error that latentrt raises.

    `pickle` and `copy` keep an error's class, message and attributes, also in subclasses. So a
    process can pass its error to another.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # By default pickle calls the class with `args`, which hold only the message.
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[LatentrtError], args: tuple[object, ...]) -> LatentrtError:
    """An error of a class without a call of its `__init__`."""
    return kind.__new__(kind, *args)


class InputError(LatentrtError, ValueError):
    """An argument that cannot be used: its name, what was expected, and what came, as text."""

    def __init__(self, field: str, expected: str, got: object) -> None:
        # As text: the value itself may be large, and of a kind that cannot be pickled.
        self.field = field
        self.expected = expected
        self.got = str(got)
        super().__init__(f"{field}: expected {expected}, got {self.got}")


class Unwritable(InputError):
    """A place that cannot be written: disk full, no permission, or a wrong kind of file."""


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
    """An engine that is not available, or whose outputs are wrong."""


class Unavailable(EngineError):
    """A backend that is not installed, or has no device on this machine."""


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
    """A run that was ended on request, before its picture was finished."""


class Cancelled(Stopped):
    """The caller cancelled the run."""


class DeadlineExceeded(Stopped):
    """The run's deadline passed."""


class Busy(LatentrtError):
    """A request that has to wait; try again later."""


class QueueFull(Busy):
    """A bounded queue is full."""


class Closed(LatentrtError):
    """The pipeline, batcher or engine is closed; open another."""


class InternalError(LatentrtError, RuntimeError):
    """An exception that latentrt did not expect; please report it, with its `__cause__`."""


def as_latentrt(error: BaseException) -> BaseException:
    """Convert an exception to the one that the public API raises.

    A `LatentrtError`, a MemoryError and exceptions that end a program stay unchanged. An OSError
    becomes a `FileError`, anything else an `InternalError`, with the exception as `__cause__`.
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
    """Convert every exception that leaves the block by `as_latentrt`."""
    try:
        yield
    except Exception as error:
        raised = as_latentrt(error)
        if raised is error:
            raise
        raise raised from error

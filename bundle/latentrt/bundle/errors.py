"""Every error that latentrt raises on purpose; a message names the thing that is wrong."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "BuildFailed",
    "BundleError",
    "Cancelled",
    "CheckpointError",
    "DeadlineExceeded",
    "EngineError",
    "FileError",
    "InputError",
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
    """The root of the tree."""


class InputError(LatentrtError, ValueError):
    """An argument that cannot be used: which one, what would do, and what came."""

    def __init__(self, field: str, expected: str, got: object) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field = field
        self.expected = expected
        self.got = got


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
    """A run that ended before its picture was there, on request."""


class Cancelled(Stopped):
    """The caller cancelled the run."""


class DeadlineExceeded(Stopped):
    """The run's deadline passed."""


class QueueFull(Stopped):
    """A bounded queue had no room."""

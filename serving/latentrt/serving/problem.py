"""An error as it is answered over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from latentrt.bundle.errors import (
    BundleError,
    Busy,
    Cancelled,
    CheckpointError,
    Closed,
    DeadlineExceeded,
    EngineError,
    FileError,
    InputError,
    LatentrtError,
    NonFinite,
    ShapeNotBuilt,
)

CLIENT_GONE: Final = 499
"""nginx's status of a request whose client has gone, or that was cancelled."""
_WAIT: Final = 2
"""Seconds after which a client may try again."""
_KINDS: Final[Mapping[int, str]] = {401: "authentication_error", 429: "rate_limit_error"}
"""OpenAI's types of errors by status. Others are `invalid_request_error` below 500."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A status, and what is wrong. `field` names what to change; `code` is for programs.

    `retry_after` is in seconds. `retry` False tells OpenAI's client not to try again by itself.
    """

    status: int
    message: str
    field: str | None = None
    code: str | None = None
    retry_after: int | None = None
    retry: bool = True

    @property
    def kind(self) -> str:
        """OpenAI's type of the error."""
        return _KINDS.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )

    @property
    def headers(self) -> dict[str, str]:
        """Headers that tell a client whether and when to try again."""
        found = {} if self.retry else {"x-should-retry": "false"}
        return found | ({} if self.retry_after is None else {"retry-after": str(self.retry_after)})


class Refused(LatentrtError):
    """A request that is answered with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def problem_of(error: BaseException) -> Problem:
    """The problem that an error is answered with. Only a bug is a 500."""
    text = str(error)
    match error:
        case Refused():
            return error.problem
        case InputError():
            return Problem(400, text, error.field)
        case ShapeNotBuilt():
            return Problem(400, text, "size")
        case BundleError() | CheckpointError():
            return Problem(503, f"{error.path.name}: {error.problem}", code="model", retry=False)
        case FileError():  # without the folder, which is the server's own business
            return Problem(422, f"{error.path.name}: {error.problem}")
        case Busy():
            return Problem(429, text, code="queue_full", retry_after=_WAIT)
        case Closed():
            return Problem(503, "the service ends", code="closing", retry_after=_WAIT)
        case DeadlineExceeded():
            return Problem(504, text, code="deadline", retry=False)
        case Cancelled():
            return Problem(CLIENT_GONE, text, code="cancelled", retry=False)
        case NonFinite():
            return Problem(502, text, code="not_finite", retry=False)
        case EngineError():
            return Problem(503, text, code="engine", retry=False)
        case MemoryError():
            return Problem(503, "there is not enough memory", code="memory", retry_after=_WAIT)
        case _:
            return Problem(500, f"unexpected {type(error).__name__}: {error}", retry=False)

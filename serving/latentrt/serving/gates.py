"""What every request passes before a route: its name, its key, its origin, its size, the log."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentrt.serving.answers import path_of, problem_response
from latentrt.serving.metrics import Metrics
from latentrt.serving.problem import CLIENT_GONE, Problem, Refused

BODY_SECONDS: Final = 60.0
"""Seconds in which a body must have come."""
OPEN: Final = ("/health/",)
"""Paths that need no key, beside the page at `/`."""
_LOGGER: Final = logging.getLogger("latentrt.serving")
_LONGEST_NAME: Final = 128


@dataclass(frozen=True, slots=True)
class Gate:
    """Who may ask, from where, and how much. `keys` empty: everybody may."""

    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    body: int = 64 << 20

    def check(self, scope: Scope) -> str:
        """The client that a request is of; raises `Refused`."""
        headers = Headers(scope=scope)
        self._check_origin(headers)
        host = str((scope.get("client") or ("unknown", 0))[0])
        path = path_of(scope)
        asks_leave = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if not self.keys or path == "/" or path.startswith(OPEN) or asks_leave:
            return host
        given = _key_of(headers)
        for number, key in enumerate(self.keys):
            if hmac.compare_digest(given.encode(), key.encode()):
                return f"key {number}"
        text = "API key: expected one of the service's as `Authorization: Bearer KEY`, got "
        raise Refused(Problem(401, text + ("another" if given else "none"), code="invalid_api_key"))

    def _check_origin(self, headers: Headers) -> None:
        """A page of another site may not use a browser's access to this service."""
        origin = headers.get("origin")
        if origin is None or origin in self.origins or "*" in self.origins:
            return
        if urlsplit(origin).netloc != headers.get("host", ""):
            text = f"origin: expected this service's own or an allowed one, got {origin[:200]}"
            raise Refused(Problem(403, text, code="origin"))


class Gates:
    """The gate in front of an app, as ASGI middleware. It logs and counts each answer.

    `log` is "text" or "json".
    """

    def __init__(self, app: ASGIApp, gate: Gate, metrics: Metrics, log: str = "text") -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics
        self._log = log
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        name = _name_of(Headers(scope=scope))
        answered = 0

        async def named(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        async def unless_refused(message: Message) -> None:
            # A framework takes what its body raises for a body that cannot be parsed.
            if body.problem is None or answered:
                await named(message)

        try:
            scope.setdefault("state", {})["client"] = self._gate.check(scope)
            body = _Body(receive, Headers(scope=scope), self._gate.body)
            async with self._turn:  # one in each turn of the event loop: a burst may not block it
                await asyncio.sleep(0)
            with contextlib.suppress(Refused):
                await self._app(scope, body, unless_refused)
            if body.problem is not None and not answered:
                raise Refused(body.problem)
        except Refused as error:
            await problem_response(error.problem, path_of(scope))(scope, receive, named)
        finally:
            seconds = time.perf_counter() - begun
            self._tell(scope, name, answered or CLIENT_GONE, seconds)

    def _tell(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", "other")
        self._metrics.answered(path, status, seconds)
        fields: dict[str, Any] = {
            "id": name,
            "method": scope["method"],
            "path": scope.get("raw_path", b"").decode("latin-1")[:200],
            "status": status,
            "seconds": round(seconds, 4),
            "client": scope.get("state", {}).get("client", "unknown"),
        }
        _LOGGER.info(_line(fields, self._log))


class _Body:
    """A request's body, which ends at a limit of bytes and of seconds; `problem` is why."""

    def __init__(self, receive: Receive, headers: Headers, most: int) -> None:
        self._receive = receive
        self._most = most
        self._left = most
        self._until = time.monotonic() + BODY_SECONDS
        self._ended = False
        self.problem: Problem | None = None
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            raise Refused(self._too_large(length))

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()
        try:
            left = max(self._until - time.monotonic(), 0)
            message = await asyncio.wait_for(self._receive(), left)
        except TimeoutError:
            text = f"body: expected all of it within {BODY_SECONDS:g} seconds"
            self.problem = Problem(408, text, retry=False)
            raise Refused(self.problem) from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.problem = self._too_large(f"more than {self._most}")
                raise Refused(self.problem)
            self._ended = not message.get("more_body", False)
        return message

    def _too_large(self, got: str) -> Problem:
        return Problem(413, f"body: expected at most {self._most} bytes, got {got[:40]}", "body")


def _line(fields: Mapping[str, Any], form: str) -> str:
    if form == "json":
        return json.dumps(fields)
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _name_of(headers: Headers) -> str:
    """The client's name of a request where it is one, else one of our own."""
    given = headers.get("x-request-id", "")
    plain = given.isascii() and given.isprintable() and " " not in given
    return given if plain and 0 < len(given) <= _LONGEST_NAME else uuid.uuid4().hex


def _key_of(headers: Headers) -> str:
    """The key of a request: a bearer's, a header's, or a password."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return headers.get("x-api-key", "")


def read_keys(lines: Sequence[str]) -> tuple[str, ...]:
    """The keys of a file: one a line; empty lines and those that begin with # are left out."""
    stripped = (line.strip() for line in lines)
    return tuple(line for line in stripped if line and not line.startswith("#"))

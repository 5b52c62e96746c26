"""Problems as each API answers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse
from starlette.types import Scope

from latentrt.serving.problem import Problem


def problem_response(problem: Problem, path: str) -> JSONResponse:
    """A problem in OpenAI's form, or in FastAPI's and the web UI's below `/sdapi` and alike."""
    headers = problem.headers
    message, field = (
        _plain(problem.message),
        None if problem.field is None else _plain(problem.field),
    )
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    if path.startswith(("/sdapi", "/controlnet", "/internal")):
        content: dict[str, Any] = {
            "error": problem.code or problem.kind,
            "detail": message,
            "body": "",
            "errors": message,
        }
    else:
        content = {
            "error": {
                "message": message,
                "type": problem.kind,
                "param": field,
                "code": problem.code,
            }
        }
    return JSONResponse(content, problem.status, headers)


def path_of(scope: Scope) -> str:
    """The path of a request, without the prefix of a proxy."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def validation_problem(error: RequestValidationError, path: str) -> Problem:
    """What pydantic found wrong first, with its field."""
    errors: Sequence[Any] = error.errors()
    first = errors[0] if errors else {"loc": ("body",), "msg": "it cannot be read"}
    places = [str(each) for each in first["loc"] if each not in ("body", "query", "path")]
    field = ".".join(places) or "body"
    got = f", got {str(first['input'])[:80]!r}" if "input" in first and places else ""
    status = 400 if path.startswith("/v1/images") else 422
    return Problem(status, f"{field}: {first['msg']}{got}", field, str(first.get("type", "")))


def _plain(text: str) -> str:
    """A text that UTF-8 can encode: JSON may hold half of a character."""
    return text.encode("utf-8", "replace").decode("utf-8")

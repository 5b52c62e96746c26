"""What routes ask FastAPI for.

All are coroutines: FastAPI would call plain functions in a thread, for each request.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from latentrt.serving.problem import Problem, Refused
from latentrt.serving.service import Service


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _ready(request: Request) -> Service:
    service = await _service(request)
    if service.phase == "starting":
        text = service.failure or "the service is starting"
        raise Refused(Problem(503, text, code="starting", retry_after=5))
    return service


async def _client(request: Request) -> str:
    client: str = request.state.client
    return client


AnyService = Annotated[Service, Depends(_service)]
"""The service, in whatever phase."""
ReadyService = Annotated[Service, Depends(_ready)]
"""The service once it is ready; before, the request is answered with 503."""
Client = Annotated[str, Depends(_client)]
"""Whose request it is: a key's, or an address's."""

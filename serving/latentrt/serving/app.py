"""The service's web application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from latentrt.bundle.errors import LatentrtError
from latentrt.serving.answers import path_of, problem_response, validation_problem
from latentrt.serving.gates import Gate, Gates
from latentrt.serving.problem import Problem, problem_of
from latentrt.serving.routes import (
    catalogue,
    controlnet,
    health,
    jobs,
    openai,
    page,
    webui,
    webui_lists,
)
from latentrt.serving.service import Service
from latentrt.serving.traces import Traced

_LOGGER: Final = logging.getLogger("latentrt.serving")


def app_of(service: Service, gate: Gate, log: str = "text") -> FastAPI:
    """The application of a service: it warms up when it starts, and drains when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        tasks = [asyncio.ensure_future(each) for each in (service.start(), service.watch())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            service.jobs.cancel_all()
            await asyncio.to_thread(service.close)

    app = FastAPI(
        title="latentrt",
        summary="Stable Diffusion in production without PyTorch.",
        version=version("latentrt"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    for routes in (page, health, catalogue, jobs, openai, webui, webui_lists, controlnet):
        app.include_router(routes.router)
    app.add_exception_handler(LatentrtError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _problem)
    if gate.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(gate.origins),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_middleware(Gates, gate=gate, metrics=service.metrics, log=log)
    if service.traces.tracer is not None:
        app.add_middleware(Traced, tracer=service.traces.tracer)
    return app


async def _problem(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status == 500:
        _LOGGER.error("%s failed", request.url.path, exc_info=error)
    return problem_response(problem, path_of(request.scope))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    path = path_of(request.scope)
    return problem_response(validation_problem(error, path), path)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem_response(Problem(error.status_code, str(error.detail)), path_of(request.scope))

"""What a request can ask for, by name, and the limits of the service."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from latentrt.runtime.schedules import CATALOGUE, schedules_of
from latentrt.serving.routes.needs import ReadyService

router = APIRouter(prefix="/v1", tags=["jobs"])


class ModelEntry(BaseModel):
    """A model, and the size of its pictures; null while it is not open."""

    name: str
    size: str | None


class SamplerEntry(BaseModel):
    """A sampler, what web UIs call it, and the schedules that it takes."""

    name: str
    title: str
    schedules: list[str]


class LimitsEntry(BaseModel):
    """Bounds of one request; null: what the model and the memory allow."""

    steps: int
    images: int
    pixels: int | None
    body: int


class CatalogueAnswer(BaseModel):
    """The default model comes first; other names are sorted."""

    models: list[ModelEntry]
    samplers: list[SamplerEntry]
    loras: list[str]
    embeddings: list[str]
    controls: list[str]
    limits: LimitsEntry


@router.get("/catalogue")
def catalogue(service: ReadyService) -> CatalogueAnswer:
    """The names that a job can use, and its limits."""
    shelf, limits = service.shelf, service.limits
    sizes = {name: service.painter.size_of(name) for name in shelf.model_names}
    return CatalogueAnswer(
        models=[
            ModelEntry(name=name, size=None if size is None else str(size))
            for name, size in sizes.items()
        ],
        samplers=[
            SamplerEntry(name=name, title=entry.web or name, schedules=list(schedules_of(name)))
            for name, entry in sorted(CATALOGUE.items())
        ],
        loras=list(shelf.lora_names),
        embeddings=list(shelf.embedding_names),
        controls=list(shelf.control_names),
        limits=LimitsEntry(
            steps=limits.steps, images=limits.images, pixels=limits.pixels, body=limits.body
        ),
    )

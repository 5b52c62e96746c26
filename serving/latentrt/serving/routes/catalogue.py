"""What a request can ask for, by name, and the limits of the service."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from pydantic import BaseModel

from latentrt.bundle.manifest import Manifest
from latentrt.runtime import Size
from latentrt.runtime.kit import unet_channels
from latentrt.runtime.schedules import CATALOGUE, schedules_of
from latentrt.runtime.tasks import TASKS
from latentrt.serving.routes.needs import ReadyService

router = APIRouter(prefix="/v1", tags=["jobs"])


class ModelEntry(BaseModel):
    """A model: the size of its pictures, its tasks, and the models that can refine its pictures.

    Of a checkpoint that is not open, size and tasks are null. It may be a refiner.
    """

    name: str
    size: str | None
    tasks: list[str] | None
    refiners: list[str]


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
    manifests = {
        name: service.painter.manifest_of(name) or shelf.manifest(name)
        for name in shelf.model_names
    }
    return CatalogueAnswer(
        models=[_entry(name, manifests) for name in manifests],
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


def _entry(name: str, manifests: Mapping[str, Manifest | None]) -> ModelEntry:
    own = manifests[name]
    refiners = [each for each, its in manifests.items() if each != name and _refines(its, own)]
    if own is None:
        return ModelEntry(name=name, size=None, tasks=None, refiners=refiners)
    height, width = (n * own.vae_factor for n in own.sample_size)
    size = Size(width, height)
    return ModelEntry(name=name, size=str(size), tasks=_tasks(own), refiners=refiners)


def _tasks(manifest: Manifest) -> list[str]:
    """The tasks that fit the channels of a U-Net."""
    latent = manifest.latent_channels
    extra = unet_channels(manifest) - latent
    return [name for name, kind in TASKS.items() if extra in kind.channels(latent)]


def _refines(its: Manifest | None, own: Manifest | None) -> bool:
    """Whether a model may refine another's pictures, as far as both are known."""
    if its is not None and unet_channels(its) != its.latent_channels:
        return False
    if its is None or own is None:
        return True
    latents = [(each.latent_channels, each.vae_scaling) for each in (its, own)]
    return latents[0] == latents[1]

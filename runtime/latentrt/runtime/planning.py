"""Requests to plans: sizes and seeds resolved, prompts encoded, engines opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final, cast

from latentrt.bundle.bundle import Bundle, NamedFile
from latentrt.bundle.errors import InputError, ShapeNotBuilt
from latentrt.bundle.manifest import LATENT_CONSISTENCY, XL
from latentrt.engines.engine import Engine
from latentrt.engines.registry import Progress
from latentrt.runtime.conditioning import Conditioner
from latentrt.runtime.controlling import Controlling
from latentrt.runtime.kit import Kit, Spent
from latentrt.runtime.latent_to_rgb import LatentToRgb
from latentrt.runtime.opening import Opening
from latentrt.runtime.plan import Latent, Leg, Plan, Prepared
from latentrt.runtime.provenance import Provenance
from latentrt.runtime.refining import check_refiner, last_leg
from latentrt.runtime.request import Request
from latentrt.runtime.reusing_denoiser import reused
from latentrt.runtime.rows import Model, Need, Row
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.schedules import Part, Schedule, as_stable_diffusion, build_schedule
from latentrt.runtime.schedules.part import hand_over
from latentrt.runtime.size import Size
from latentrt.runtime.size_limit import SizeLimit
from latentrt.runtime.tasks import TASKS, Task, name_of
from latentrt.runtime.vae import Vae

_ROWS: Final = 8
"""Rows of a U-Net call that several pictures of one request share."""
_SCHEDULES: Final = 64
"""How many schedules are remembered."""


class Planning:
    """Makes plans over one bundle. Thread-safe.

    `engine` gives a component's engine for sizes, and tells a progress; `limit` is how large
    pictures may be. `shared` are models of another bundle with the same weights; `controlling` puts
    requests under ControlNets. `wide` are those of the VAE in fp32 where it computes in 16 bits.
    Plans hold their engines, unless `held` is false: then each is there only while it is used.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Callable[..., Engine],
        limit: SizeLimit,
        shared: Mapping[str, Model],
        controlling: Controlling,
        wide: tuple[Model, ...] = (),
        *,
        held: bool = True,
    ) -> None:
        self._held = held
        self._manifest = bundle.manifest
        self._vae_file = bundle.vae or NamedFile("", "")
        self._limit = limit
        self._controlling = controlling
        own = bundle.manifest.components.items()
        self.models: Mapping[str, Model] = {
            name: shared.get(name) or Model(name, record.inputs, partial(engine, name))
            for name, record in own
        }
        self._vae = Vae(
            bundle.manifest, self.models["vae_decoder"], self.models.get("vae_encoder"), wide
        )
        self._colours = LatentToRgb.of(bundle.manifest)
        self._conditioner = Conditioner(bundle, self.models.__getitem__)
        config = bundle.scheduler_config()
        self._train_timesteps = cast("int", config.get("num_train_timesteps") or 1000)
        if bundle.manifest.forces_scheduler:
            config = as_stable_diffusion(config)
        # Requests are served with the same few over and over.
        self._schedule = lru_cache(maxsize=_SCHEDULES)(
            partial(_schedule, config, bundle.manifest.family)
        )

    def __call__(
        self,
        request: Request,
        *,
        batches: Sequence[int] | None,
        decodes: Sequence[int],
        progress: Progress | None,
        refiner: Planning | None = None,
    ) -> Plan:
        """The plan of a request; arguments are as in `Pipeline.plan`.

        `refiner` makes plans over the bundle of the request's refiner.
        """
        request = self._resolved(request)
        if refiner is not None:
            check_refiner(request, self._manifest, refiner._manifest)
        together = self._together(request) if batches is None else 1
        vae = self._checked_vae(request, batches, decodes)
        self._conditioner.check(request)
        controlnets = self._controlling.opened(request.controls)
        opening = Opening(progress, self._expected(batches, decodes), held=self._held)
        spent = Spent()
        kit = Kit(
            request,
            self._manifest,
            self.models,
            vae,
            self._conditioner,
            self._schedule,
            opening,
            spent,
            self._hand_over(request),
        )
        _check_latents(request, kit.latent_shape)
        _check_task(request.task, kit)
        legs = self._controlling.controlled(
            request.task.legs(kit), self.models["unet"], request, controlnets, opening
        )
        if refiner is not None:
            legs = refiner.refined(legs, kit)
        legs = reused(legs, request.reuse)
        # Asked for in any case: a scale function that fails does so before any step.
        needs = _needs(legs)
        if not self._held:  # the last that is opened stays: the U-Net, which is called next
            self._open_vaes(opening, vae, legs, decodes)
        if batches is None:
            opening.more(len(needs) - 1)
            together, counts = self._open_together(opening, together, needs)
        else:
            counts = sorted(batches)
            models = dict.fromkeys((need.model, need.sizes) for need in needs)
            opening.more(len(counts) * (len(models) - 1))
            for need in (Need(model, 1, sizes) for model, sizes in models):
                for count in counts:
                    opening(need.model, need.at(count))
        if self._held:
            self._open_vaes(opening, vae, legs, decodes)
        request, notes = self._traced(request, legs[0].schedule, refiner)
        return Plan(
            request=request,
            legs=legs,
            decode=vae.decode,
            model=self._manifest.source,
            batches={"unet": tuple(counts), "vae": tuple(sorted(decodes))},
            together=together,
            seconds=Prepared(opening.seconds, spent.text, spent.vae),
            notes=tuple(dict.fromkeys([*notes, *spent.notes])),
            engines=opening.release(),
            finish=request.task.finish,
            colours=self._colours,
        )

    def forget_prompts(self) -> None:
        """Encode every prompt again from now on."""
        self._conditioner.forget_prompts()

    def decoder_row(self, latent: Latent) -> Row:
        """What the VAE decoder is asked about a latent [c, h, w]."""
        return self._vae.decoder_row(latent)

    def _open_vaes(
        self, opening: Opening, vae: Vae, legs: Sequence[Leg], decodes: Sequence[int]
    ) -> None:
        """Open the decoder, and what the legs need beside U-Nets."""
        needs = [vae.decoder_need(*legs[-1].shape[1:]), *(n for leg in legs for n in leg.needed)]
        opening.more(len(decodes) * (len(needs) - 1))
        for need in dict.fromkeys(needs):
            for count in decodes:
                opening(need.model, need.at(count))

    def _open_together(
        self, opening: Opening, together: int, needs: Sequence[Need]
    ) -> tuple[int, Sequence[int]]:
        """Open what pictures drawn together need: how many those are, and the batch sizes.

        Where nothing is to be built and no such engine is, pictures are drawn one by one.
        """
        try:
            for need in needs:
                opening(need.model, need.at(together * need.rows))
        except ShapeNotBuilt:
            if together == 1:
                raise
            return self._open_together(opening, 1, needs)
        return together, sorted({together * need.rows for need in needs})

    def refined(self, legs: tuple[Leg, ...], kit: Kit) -> tuple[Leg, ...]:
        """The legs of another model's kit, and a last one of this model."""
        own = replace(
            kit,
            manifest=self._manifest,
            models=self.models,
            conditioner=self._conditioner,
            schedules=self._schedule,
        )
        return (*legs, last_leg(own, legs[-1].schedule, kit.above))

    def _hand_over(self, request: Request) -> int | None:
        """The timestep below which the request's refiner draws."""
        if request.refiner is None:
            return None
        return hand_over(self._train_timesteps, request.refiner.at)

    def _traced(
        self, request: Request, schedule: Schedule, refiner: Planning | None
    ) -> tuple[Request, tuple[str, ...]]:
        """The request as it was drawn, with its provenance, and what is to be said of that."""
        if request.sampling.timesteps is not None or request.sampling.sigmas is not None:
            visited = sum(e.stage == 0 for e in schedule.evaluations)
            request = request.with_values(sampling=replace(request.sampling, steps=visited))
        drawn = Provenance(
            model=self._manifest.source,
            model_hash=self._manifest.model_hash,
            sampler=schedule.sampler,
            schedule=schedule.spacing or "",
            vae=self._vae_file.name,
            vae_sha256=self._vae_file.sha256,
            refiner="" if refiner is None else refiner._manifest.source,
            refiner_hash="" if refiner is None else refiner._manifest.model_hash,
        )
        before = request.provenance
        notes = () if before is None else before.notes(drawn, request.sampling)
        return request.with_values(provenance=drawn), notes

    def _expected(self, batches: Sequence[int] | None, decodes: Sequence[int]) -> int:
        """How many engines a plan opens, at least."""
        encoders = sum(name.startswith("text_encoder") for name in self.models)
        return encoders + (1 if batches is None else len(batches)) + len(decodes)

    def _together(self, request: Request) -> int:
        """How many pictures of a request share calls: rows for 8, or what memory bears.

        The groups that several are drawn in are about equal.
        """
        assert request.size is not None
        most, rows = max(_ROWS // _rows(request), 1), _rows(request)
        groups = -(-request.num_images // most)
        count = -(-request.num_images // groups)
        while count > 1 and not self._limit.allows(request.size, rows=count * rows):
            count -= 1
        return count

    def _resolved(self, request: Request) -> Request:
        manifest = self._manifest
        size = request.size or request.task.size(manifest.vae_factor)
        if size is None:
            height, width = (n * manifest.vae_factor for n in manifest.sample_size)
            size = Size(width, height)
        factor = manifest.vae_factor
        if size.width % factor or size.height % factor:
            low, high = (Size(*(_multiple(n, factor, up) for n in _pair(size))) for up in (0, 1))
            expected = f"width and height in multiples of {factor}, such as {low} or {high}"
            raise InputError("size", expected, size)
        seed = int.from_bytes(os.urandom(4)) if request.seed is None else request.seed
        subseed = request.subseed
        if subseed is None and request.subseed_strength > 0:
            subseed = int.from_bytes(os.urandom(4))
        return request.with_values(size=size, seed=seed, subseed=subseed)

    def _checked_vae(
        self, request: Request, batches: Sequence[int] | None, decodes: Sequence[int]
    ) -> Vae:
        """The VAE, in tiles where asked for or needed; raises `InputError` for too large a size."""
        assert request.size is not None
        rows = _rows(request) if batches is None else max(batches)
        size = request.task.output(request.size, self._manifest.vae_factor)
        tiled = request.tiling == "on" or (
            request.tiling == "auto" and not self._limit.decodes(size, max(decodes))
        )
        self._limit.check(
            size, rows=rows, decodes=max(decodes), images=request.num_images, tiled=tiled
        )
        return self._vae.in_tiles() if tiled else self._vae


def _check_task(task: Task, kit: Kit) -> None:
    """Raise `InputError` for a task that the U-Net's channels do not fit."""
    latent, extra = kit.latent_shape[0], kit.extra_channels
    if extra not in task.channels(latent):
        fitting = [name for name, kind in TASKS.items() if extra in kind.channels(latent)]
        names = " or ".join(filter(None, [", ".join(fitting[:-1]), *fitting[-1:]]))
        expected = f"{names or 'none'}: this model's U-Net takes {latent + extra} channels"
        raise InputError("task", expected, name_of(task))


def _needs(legs: Sequence[Leg]) -> list[Need]:
    """What the legs call, in their order; of one model, few rows first."""
    found = [
        need
        for leg in legs
        for need in sorted(leg.denoiser.needs(leg.schedule, leg.shape[1:]), key=_order)
    ]
    return list(dict.fromkeys(found))


def _order(need: Need) -> tuple[str, int]:
    return need.model.component, need.rows


def _check_latents(request: Request, shape: tuple[int, int, int]) -> None:
    """Raise `InputError` for given noise of another shape than the first latent's."""
    if request.latents is not None and request.latents.shape[1:] != shape:
        expected = f"(n, {', '.join(str(n) for n in shape)}) for a picture of {request.size}"
        raise InputError("latents", expected, request.latents.shape)


def _rows(request: Request) -> int:
    """The most rows that an evaluation of a picture has."""
    return 1 + len(request.prompts) if request.guidance.active else 1


def _schedule(
    config: Mapping[str, object], family: str, sampling: Sampling, part: Part
) -> Schedule:
    return build_schedule(
        config,
        steps=sampling.steps,
        sampler=sampling.sampler,
        schedule=sampling.schedule,
        eta=sampling.eta,
        rho=sampling.rho,
        timesteps=sampling.timesteps,
        sigmas=sampling.sigmas,
        brownian=sampling.brownian,
        xl=family in XL,
        part=part,
        distilled=family == LATENT_CONSISTENCY,
    )


def _pair(size: Size) -> tuple[int, int]:
    return size.width, size.height


def _multiple(pixels: int, factor: int, up: int) -> int:
    return max(1, pixels // factor + (up if pixels % factor else 0)) * factor

"""A bundle ready for requests: engines opened or built as their shapes come up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.checks import as_path, integer, shown
from latentrt.bundle.errors import InputError, ShapeNotBuilt, only_latentrt_errors
from latentrt.bundle.manifest import LATENT_CONSISTENCY, STABLE_DIFFUSION_XL
from latentrt.engines.cache.cache import Build, Cache
from latentrt.engines.engine import Engine
from latentrt.engines.memory import available_memory
from latentrt.engines.process import Home
from latentrt.engines.registry import Chosen, Progress
from latentrt.engines.verification.verify import Verify, check_verify
from latentrt.runtime.batcher import Batcher
from latentrt.runtime.bundle_engines import BundleEngines
from latentrt.runtime.conditioning import Conditioner
from latentrt.runtime.kit import Kit
from latentrt.runtime.latents import for_vae
from latentrt.runtime.opening import Opening
from latentrt.runtime.plan import Latent, Plan, Prepared
from latentrt.runtime.provenance import Provenance
from latentrt.runtime.request import Request
from latentrt.runtime.result import Result
from latentrt.runtime.rows import Calls, Evaluation, Model, Row
from latentrt.runtime.run import DirectRun
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.schedules import Schedule, as_stable_diffusion, build_schedule
from latentrt.runtime.size import Size
from latentrt.runtime.size_limit import SizeLimit

_ROWS: Final = 8
"""Rows of a U-Net call that several pictures of one request share."""
_SCHEDULES: Final = 64
"""How many schedules a pipeline remembers."""


class Pipeline:
    """Text to image over one bundle. Thread-safe; runs share its engines."""

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "auto",
        precision: str = "auto",
        options: Mapping[str, object] = MappingProxyType({}),
        components: Mapping[str, str] = MappingProxyType({}),
        *,
        build: Build = "missing",
        cache: Cache | None = None,
        guarded: bool = True,
        verify: Verify = "golden",
        max_pixels: int | None = None,
        max_engines: int | None = None,
    ) -> None:
        """Over a bundle that is open already; other arguments as in `open`.

        Without `guarded`, engines are compiled for this pipeline alone and not verified: for
        measuring how far off an engine is that would be refused.
        """
        self._home = Home("pipeline")
        if not isinstance(bundle, Bundle):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("bundle", "a Bundle; Pipeline.open takes a path", shown(bundle))
        check_verify(verify)
        most_pixels = _limit("max_pixels", max_pixels)
        most_engines = _limit("max_engines", max_engines)
        self.bundle = bundle
        memory = available_memory()
        self._engines = BundleEngines(
            bundle,
            engine,
            precision,
            options,
            components,
            build=build,
            cache=cache,
            guarded=guarded,
            verify=verify,
            max_engines=most_engines,
            memory=memory,
        )
        self._limit = SizeLimit.of(
            bundle.manifest,
            set(self.engines.values()),
            max_pixels=most_pixels,
            memory=memory,
            verified=guarded and build == "missing" and verify == "full",
        )
        self._models = {
            name: Model(name, record.inputs, partial(self._engine_of, name))
            for name, record in bundle.manifest.components.items()
        }
        self._conditioner = Conditioner(bundle, self._models.__getitem__)
        self._model_hash = bundle.manifest.model_hash
        config = bundle.scheduler_config()
        if bundle.manifest.forces_scheduler:
            config = as_stable_diffusion(config)
        # Requests are served with the same few over and over.
        self._schedule = lru_cache(maxsize=_SCHEDULES)(
            partial(_schedule, config, bundle.manifest.family)
        )

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        engine: str = "auto",
        precision: str = "auto",
        options: Mapping[str, object] = MappingProxyType({}),
        components: Mapping[str, str] = MappingProxyType({}),
        build: Build = "missing",
        cache: Path | str | None = None,
        verify: Verify = "golden",
        max_pixels: int | None = None,
        max_engines: int | None = None,
    ) -> Self:
        """Open a bundle.

        `engine` is a backend's name or "auto", the fastest that is installed, verified and has the
        `precision`, which by default is the backend's own for the dtype of the weights;
        `components` gives single components another backend or precision, such as
        {"vae_decoder": "fp32"} or "onnxruntime:fp32"; `options` are the backends' own, such as
        {"threads": 4}, which `latentrt doctor` lists: each backend gets those that it has. Engines
        come from the folder `cache` (None: the user's
        own, see `latentrt.engines.cache`); one that is missing is built and verified at first use,
        or, with `build="never"`, raises `ShapeNotBuilt` with the command that builds it.
        `verify` says how new engines are compared with PyTorch's outputs, or ONNX Runtime's:
        "golden" compares one small engine for all sizes, "full" every engine at its own size, which
        takes a second engine beside it; "off" compares nothing.
        `max_pixels` is how many pixels, width times height, a picture may have; by default 16 times
        those of the checkpoint's own size, and what the machine's memory bears. `max_engines` is
        how many engines are kept while nobody uses them, the last used first; by default 12, with
        weights of at most half of the memory that is available when the pipeline is opened. Raises
        `BundleError`, `Unavailable` or `InputError`.

        A pipeline is used by the process that opened it: open it after a fork.
        """
        if build not in ("missing", "never"):
            raise InputError("build", "missing or never", shown(build))
        folder = None if cache is None else as_path("cache", cache)
        with only_latentrt_errors():
            return cls(
                Bundle.open(path),
                engine,
                precision,
                options,
                components,
                build=build,
                cache=Cache(folder),
                verify=verify,
                max_pixels=max_pixels,
                max_engines=max_engines,
            )

    @property
    def chosen(self) -> Mapping[str, Chosen]:
        """Backend, precision and options of each component."""
        return self._engines.chosen

    @property
    def engines(self) -> Mapping[str, str]:
        """Name of the backend of each component."""
        return {name: chosen.name for name, chosen in self._engines.chosen.items()}

    @property
    def precisions(self) -> Mapping[str, str]:
        """What the engine of each component computes in."""
        return {name: c.precision for name, c in self._engines.chosen.items()}

    @property
    def compiled(self) -> frozenset[tuple[str, int]]:
        """(component, batch size) of every engine compiled so far."""
        return self._engines.compiled

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free every engine; runs still going fail at their next step.

        In a forked process, which has none of their threads, it does nothing.
        """
        self._engines.close()

    def __call__(self, request: Request) -> Result:
        """The pictures of a request."""
        return self.run(request).result()

    def run(self, request: Request, *, progress: Progress | None = None) -> DirectRun:
        """Begin a request: check it, compile the engines that are missing, encode its prompts.

        `progress` is told which engine is being opened, compiled or verified: what is done to
        which, how many engines are ready, and how many there will be. Raises `InputError` naming
        the field that does not fit this bundle, before any step.
        """
        with only_latentrt_errors():
            return DirectRun(self.plan(request, progress=progress))

    def batcher(
        self,
        *,
        max_batch: int = 8,
        batch_sizes: Sequence[int] | None = None,
        decode_sizes: Sequence[int] = (1,),
        queue: int = 256,
    ) -> Batcher:
        """Serve many requests at once, their rows sharing U-Net calls at every step.

        U-Nets are compiled for `batch_sizes`, by default the powers of two up to `max_batch`, or as
        many of them as have weights in half of the available memory, and VAE decoders for
        `decode_sizes`. With one size each, such as `batch_sizes=(8,)`, a request
        gives the same picture bit for bit whatever it shares calls with. `queue` is how many
        pictures may be on their way before `submit` raises `QueueFull`.
        """
        max_batch = integer("max_batch", "an integer of at least 1", max_batch, 1)
        sizes = self._batch_sizes(max_batch) if batch_sizes is None else batch_sizes
        return Batcher(self, batch_sizes=sizes, decode_sizes=decode_sizes, queue=queue)

    def plan(
        self,
        request: Request,
        *,
        batches: Sequence[int] | None = None,
        decodes: Sequence[int] = (1,),
        progress: Progress | None = None,
    ) -> Plan:
        """A request with everything resolved, encoded and compiled.

        The U-Net is compiled for `batches`, or for the rows that the request's own pictures have
        together, the VAE decoder for `decodes`; `progress` is as in `run`. Raises `InputError`
        naming the field that does not fit this bundle.
        """
        self._home.check()
        if not isinstance(request, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                "request", "a Request, such as Request('a red circle')", shown(request)
            )
        request = self._resolved(request)
        together = self._together(request) if batches is None else 1
        self._check_size(request, batches, decodes)
        self._conditioner.check(request)
        opening = Opening(self.engine, progress, self._expected(batches, decodes))
        shape = self._latent_shape(request)
        kit = Kit(
            request,
            shape,
            self.bundle.manifest,
            self._models,
            self._conditioner,
            self._schedule,
            opening,
        )
        legs = request.task.legs(kit)
        # Asked for in any case: a scale function that fails does so before any step.
        rows = sorted(set[int]().union(*(leg.denoiser.row_counts(leg.schedule) for leg in legs)))
        sizes = {"sequence": self._conditioner.length, "height": shape[1], "width": shape[2]}
        counts = [together * n for n in rows] if batches is None else sorted(batches)
        if batches is None:
            opening.more(len(rows) - 1)
        try:
            for count in counts:
                opening("unet", {"batch": count, **sizes})
        except ShapeNotBuilt:
            if together == 1:
                raise
            # Nothing is to be built: single pictures are drawn where those are.
            together, counts = 1, rows
            for count in counts:
                opening("unet", {"batch": count, **sizes})
        for count in decodes:
            opening("vae_decoder", {"batch": count, "height": shape[1], "width": shape[2]})
        request, notes = self._traced(request, legs[0].schedule)
        return Plan(
            request=request,
            legs=legs,
            decode=self._decode,
            model=self.bundle.manifest.source,
            batches={"unet": tuple(counts), "vae": tuple(sorted(decodes))},
            together=together,
            seconds=Prepared(opening.seconds, kit.text_seconds, kit.vae_seconds),
            notes=(*notes, *kit.notes),
            engines=opening.release(),
        )

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents [n, c, h, w] as the U-Net has them to pixels [n, 3, H, W] in [-1, 1]."""
        if not isinstance(latents, np.ndarray) or latents.ndim != 4:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("latents", "an array [n, c, h, w]", shown(latents))
        rows = [self._decoder_row(latent) for latent in latents]
        outputs = Calls({"vae": (len(rows),)}).together(rows)
        return np.stack([output["images"] for output in outputs])

    def engine(
        self, component: str, sizes: Mapping[str, int], progress: Progress | None = None
    ) -> Engine:
        """The component's engine for these sizes, opened at first use.

        It is not freed while somebody holds it; `progress` is told of what is done for it.
        """
        if component not in self._engines.chosen:
            expected = f"one of {', '.join(self._engines.chosen)}"
            raise InputError("component", expected, shown(component))
        if not isinstance(sizes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("sizes", "a mapping, such as {'batch': 1}", shown(sizes))
        return self._engines.get(component, sizes, progress)

    def _decode(self, latent: Latent) -> Evaluation[NDArray[np.float32]]:
        """One latent [c, h, w] to pixels [3, H, W], as a row of the VAE decoder."""
        (outputs,) = yield [self._decoder_row(latent)]
        return outputs["images"]

    def _decoder_row(self, latent: Latent) -> Row:
        decoder = self._models["vae_decoder"]
        (spec,) = decoder.inputs
        return Row(decoder, {spec.name: for_vae(latent, self.bundle.manifest)})

    def _traced(self, request: Request, schedule: Schedule) -> tuple[Request, tuple[str, ...]]:
        """The request as it was drawn, with its provenance, and what is to be said of that."""
        if request.sampling.timesteps is not None or request.sampling.sigmas is not None:
            visited = sum(e.stage == 0 for e in schedule.evaluations)
            request = request.with_values(sampling=replace(request.sampling, steps=visited))
        drawn = Provenance(
            model=self.bundle.manifest.source,
            model_hash=self._model_hash,
            sampler=schedule.sampler,
            schedule=schedule.spacing or "",
        )
        before = request.provenance
        notes = () if before is None else before.notes(drawn, request.sampling)
        return request.with_values(provenance=drawn), notes

    def _expected(self, batches: Sequence[int] | None, decodes: Sequence[int]) -> int:
        """How many engines a plan opens, at least."""
        encoders = sum(name.startswith("text_encoder") for name in self._models)
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

    def _engine_of(self, component: str, sizes: Mapping[str, int]) -> Engine:
        return self.engine(component, sizes)

    def _resolved(self, request: Request) -> Request:
        manifest = self.bundle.manifest
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
        return request.with_values(size=size, seed=seed)

    def _batch_sizes(self, most: int) -> Sequence[int]:
        """Powers of two up to `most`, and that; where memory is short, the most useful of them."""
        powers = [2**n for n in reversed(range(most.bit_length())) if 2**n < most]
        # A full call, then the two rows of one guided picture, then one row.
        useful = list(dict.fromkeys([most, *(n for n in (2, 1) if n < most), *powers]))
        return sorted(useful[: self._engines.copies("unet", len(useful))])

    def _check_size(
        self, request: Request, batches: Sequence[int] | None, decodes: Sequence[int]
    ) -> None:
        assert request.size is not None
        rows = _rows(request) if batches is None else max(batches)
        self._limit.check(request.size, rows=rows, decodes=max(decodes), images=request.num_images)

    def _latent_shape(self, request: Request) -> tuple[int, int, int]:
        manifest = self.bundle.manifest
        assert request.size is not None
        height, width = (
            n // manifest.vae_factor for n in (request.size.height, request.size.width)
        )
        shape = (manifest.latent_channels, height, width)
        if request.latents is not None and request.latents.shape[1:] != shape:
            expected = f"(n, {', '.join(str(n) for n in shape)}) for a picture of {request.size}"
            raise InputError("latents", expected, request.latents.shape)
        return shape


def _limit(field: str, value: object) -> int | None:
    """A limit that the operator sets; None for the default."""
    return None if value is None else integer(field, "an integer of at least 1", value, 1)


def _rows(request: Request) -> int:
    """The most rows that an evaluation of a picture has."""
    return 2 + len(request.composed) if request.guidance.active else 1


def _schedule(
    config: Mapping[str, object], family: str, sampling: Sampling, strength: float
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
        xl=family == STABLE_DIFFUSION_XL,
        strength=strength,
        distilled=family == LATENT_CONSISTENCY,
    )


def _pair(size: Size) -> tuple[int, int]:
    return size.width, size.height


def _multiple(pixels: int, factor: int, up: int) -> int:
    return max(1, pixels // factor + (up if pixels % factor else 0)) * factor

"""A bundle ready for requests: engines opened or built as their shapes come up."""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, ShapeNotBuilt, Unavailable
from latentrt.bundle.manifest import STABLE_DIFFUSION_XL
from latentrt.engines.cache import Build, Cache
from latentrt.engines.engine import Blueprint, Engine, Options, choose
from latentrt.engines.verify import open_verified
from latentrt.runtime.batcher import Batcher
from latentrt.runtime.conditioning import Conditioner
from latentrt.runtime.latents import for_vae
from latentrt.runtime.plan import Plan
from latentrt.runtime.request import Request
from latentrt.runtime.result import Result
from latentrt.runtime.run import DirectRun, Run
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.schedules import Schedule, as_stable_diffusion, build_schedule
from latentrt.runtime.size import Size

_Key = tuple[str, tuple[tuple[str, int], ...]]


@dataclass(slots=True, eq=False)
class _Place:
    """Where an engine is, or will be when the thread that has the lock has compiled it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    engine: Engine | None = None


class Pipeline:
    """Text to image over one bundle. Thread-safe; runs share its engines."""

    def __init__(
        self,
        bundle: Bundle,
        engine: str,
        options: Options,
        components: Mapping[str, str],
        *,
        build: Build = "missing",
        cache: Cache | None = None,
        guarded: bool = True,
    ) -> None:
        """Over a bundle that is open already; other arguments as in `open`.

        Without `guarded`, engines are compiled for this pipeline alone and not verified: for
        measuring how far off an engine is that would be refused.
        """
        unknown = sorted(set(components) - set(bundle.manifest.components))
        if unknown:
            expected = f"names among {', '.join(bundle.manifest.components)}"
            raise InputError("components", expected, repr(unknown[0]))
        self.bundle = bundle
        self.options = options
        self._backends = {
            name: choose(components.get(name, engine), options)
            for name in bundle.manifest.components
        }
        self._cache = Cache() if cache is None else cache
        self._build: Build = build
        self._guarded = guarded
        self._engines: dict[_Key, _Place] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._conditioner = Conditioner(bundle)
        self._xl = bundle.manifest.family == STABLE_DIFFUSION_XL
        config = bundle.scheduler_config()
        forced = bundle.manifest.forces_scheduler
        self._scheduler = as_stable_diffusion(config) if forced else config

    @staticmethod
    def open(
        path: Path | str,
        *,
        engine: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
        arena: bool = True,
        components: Mapping[str, str] = MappingProxyType({}),
        build: Build = "missing",
        cache: Path | str | None = None,
    ) -> Pipeline:
        """Open a bundle.

        `engine` is a backend's name or "auto", the fastest installed that has the `precision`;
        `components` gives single components another backend; `threads` and `arena` are as in
        `latentrt.engines.engine.Options`. Engines come from the folder `cache` (None: the user's
        own, see `latentrt.engines.cache`); one that is missing is built and verified at first use,
        or, with `build="never"`, raises `ShapeNotBuilt` with the command that builds it. Raises
        `BundleError`, `Unavailable` or `InputError`.
        """
        if build not in ("missing", "never"):
            raise InputError("build", "missing or never", repr(build))
        options = Options(precision=precision, threads=threads, arena=arena)
        return Pipeline(
            Bundle.open(path), engine, options, components, build=build, cache=Cache(cache)
        )

    @property
    def engines(self) -> Mapping[str, str]:
        """Name of the backend of each component."""
        return {name: chosen for name, (chosen, _) in self._backends.items()}

    @property
    def compiled(self) -> frozenset[tuple[str, int]]:
        """(component, batch size) of every engine compiled so far."""
        with self._lock:
            made = [key for key, place in self._engines.items() if place.engine is not None]
            return frozenset((name, dict(sizes)["batch"]) for name, sizes in made)

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
        """Free every engine; runs still going fail at their next step."""
        with self._lock:
            self._closed = True
            places = list(self._engines.values())
            self._engines.clear()
        for place in places:
            with place.lock:
                if place.engine is not None:
                    place.engine.close()

    def __call__(self, request: Request) -> Result:
        """The pictures of a request."""
        return self.run(request).result()

    def run(self, request: Request) -> Run:
        """Begin a request: check it, compile the engines that are missing, encode its prompts.

        Raises `InputError` naming the field that does not fit this bundle, before any step.
        """
        return DirectRun(self.plan(request))

    def batcher(
        self,
        *,
        max_batch: int = 8,
        batch_sizes: Sequence[int] | None = None,
        decode_sizes: Sequence[int] = (1,),
        queue: int = 256,
    ) -> Batcher:
        """Serve many requests at once, their rows sharing U-Net calls at every step.

        U-Nets are compiled for `batch_sizes`, by default the powers of two up to `max_batch`, and
        VAE decoders for `decode_sizes`. With one size each, such as `batch_sizes=(8,)`, a request
        gives the same picture bit for bit whatever it shares calls with. `queue` is how many
        pictures may be on their way before `submit` raises `QueueFull`.
        """
        if max_batch < 1:
            raise InputError("max_batch", "at least 1", max_batch)
        powers = [2**n for n in range(max_batch.bit_length()) if 2**n < max_batch]
        sizes = (*powers, max_batch) if batch_sizes is None else batch_sizes
        return Batcher(self, batch_sizes=sizes, decode_sizes=decode_sizes, queue=queue)

    def plan(
        self,
        request: Request,
        *,
        batches: Sequence[int] | None = None,
        decodes: Sequence[int] = (1,),
    ) -> Plan:
        """A request with everything resolved, encoded and compiled.

        The U-Net is compiled for `batches`, or for the numbers of rows that the request has by
        itself, the VAE decoder for `decodes`. Raises `InputError` naming the field that does not
        fit this bundle.
        """
        request = self._resolved(request)
        self._conditioner.check(request)
        schedule = self._schedule(request.sampling)
        if request.sampling.timesteps is not None or request.sampling.sigmas is not None:
            visited = sum(e.stage == 0 for e in schedule.evaluations)
            request = request.with_values(sampling=replace(request.sampling, steps=visited))
        shape = self._latent_shape(request)
        sizes = {"height": shape[1], "width": shape[2]}
        length = self._conditioner.length
        begun = time.perf_counter()
        encoders = [name for name in self._backends if name.startswith("text_encoder")]
        text = {name: self.engine(name, {"batch": 1, "sequence": length}) for name in encoders}
        opened = time.perf_counter()
        conditioning = self._conditioner(request, text.__getitem__)
        encoded = time.perf_counter()
        plan = Plan(
            request=request,
            schedule=schedule,
            conditioning=conditioning,
            unet=lambda rows: self.engine("unet", {"batch": rows, "sequence": length, **sizes}),
            decode=self.decode,
            latent_shape=shape,
            model=self.bundle.manifest.source,
            seconds=(0.0, encoded - opened),
        )
        own = sorted(plan.row_counts)
        for rows in own if batches is None else batches:
            plan.unet(rows)
        for count in decodes:
            self.engine("vae_decoder", {"batch": count, **sizes})
        compiling = (opened - begun) + (time.perf_counter() - encoded)
        return replace(plan, seconds=(compiling, encoded - opened))

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents [n, c, h, w] as the U-Net has them to pixels [n, 3, H, W] in [-1, 1]."""
        manifest = self.bundle.manifest
        count, _, height, width = latents.shape
        sizes = {"batch": count, "height": height, "width": width}
        decoder = self.engine("vae_decoder", sizes)
        spec = decoder.inputs[0]
        theirs = for_vae(latents, manifest)
        outputs = decoder({spec.name: theirs.astype(spec.dtype, copy=False)})
        return outputs["images"].astype(np.float32, copy=False)

    def engine(self, component: str, sizes: Mapping[str, int]) -> Engine:
        """The component's engine for these sizes, opened at first use."""
        key = component, tuple(sorted(sizes.items()))
        with self._lock:
            if self._closed:
                raise Unavailable("the pipeline is closed")
            place = self._engines.setdefault(key, _Place())
        # Only who wants this very engine waits for it to be compiled.
        with place.lock:
            if place.engine is None:
                place.engine = self._compile(component, sizes)
            engine = place.engine
        if self._closed:  # while it was compiled; `close` did not see it
            engine.close()
            raise Unavailable("the pipeline is closed")
        return engine

    def _compile(self, component: str, sizes: Mapping[str, int]) -> Engine:
        chosen = self._backends[component]
        if not self._guarded:
            blueprint = Blueprint.of(self.bundle, component, sizes)
            return chosen[1].compile(blueprint, self.options)
        try:
            opened = open_verified(
                self._cache,
                self.bundle,
                component,
                sizes,
                chosen,
                self.options,
                build=self._build,
            )
        except ShapeNotBuilt as error:
            raise ShapeNotBuilt(f"{error}; {self._command(chosen[0], sizes)}") from None
        return opened.engine

    def _command(self, engine: str, sizes: Mapping[str, int]) -> str:
        """What would build an engine of these sizes."""
        factor, options = self.bundle.manifest.vae_factor, self.options
        words = ["latentrt", "build", str(self.bundle.path), "--engine", engine]
        if "height" in sizes:
            words += ["--size", str(Size(sizes["width"] * factor, sizes["height"] * factor))]
        if sizes["batch"] > 1:
            words += ["--batch", str(sizes["batch"])]
        if options.precision != "fp32":
            words += ["--precision", options.precision]
        if options.threads is not None:
            words += ["--threads", str(options.threads)]
        if not options.arena:
            words += ["--no-arena"]
        return shlex.join(words)

    def _schedule(self, sampling: Sampling) -> Schedule:
        return build_schedule(
            self._scheduler,
            steps=sampling.steps,
            sampler=sampling.sampler,
            schedule=sampling.schedule,
            eta=sampling.eta,
            rho=sampling.rho,
            timesteps=sampling.timesteps,
            sigmas=sampling.sigmas,
            xl=self._xl,
        )

    def _resolved(self, request: Request) -> Request:
        manifest = self.bundle.manifest
        size = request.size
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


def _pair(size: Size) -> tuple[int, int]:
    return size.width, size.height


def _multiple(pixels: int, factor: int, up: int) -> int:
    return max(1, pixels // factor + (up if pixels % factor else 0)) * factor

"""A bundle ready for requests: engines compiled as their shapes come up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, Unavailable
from latentrt.engines.engine import Blueprint, Engine, Options, choose
from latentrt.runtime.request import Request, Size
from latentrt.runtime.result import Result
from latentrt.runtime.run import Plan, Run
from latentrt.runtime.schedules import as_stable_diffusion, build_schedule
from latentrt.runtime.text import PromptTokenizer, TextEncoder

_Key = tuple[str, tuple[tuple[str, int], ...]]


class Pipeline:
    """Text to image over one bundle. Thread-safe; runs share its engines."""

    def __init__(
        self, bundle: Bundle, engine: str, options: Options, components: Mapping[str, str]
    ) -> None:
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
        self._engines: dict[_Key, Engine] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._tokenizer = PromptTokenizer(bundle)
        self._text_encoder = TextEncoder(bundle)
        self._scheduler = as_stable_diffusion(bundle.scheduler_config())

    @staticmethod
    def open(
        path: Path | str,
        *,
        engine: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
        arena: bool = True,
        components: Mapping[str, str] = MappingProxyType({}),
    ) -> Pipeline:
        """Open a bundle.

        `engine` is a backend's name or "auto", the fastest installed that has the `precision`;
        `components` gives single components another backend; `threads` and `arena` are as in
        `latentrt.engines.engine.Options`. Raises `BundleError`, `Unavailable` or `InputError`.
        """
        options = Options(precision=precision, threads=threads, arena=arena)
        return Pipeline(Bundle.open(path), engine, options, components)

    @property
    def engines(self) -> Mapping[str, str]:
        """Name of the backend of each component."""
        return {name: chosen for name, (chosen, _) in self._backends.items()}

    @property
    def compiled(self) -> frozenset[tuple[str, int]]:
        """(component, batch size) of every engine compiled so far."""
        with self._lock:
            return frozenset((name, dict(sizes)["batch"]) for name, sizes in self._engines)

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
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    def __call__(self, request: Request) -> Result:
        """The pictures of a request."""
        return self.run(request).result()

    def run(self, request: Request) -> Run:
        """Begin a request: check it, compile the engines that are missing, encode its prompts.

        Raises `InputError` naming the field that does not fit this bundle, before any step.
        """
        request = self._resolved(request)
        self._text_encoder.check_clip_skip(request.clip_skip)
        schedule = build_schedule(
            self._scheduler,
            steps=request.sampling.steps,
            sampler=request.sampling.sampler,
            schedule=request.sampling.schedule,
        )
        shape = self._latent_shape(request)
        begun = time.perf_counter()
        sizes = {"height": shape[1], "width": shape[2]}
        length = self._tokenizer.length
        text_encoder = self.engine("text_encoder", {"batch": 1, "sequence": length})
        rows = 2 if request.guidance.active else 1
        unet = self.engine("unet", {"batch": rows, "sequence": length, **sizes})
        self.engine("vae_decoder", {"batch": 1, **sizes})
        compiled = time.perf_counter()
        text, notes = self._encode(request, text_encoder)
        encoded = time.perf_counter()
        return Run(
            Plan(
                request=request,
                schedule=schedule,
                text=text,
                unet=unet,
                decode=self.decode,
                latent_shape=shape,
                model=self.bundle.manifest.source,
                notes=notes,
                seconds=(compiled - begun, encoded - compiled),
            )
        )

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents [n, c, h, w] as the U-Net has them to pixels [n, 3, H, W] in [-1, 1]."""
        manifest = self.bundle.manifest
        count, _, height, width = latents.shape
        sizes = {"batch": count, "height": height, "width": width}
        decoder = self.engine("vae_decoder", sizes)
        spec = decoder.inputs[0]
        unscaled = latents / np.float32(manifest.vae_scaling) + np.float32(manifest.vae_shift)
        outputs = decoder({spec.name: unscaled.astype(spec.dtype, copy=False)})
        return outputs["images"].astype(np.float32, copy=False)

    def engine(self, component: str, sizes: Mapping[str, int]) -> Engine:
        """The component's engine for these sizes, compiled at first use."""
        key = component, tuple(sorted(sizes.items()))
        with self._lock:
            if self._closed:
                raise Unavailable("the pipeline is closed")
            if key not in self._engines:
                record = self.bundle.manifest.components[component]
                blueprint = Blueprint(
                    component=component,
                    graph=self.bundle.graph(component),
                    weights=self.bundle.weights(component),
                    inputs=record.inputs,
                    outputs=record.outputs,
                    sizes=dict(sizes),
                )
                self._engines[key] = self._backends[component][1].compile(blueprint, self.options)
            return self._engines[key]

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

    def _encode(
        self, request: Request, engine: Engine
    ) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        prompts = {"prompt": request.prompt}
        if request.guidance.active:
            prompts = {"negative_prompt": request.negative_prompt or "", **prompts}
        rows: list[NDArray[np.float32]] = []
        notes: list[str] = []
        for field, prompt in prompts.items():
            tokens = self._tokenizer(prompt)
            if tokens.cut:
                room = self._tokenizer.length - 2
                shown = tokens.cut if len(tokens.cut) <= 80 else f"{tokens.cut[:77]}..."
                notes.append(f"{field}: cut after {room} tokens; left out: {shown!r}")
            # As diffusers does: the negative prompt keeps the layers that the prompt leaves out.
            clip_skip = request.clip_skip if field == "prompt" else 0
            rows.append(self._text_encoder(tokens.ids, engine, clip_skip))
        return np.concatenate(rows), tuple(notes)


def _pair(size: Size) -> tuple[int, int]:
    return size.width, size.height


def _multiple(pixels: int, factor: int, up: int) -> int:
    return max(1, pixels // factor + (up if pixels % factor else 0)) * factor

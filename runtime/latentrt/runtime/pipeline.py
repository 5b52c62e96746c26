"""A bundle ready for requests: engines opened or built as their shapes come up."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.checks import as_path, integer, shown
from latentrt.bundle.errors import InputError, only_latentrt_errors
from latentrt.bundle.manifest import CLIP, CONTROLNET
from latentrt.engines.cache.cache import Build, Cache
from latentrt.engines.engine import Engine
from latentrt.engines.memory import available_memory
from latentrt.engines.process import Home
from latentrt.engines.registry import Chosen, Progress
from latentrt.engines.verification.verify import Verify, check_verify
from latentrt.runtime.batcher import Batcher
from latentrt.runtime.bundle_engines import engines_for
from latentrt.runtime.controlled_unet import ControlledUnet
from latentrt.runtime.controlling import Controlling
from latentrt.runtime.controlnets import ControlNets
from latentrt.runtime.conversion.opened import is_checkpoint
from latentrt.runtime.plan import Plan
from latentrt.runtime.planning import Planning
from latentrt.runtime.request import Request
from latentrt.runtime.result import Result
from latentrt.runtime.rows import Calls, Model
from latentrt.runtime.run import DirectRun
from latentrt.runtime.size_limit import SizeLimit
from latentrt.runtime.variants import variant_of, with_vae
from latentrt.runtime.weights_fields import loras_of
from latentrt.weights.lora.lora import Lora, weights_key

if TYPE_CHECKING:
    from latentrt.runtime.conversion.options import CheckpointOptions

_VARIANTS: Final = 4
"""Sets of weights whose engines a pipeline keeps, the last used."""


_OTHERS: Final = {
    CONTROLNET: "a ControlNet, which a request's controls name",
    CLIP: "a CLIP, which Clip.open and `latentrt score` take",
}
"""Bundles that draw nothing, by family."""


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
        low_memory: bool = False,
        base: Pipeline | None = None,
        changed: frozenset[str] = frozenset(),
    ) -> None:
        """Over a bundle that is open already; other arguments as in `open`.

        Without `guarded`, engines are compiled for this pipeline alone and not verified. That
        measures the error of an engine that would be refused. All components but the `changed` ones
        are those of `base`, if it is given.
        """
        self._home = Home("pipeline")
        if not isinstance(bundle, Bundle):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("bundle", "a Bundle; Pipeline.open takes a path", shown(bundle))
        if bundle.manifest.family in _OTHERS:
            got = f"{bundle.path}, {_OTHERS[bundle.manifest.family]}"
            raise InputError("bundle", "a model's", got)
        check_verify(verify)
        most_pixels = _limit("max_pixels", max_pixels)
        most_engines = _limit("max_engines", 1 if low_memory else max_engines)
        self.bundle = bundle
        memory = available_memory()
        engines_of = partial(
            engines_for,
            engine=engine,
            precision=precision,
            options=options,
            components=components,
            build=build,
            cache=cache,
            guarded=guarded,
            verify=verify,
            max_engines=most_engines,
            memory=memory,
        )
        self._engines = engines_of(bundle)
        # Made where 16 bits overflow.
        self._in_fp32 = lru_cache(maxsize=1)(
            lambda: engines_of(bundle, precision="fp32", components={})
        )
        limit = SizeLimit.of(
            bundle.manifest,
            set(self.engines.values()),
            max_pixels=most_pixels,
            memory=memory,
            verified=guarded and build == "missing" and verify == "full",
        )
        self._base = base
        self._changed = changed
        self._controlnets = ControlNets(engines_of) if base is None else base._controlnets
        self._controlled = (
            ControlledUnet(bundle, engines_of)
            if base is None or "unet" in changed
            else base._controlled
        )
        shared: dict[str, Model] = {}
        if base is not None:
            models = base._planning.models.items()
            shared = {name: model for name, model in models if name not in changed}
        narrow = [n for n, chosen in self._engines.chosen.items() if chosen.precision != "fp32"]
        wide = tuple(
            Model(name, bundle.manifest.components[name].inputs, partial(self._widened, name))
            for name in narrow
            if name.startswith("vae_")
        )
        controlling = Controlling(bundle, self._controlnets, self._controlled.model)
        self._planning = Planning(
            bundle, self._opened, limit, shared, controlling, wide, held=not low_memory
        )
        like = partial(
            Pipeline,
            engine=engine,
            precision=precision,
            options=options,
            build=build,
            cache=cache,
            verify=verify,
            max_pixels=max_pixels,
            max_engines=max_engines,
            low_memory=low_memory,
        )
        self._like_itself = partial(like, guarded=guarded)
        self._refiners: dict[Path, Pipeline] = {}
        self._refiner_lock = threading.Lock()
        # The base's engines were compared, and a variant's are of the same graphs.
        compared = guarded and verify == "full"
        self._like = partial(like, components=components, guarded=compared)
        self._variant = lru_cache(maxsize=_VARIANTS)(self._make_variant)

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
        low_memory: bool = False,
        vae: Path | str | None = None,
        checkpoint: CheckpointOptions | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Open a bundle, or a checkpoint: a `.safetensors` file, a diffusers folder, `org/name`.

        Of a checkpoint a bundle is made in the user's cache folder, without PyTorch, once.

        - `engine`: a backend's name, or "auto": the fastest that is installed, is not unverified
          and has the `precision`.
        - `precision`: "fp32", "fp16" or "bf16"; "auto" is the backend's own for the dtype of the
          weights.
        - `options`: the backends' own, such as {"threads": 4}; `latentrt doctor` lists them. Each
          backend gets those that it has.
        - `components`: another backend or precision for single components, such as
          {"vae_decoder": "fp32"} or "onnxruntime:fp32".
        - `cache`: the folder of compiled engines; None is the user's own. `build="never"` compiles
          nothing: a missing engine raises `ShapeNotBuilt` with the command that builds it.
        - `verify`: how new engines are compared with PyTorch's outputs, or ONNX Runtime's. "golden"
          compares one small engine for all sizes. "full" compares every engine at its own size,
          which takes a second engine beside it. "off" compares nothing.
        - `max_pixels`: the most pixels of a picture, width times height. The default is 16 times
          the checkpoint's own size, and what the machine's memory allows.
        - `max_engines`: the number of unused engines that are kept, the last used first. The
          default is 12, with weights of at most half of the memory that is available now.
        - `low_memory`: keep the engines of one component at a time: the text encoder and the VAE
          are freed while the U-Net runs, and the U-Net while the VAE does. Each picture then
          loads them again. It is for pictures one after the other, not for a batcher.
        - `vae`: a `.safetensors` file with a VAE in place of the model's own.
        - `checkpoint`: how a checkpoint is read: the dtype of its bundle's weights, a VAE from
          another file, what is not to be inferred. `progress` is called while it is made.

        Raises `BundleError`, `Unavailable` or `InputError`. A pipeline is used by the process that
        opened it: open it after a fork.
        """
        if build not in ("missing", "never"):
            raise InputError("build", "missing or never", shown(build))
        folder = None if cache is None else as_path("cache", cache)
        with only_latentrt_errors():
            opened = Bundle.open(_bundle_of(as_path("bundle", path), checkpoint, progress))
            made_with = None if checkpoint is None else checkpoint.vae
            return cls(
                with_vae(opened, None if vae is None else as_path("vae", vae), made_with),
                engine,
                precision,
                options,
                components,
                build=build,
                cache=Cache(folder),
                verify=verify,
                max_pixels=max_pixels,
                max_engines=max_engines,
                low_memory=low_memory,
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
        if self._in_fp32.cache_info().currsize:
            self._in_fp32().close()
        if self._base is None or "unet" in self._changed:
            self._controlled.close()
        if self._base is None:
            self._controlnets.close()
        with self._refiner_lock:
            refiners, self._refiners = list(self._refiners.values()), {}
        for each in refiners:
            each.close()

    def forget_prompts(self) -> None:
        """Encode every prompt again from now on, also those encoded before: for measurements."""
        self._planning.forget_prompts()

    def __call__(self, request: Request) -> Result:
        """The pictures of a request."""
        return self.run(request).result()

    def run(self, request: Request, *, progress: Progress | None = None) -> DirectRun:
        """Begin a request: check it, compile the engines that are missing, encode its prompts.

        `progress` is called with what is done to which engine, the number of engines that are
        ready, and the number that there will be. Raises `InputError` naming
        the field that does not fit this bundle, before any step.
        """
        with only_latentrt_errors():
            return DirectRun(self.plan(request, progress=progress))

    def with_weights(self, *weights: Lora) -> Pipeline:
        """This pipeline with LoRAs added to its weights; the base stays as it is.

        Both share every engine whose weights are the same. The changed tensors are computed in
        float32, rounded once, and kept in the cache folder. Raises `WeightsError` for a file that
        does not fit, `InputError`.
        """
        self._home.check()
        with only_latentrt_errors():
            return self._variant(weights_key(weights), weights) if weights else self

    def batcher(
        self,
        *,
        max_batch: int = 8,
        batch_sizes: Sequence[int] | None = None,
        decode_sizes: Sequence[int] = (1,),
        queue: int = 256,
    ) -> Batcher:
        """Serve many requests at once. Their rows share U-Net calls at every step.

        U-Nets are compiled for `batch_sizes`, and VAE decoders for `decode_sizes`. The default
        batch sizes are the powers of two up to `max_batch`. There are fewer of them where their
        weights would take more than half of the available memory. With one size each, such as
        `batch_sizes=(8,)`, a request gives the same picture, whatever shares its calls, bit for
        bit. `queue` is the number of pictures in progress beyond which `submit` raises `QueueFull`.
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
        loras = loras_of(request.weights)
        pipeline = self.with_weights(*loras) if loras else self
        named = request.refiner
        refiner = None if named is None else self._refiner(_bundle_of(named.model, None, progress))
        return pipeline._planning(
            request,
            batches=batches,
            decodes=decodes,
            progress=progress,
            refiner=None if refiner is None else refiner._planning,
        )

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents [n, c, h, w] as the U-Net has them to pixels [n, 3, H, W] in [-1, 1]."""
        if not isinstance(latents, np.ndarray) or latents.ndim != 4:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("latents", "an array [n, c, h, w]", shown(latents))
        rows = [self._planning.decoder_row(latent) for latent in latents]
        outputs = Calls({"vae": (len(rows),)}).together(rows)
        return np.stack([output["images"] for output in outputs])

    def engine(
        self, component: str, sizes: Mapping[str, int], progress: Progress | None = None
    ) -> Engine:
        """The component's engine for these sizes, opened at first use.

        It is not freed while somebody holds it; `progress` is called with what is done for it.
        """
        if component not in self._engines.chosen:
            expected = f"one of {', '.join(self._engines.chosen)}"
            raise InputError("component", expected, shown(component))
        if not isinstance(sizes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("sizes", "a mapping, such as {'batch': 1}", shown(sizes))
        if self._base is not None and component not in self._changed:
            return self._base.engine(component, sizes, progress)
        return self._engines.get(component, sizes, progress)

    def _opened(self, *asked: Any) -> Engine:
        # Looked up at every call: a subclass may have an `engine` of its own.
        return self.engine(*asked)

    def _refiner(self, folder: Path) -> Pipeline:
        """The pipeline over a refiner's bundle; one is kept."""
        if self._base is not None:
            return self._base._refiner(folder)
        with self._refiner_lock:
            if folder not in self._refiners:
                self._refiners = {folder: self._like_itself(Bundle.open(folder))}
            return self._refiners[folder]

    def _widened(self, component: str, *asked: Any) -> Engine:
        """An engine of the VAE in fp32, where its 16 bits overflowed."""
        return self._in_fp32().get(component, *asked)

    def _make_variant(self, key: str, weights: tuple[Lora, ...]) -> Pipeline:
        del key  # tells a file from another at the same path
        found = variant_of(self.bundle, weights)
        return self._like(found.bundle, base=self, changed=found.components)

    def _batch_sizes(self, most: int) -> Sequence[int]:
        """Powers of two up to `most`, and that; where memory is short, the most useful of them."""
        powers = [2**n for n in reversed(range(most.bit_length())) if 2**n < most]
        # A full call, then the two rows of one guided picture, then one row.
        useful = list(dict.fromkeys([most, *(n for n in (2, 1) if n < most), *powers]))
        return sorted(useful[: self._engines.copies("unet", len(useful))])


def _limit(field: str, value: object) -> int | None:
    """A limit that the operator sets; None for the default."""
    return None if value is None else integer(field, "an integer of at least 1", value, 1)


def _bundle_of(path: Path, options: CheckpointOptions | None, progress: Progress | None) -> Path:
    if not is_checkpoint(path):
        return path
    # Only where a bundle may be made.
    from latentrt.runtime.conversion.cached import cached_bundle
    from latentrt.runtime.conversion.options import CheckpointOptions

    return cached_bundle(
        path, options or CheckpointOptions(), progress or (lambda stage, done, total: None)
    )

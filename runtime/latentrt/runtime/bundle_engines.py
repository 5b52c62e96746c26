"""The engines of one bundle, opened or built as their shapes come up."""

from __future__ import annotations

import contextlib
import functools
import shlex
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, cast

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.cache_folder import VARIABLE, cache_folder
from latentrt.bundle.checks import shown
from latentrt.bundle.errors import Closed, InputError, ShapeNotBuilt
from latentrt.engines.cache.cache import Build, Cache
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.log import LOG, described
from latentrt.engines.options import assigned, checked, names_of, unknown_option
from latentrt.engines.process import Home
from latentrt.engines.registry import BACKENDS, PRECISIONS, Chosen, Progress, backend, choose
from latentrt.engines.verification.verify import Verify, open_verified
from latentrt.runtime.size import Size
from latentrt.runtime.text import PromptTokenizer
from latentrt.weights.control_specs import CONTROLNET, HINT_ENCODER

CONTROLLED: Final = "unet_controlled"
"""The component that is a U-Net under ControlNets."""
OF_CONTROLNETS: Final = frozenset({CONTROLLED, HINT_ENCODER, CONTROLNET})
"""The components that no bundle of a model has."""

_Key = tuple[str, tuple[tuple[str, int], ...]]


MAX_ENGINES: Final = 12
"""Engines that are kept by default: a text encoder's, and those of five sizes for single pictures.

A batcher of four batch sizes has four U-Nets for each size.
"""


@dataclass(slots=True, eq=False)
class _Place:
    """Where an engine is, or will be when the thread that has the lock has compiled it.

    `kept` is None for one that only its users still hold; `known` then finds it.
    """

    # A progress callback runs under the lock, and may close the pipeline.
    lock: threading.RLock = field(default_factory=threading.RLock)
    kept: Engine | None = None
    known: weakref.ref[Engine] | None = None

    @property
    def engine(self) -> Engine | None:
        """The engine, if it has not been freed."""
        return self.kept or (None if self.known is None else self.known())

    def keep(self, engine: Engine) -> None:
        """Keep it while it is not used."""
        self.kept, self.known = engine, weakref.ref(engine)


class BundleEngines:
    """Gives each component's engine for a size, made once. Thread-safe.

    Arguments are as in `choices`. Without `guarded`, engines are compiled for this object alone and
    not verified; `verify` says how the others are. `max_engines` is how many unused engines are
    kept, the last used first. None means `MAX_ENGINES`, with weights of at most half the `memory`
    (bytes; None: any). An engine in use, by a run or a batch, is freed only after that. Raises what
    `choices` raises.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str,
        precision: str,
        options: Mapping[str, object],
        components: Mapping[str, str],
        *,
        build: Build,
        cache: Cache | None,
        guarded: bool,
        verify: Verify = "golden",
        max_engines: int | None = None,
        memory: int | None = None,
    ) -> None:
        self._home = Home("pipeline")
        self._bundle = bundle
        self._most = MAX_ENGINES if max_engines is None else max_engines
        self._memory = memory if max_engines is None else None
        self._chosen = choices(bundle, engine, precision, options, components)
        self._cache = Cache() if cache is None else cache
        self._build: Build = build
        self._guarded = guarded
        self._verify: Verify = verify
        if guarded and verify == "off":
            LOG.warning("engines are not verified: verify is 'off'")
        # Asked for at every call of an engine, and not to be read again from the bundle.
        self._weights = functools.cache(self._bytes_of)
        self._places: dict[_Key, _Place] = {}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def chosen(self) -> Mapping[str, Chosen]:
        """Backend, precision and options of each component."""
        return MappingProxyType(self._chosen)

    @property
    def compiled(self) -> frozenset[tuple[str, int]]:
        """(component, batch size) of every engine that is there."""
        self._home.check()
        with self._lock:
            made = [key for key, place in self._places.items() if place.engine is not None]
        return frozenset((name, dict(sizes)["batch"]) for name, sizes in made)

    def get(
        self, component: str, sizes: Mapping[str, int], progress: Progress | None = None
    ) -> Engine:
        """The component's engine for these sizes, opened at first use, or after it was freed.

        It stays for as long as it is held. `progress` is called with what has to be done. Raises
        `Closed` when closed or in a process that did not open the pipeline, `ShapeNotBuilt`,
        `BuildFailed` or `VerificationFailed`.
        """
        self._home.check()
        key = component, tuple(sorted(sizes.items()))
        with self._lock:
            if self._closed:
                raise Closed("the pipeline is closed")
            # The last used is the last of the places.
            place = self._places[key] = self._places.pop(key, None) or _Place()
        # Only who wants this very engine waits for it to be compiled.
        with place.lock:
            engine = place.engine
            if engine is None:
                self._free_unused(key)  # before, so that both are not there at once
                engine = self._compile(component, sizes, progress)
            place.keep(engine)
        if self._closed:  # while it was compiled; `close` did not see it
            engine.close()
            raise Closed("the pipeline is closed")
        self._free_unused(key)
        return engine

    def _free_unused(self, wanted: _Key) -> None:
        """Let go of the engines that were not used for the longest time, beyond what is kept.

        The `wanted` one counts, though it may not be there yet.
        """
        with self._lock:
            kept, weights = 0, 0
            for key, place in reversed(self._places.items()):
                component, sizes = key
                if place.kept is None and key != wanted:
                    continue
                kept, weights = kept + 1, weights + self._weights(component)
                over = self._memory is not None and weights > self._memory // 2
                if kept > 1 and (kept > self._most or over):
                    place.kept = None
                    LOG.info("%s: not kept any more", described(component, dict(sizes)))

    def copies(self, component: str, most: int) -> int:
        """How many engines of a component to have at once by default, from 1 to `most`.

        Each has a copy of the weights; together they take at most half the memory.
        """
        if self._memory is None:
            return most
        return min(max(self._memory // 2 // max(self._weights(component), 1), 1), most)

    def _bytes_of(self, component: str) -> int:
        """Bytes of a component's weights in memory."""
        manifest = self._bundle.manifest
        record = manifest.components[component]
        if record.table is None:
            stored = manifest.files[record.weights].size
        else:
            stored = self._bundle.tensors(component).nbytes
        wide = self._chosen[component].precision == "fp32" and manifest.dtype != "float32"
        return 2 * stored if wide else stored

    def close(self) -> None:
        """Free every engine; none is given any more. In a forked process it does nothing."""
        if not self._home.here:
            return
        with self._lock:
            self._closed = True
            places = list(self._places.values())
            self._places.clear()
        for place in places:
            with place.lock:
                if (engine := place.engine) is not None:
                    engine.close()

    def _compile(
        self, component: str, sizes: Mapping[str, int], progress: Progress | None
    ) -> Engine:
        chosen = self._chosen[component]
        if not self._guarded:
            if self._build == "never":
                raise ShapeNotBuilt(
                    f"{component}: not built: engines of these weights are not stored"
                )
            return chosen.compile(Blueprint.of(self._bundle, component, sizes))
        try:
            opened = open_verified(
                self._cache,
                self._bundle,
                component,
                sizes,
                chosen,
                verify=self._verify,
                build=self._build,
                progress=progress,
            )
        except ShapeNotBuilt as error:
            command = self._command(component, sizes)
            raise ShapeNotBuilt(f"{error}; {command}") from None
        return opened.engine

    def _command(self, component: str, sizes: Mapping[str, int]) -> str:
        """What would build an engine of these sizes."""
        chosen = self._chosen[component]
        model, control = str(self._bundle.path), "CONTROLNET"
        if component in (HINT_ENCODER, CONTROLNET):
            model, control = "MODEL", model
        words = ["latentrt", "build", model, "--engine", chosen.name]
        if component in OF_CONTROLNETS:
            words += ["--control", control]
        words += ["--precision", chosen.precision]
        size = _picture(sizes, self._bundle.manifest.vae_factor)
        if size is not None:
            words += ["--size", str(size)]
        if sizes["batch"] > 1:
            option = "--decode-batch" if component == "vae_decoder" else "--batch"
            words += [option, str(sizes["batch"])]
        if component == "unet" and "sequence" in sizes:
            chunks = sizes["sequence"] // PromptTokenizer.of(self._bundle).length
            words += ["--chunks", str(chunks)] if chunks > 1 else []
        if self._verify != "golden":
            words += ["--verify", self._verify]
        for each in assigned(chosen.options):
            words += ["--option", each]
        with contextlib.suppress(InputError):  # no home folder
            if self._cache.path == cache_folder():
                return shlex.join(words)
        return f"{VARIABLE}={shlex.quote(str(self._cache.path))} {shlex.join(words)}"


def engines_for(
    bundle: Bundle,
    *,
    engine: str,
    precision: str,
    options: Mapping[str, object],
    components: Mapping[str, str],
    build: Build,
    cache: Cache | None,
    guarded: bool,
    verify: Verify,
    max_engines: int | None,
    memory: int | None,
) -> BundleEngines:
    """The engines of a bundle; `components` may name those of ControlNets too."""
    components = components_of(bundle, components)
    return BundleEngines(
        bundle,
        engine,
        precision,
        options,
        components,
        build=build,
        cache=cache,
        guarded=guarded,
        verify=verify,
        max_engines=max_engines,
        memory=memory,
    )


def components_of(bundle: Bundle, components: Mapping[str, str]) -> Mapping[str, str]:
    """What is said of a bundle's own components, where ControlNets are named as well.

    A U-Net under ControlNets has the backend and precision of the U-Net, unless it has its own.
    """
    if not isinstance(components, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        return components
    known = dict(components)
    if "unet" in known:
        known = {CONTROLLED: known["unet"], **known}
    own = set(bundle.manifest.components)
    others = set(known) - own if own & OF_CONTROLNETS else OF_CONTROLNETS
    return {name: choice for name, choice in known.items() if name not in others}


def choices(
    bundle: Bundle,
    engine: str,
    precision: str,
    options: Mapping[str, object],
    components: Mapping[str, str],
) -> dict[str, Chosen]:
    """Backend, precision and options of each of a bundle's components.

    `engine` is a backend's name or "auto"; `components` gives single components another backend, or
    precision, or both, as "onnxruntime", "fp32" or "onnxruntime:fp32". Each backend gets those of
    the options that it has. Raises `InputError` for an unknown component, a precision that a
    backend does not have, or an option that no backend has. Raises `Unavailable` for a backend that
    does not work here.
    """
    manifest = bundle.manifest
    _check_names(engine, components)
    options = checked(options)
    unknown = sorted(set(components) - set(manifest.components))
    if unknown:
        expected = f"names among {', '.join(manifest.components)}"
        raise InputError("components", expected, shown(unknown[0]))
    # Asking a backend whether it works here may take a while, and most components have the same.
    wanted = {name: components.get(name, "") for name in manifest.components}
    asked = {own: _asked(own, engine, precision) for own in wanted.values()}
    elsewhere = {o for name, _ in asked.values() if name in BACKENDS for o in _names(name)}
    found: dict[str, Chosen] = {}
    for own, (name, its) in asked.items():
        if name in BACKENDS:
            given = {o: value for o, value in options.items() if o in _names(name)}
        else:  # "auto" looks for a backend that has the rest
            given = {o: value for o, value in options.items() if o not in elsewhere}
        found[own] = choose(name, manifest.dtype, its, given)
    kinds = {chosen.name: chosen.backend.options for chosen in found.values()}
    for option in options:
        if all(option not in names_of(kind) for kind in kinds.values()):
            raise unknown_option(option, kinds)
    return {name: found[own] for name, own in wanted.items()}


def _check_names(engine: object, components: object) -> None:
    """Raise `InputError` for what is no name of a backend, or no mapping of names to names."""
    if not isinstance(engine, str):
        raise InputError("engine", "a backend's name, or auto", shown(engine))
    if not isinstance(components, Mapping):
        expected = "a mapping, such as {'vae_decoder': 'fp32'}"
        raise InputError("components", expected, shown(components))
    for names in cast("Mapping[object, object]", components).items():
        if not all(isinstance(name, str) for name in names):
            expected = "names of components, each with an engine or a precision"
            raise InputError("components", expected, "{!s}: {!s}".format(*map(shown, names)))


def _asked(own: str, engine: str, precision: str) -> tuple[str, str]:
    """The backend and precision of a component that is given these of its own."""
    name, _, its = own.partition(":")
    if name in PRECISIONS and not its:
        name, its = "", name
    return name or engine, its or precision


def _names(name: str) -> tuple[str, ...]:
    return names_of(backend(name).options)


def _picture(sizes: Mapping[str, int], factor: int) -> Size | None:
    """The size of the pictures that an engine is for; None where it is for any."""
    if "image_height" in sizes:
        return Size(sizes["image_width"], sizes["image_height"])
    if "height" in sizes:
        return Size(sizes["width"] * factor, sizes["height"] * factor)
    return None

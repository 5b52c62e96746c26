"""The engines of a machine compared with PyTorch, one after another, on one bundle."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.numerics.compare import compare
from latentrt.benchmarks.numerics.comparison import Comparison
from latentrt.benchmarks.numerics.findings import Findings, bundle_summary
from latentrt.benchmarks.numerics.layer_table import LayerTable
from latentrt.benchmarks.numerics.reference import Reference, ReferenceRequest
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import EngineError, InputError, LatentrtError, NonFinite, Unavailable
from latentrt.engines.registry import BACKENDS, PRECISIONS
from latentrt.runtime.bundle_engines import choices
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.size import Size

if TYPE_CHECKING:
    from latentrt.benchmarks.numerics.torch_model import TorchModel

ALL: Final = "all"
"""Instead of an engine's name: every engine that is verified and works here."""

Progress = Callable[[str, int, int, str], None]
"""Given a stage, how many parts of it are done, of how many, and a note."""


@dataclass(frozen=True, slots=True)
class References:
    """What engines are compared with.

    Stored goldens, or, where `live`, what PyTorch computes now: for each of `prompts` with each of
    `seeds`, in `steps` at `size` (by default as the goldens, with seed 0). `checkpoint` names the
    weights that PyTorch has (None: the bundle's own). `layers` asks for every layer as well. Raises
    `InputError` for options that do not go together.
    """

    live: bool = False
    layers: bool = False
    checkpoint: str | None = None
    prompts: Sequence[str] = ()
    seeds: Sequence[int] = ()
    steps: int | None = None
    size: Size | None = None

    def __post_init__(self) -> None:
        if self.checkpoint is not None and not (self.layers or self.live):
            raise InputError("checkpoint", "--live or --layers beside it", "neither")
        given = {
            "prompt": bool(self.prompts),
            "seed": bool(self.seeds),
            "steps": self.steps is not None,
            "size": self.size is not None,
        }
        for name, there in given.items():
            if there and not self.live:
                raise InputError(name, "--live beside it, since goldens are of one run", "none")

    def requests(self) -> list[ReferenceRequest]:
        """What PyTorch is to draw."""
        plain = ReferenceRequest(size=self.size)
        steps = plain.steps if self.steps is None else self.steps
        prompts, seeds = self.prompts or (plain.prompt,), self.seeds or (plain.seed,)
        return [
            replace(plain, prompt=prompt, seed=seed, steps=steps)
            for prompt, seed in itertools.product(prompts, seeds)
        ]


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine as `Pipeline` takes it; the name "all" stands for every one that works here."""

    name: str
    precision: str
    options: Mapping[str, object]
    components: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"

    @property
    def asked(self) -> tuple[str, str, Mapping[str, object], Mapping[str, str]]:
        """Engine, precision, options and components, as `Pipeline` takes them."""
        return self.name, self.precision, self.options, self.components

    @property
    def several(self) -> bool:
        """Whether it stands for more than one."""
        return self.name == ALL

    def each(self, dtype: str) -> Iterator[EngineChoice]:
        """Every engine that it stands for, with a precision, for a graph of that dtype."""
        if not self.several:
            yield self
            return
        if self.components:
            raise InputError("component", "none beside --engine all", ", ".join(self.components))
        if self.precision not in ("auto", *PRECISIONS):
            expected = f"one of auto, {', '.join(PRECISIONS)}"
            raise InputError("precision", expected, repr(self.precision))
        yield from self._working(dtype, unverified=False)

    def unverified(self, dtype: str) -> dict[str, str]:
        """Engines that work here but are left out, and why."""
        reason = "unverified: it never ran on its hardware; --engine {} compares it"
        found = self._working(dtype, unverified=True) if self.several else ()
        return {str(each): reason.format(each.name) for each in found}

    def _working(self, dtype: str, *, unverified: bool) -> Iterator[EngineChoice]:
        for name, backend in BACKENDS.items():
            if bool(backend.unverified) != unverified or not backend.status().usable:
                continue
            for precision in backend.precisions.get(dtype, ()):
                if self.precision in ("auto", precision):
                    yield replace(self, name=name, precision=precision)


@dataclass(frozen=True, slots=True)
class _Problems:
    """Why engines were skipped or failed, by name; with one engine, errors are raised instead."""

    several: bool
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    @contextmanager
    def noted(self, name: str, *, needed: bool = False) -> Generator[None]:
        """Note an error in the block; `needed`: something missing is a failure too."""
        try:
            yield
        except (EngineError, NonFinite) as error:
            if not self.several:
                raise
            missing = isinstance(error, Unavailable) and not needed
            (self.skipped if missing else self.failed)[name] = str(error)


def survey(bundle: Bundle, asked: EngineChoice, wanted: References, progress: Progress) -> Findings:
    """Compare engines with PyTorch.

    Of several engines, some are skipped: those that are unverified, lack an option, or need
    something that is not installed. One that cannot be compiled, or returns NaN or infinity, has
    failed. The others go on. Raises `InputError`, `Unavailable` where nothing could be compared,
    `LatentrtError` where PyTorch is needed and missing, and for one engine what compiling raises.
    """
    problems = _Problems(asked.several)
    engines = _usable(bundle, asked, problems.skipped)
    model = _torch_model(bundle, wanted.checkpoint) if wanted.live or wanted.layers else None
    references = _references(bundle, wanted, model, progress)
    comparisons: list[Comparison] = []
    layers: list[LayerTable] = []
    for done, engine in enumerate(engines):
        progress("engines", done, len(engines), str(engine))
        with problems.noted(str(engine)):
            comparisons.append(_compared(bundle, engine, references))
        if wanted.layers and model is not None and str(engine) not in problems.skipped:
            layers += _layers(bundle, engine, model, references[0], problems, progress)
    progress("engines", len(engines), len(engines), "")
    if not (comparisons or layers or problems.failed):
        raise _nothing(problems.skipped)
    return Findings(
        bundle=bundle_summary(bundle),
        machine=Machine.here(),
        reference=(
            f"PyTorch fp32, computed now with {model.name}"
            if wanted.live and model is not None
            else "PyTorch fp32, stored in the bundle"
        ),
        comparisons=tuple(comparisons),
        layers=tuple(layers),
        skipped=problems.skipped,
        failed=problems.failed,
    )


def _usable(bundle: Bundle, asked: EngineChoice, skipped: dict[str, str]) -> list[EngineChoice]:
    """The engines that have what was asked for; the reasons of others go to `skipped`."""
    found: list[EngineChoice] = []
    dtype = bundle.manifest.dtype
    for engine in asked.each(dtype):
        try:
            choices(bundle, *engine.asked)
        except (InputError, Unavailable) as error:
            if not asked.several:
                raise
            skipped[str(engine)] = str(error)
        else:
            found.append(engine)
    skipped |= asked.unverified(dtype)
    if not found:
        raise _nothing(skipped)  # before PyTorch computes, which may take minutes
    return found


def _nothing(skipped: Mapping[str, str]) -> Unavailable:
    reasons = "; ".join(f"{name}: {problem}" for name, problem in skipped.items())
    return Unavailable(
        f"nothing was compared: {reasons or 'no engine that works here has this precision'}"
    )


def _compared(bundle: Bundle, engine: EngineChoice, references: Sequence[Reference]) -> Comparison:
    # Not verified before: the comparison also measures the error of an engine that is refused.
    with Pipeline(bundle, *engine.asked, guarded=False) as pipeline:
        return compare(pipeline, references)


def _torch_model(bundle: Bundle, checkpoint: str | None) -> TorchModel:
    try:
        from latentrt.benchmarks.numerics.torch_model import TorchModel
    except ImportError as error:
        raise LatentrtError(f"{error.name} is missing: pip install 'latentrt[bench]'") from error
    return TorchModel.of(bundle, checkpoint)


def _references(
    bundle: Bundle, wanted: References, model: TorchModel | None, progress: Progress
) -> tuple[Reference, ...]:
    if not wanted.live or model is None:
        return (Reference.stored(bundle),)
    requests = wanted.requests()
    total = len(requests) * len(bundle.manifest.components)
    count = itertools.count(1)
    progress("PyTorch", 0, total, "")
    return tuple(
        model.evaluate(bundle, each, lambda: progress("PyTorch", next(count), total, ""))
        for each in requests
    )


def _layers(
    bundle: Bundle,
    engine: EngineChoice,
    model: TorchModel,
    reference: Reference,
    problems: _Problems,
    progress: Progress,
) -> list[LayerTable]:
    """The layers of every component for which they can be compared."""
    from latentrt.benchmarks.numerics import layers

    found: list[LayerTable] = []
    chosen = choices(bundle, *engine.asked)
    for done, (name, each) in enumerate(chosen.items()):
        progress("layers", done, len(chosen), f"{name}, {each.name}")
        with problems.noted(f"{engine}, layers of {name}", needed=True):
            found.append(layers.layer_table(bundle, name, each, model, reference))
    progress("layers", len(chosen), len(chosen), "")
    return found

"""The work of `latentrt compare`: engines, and their layers, held against PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from latentrt.benchmarks.numerics.compare import compare as hold
from latentrt.benchmarks.numerics.compare import stored
from latentrt.benchmarks.numerics.comparison import Comparison, Question, Reference
from latentrt.benchmarks.numerics.findings import Findings
from latentrt.benchmarks.numerics.layer_table import LayerTable
from latentrt.benchmarks.numerics.provenance import Provenance
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import EngineError, InputError, LatentrtError, NonFinite, Unavailable
from latentrt.bundle.publish import write_file
from latentrt.cli.progress import Bars
from latentrt.engines.registry import BACKENDS, PRECISIONS
from latentrt.runtime import Pipeline, Size
from latentrt.runtime.bundle_engines import choices

if TYPE_CHECKING:
    from latentrt.benchmarks.numerics.original import Original

ALL: Final = "all"
"""Instead of an engine's name: every one that is verified and works here."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked at.

    `layers` asks for every layer, `live` for PyTorch's answers made now instead of the stored ones,
    to each of `prompts` with each of `seeds` (without either the goldens' prompt, and seed 0), in
    `steps` at `size`; `checkpoint` names the weights that PyTorch takes, None the bundle's own;
    `adherence` is a number of pictures of models/shapes to judge by what was asked for.
    """

    layers: bool = False
    live: bool = False
    checkpoint: str | None = None
    prompts: Sequence[str] = ()
    seeds: Sequence[int] = ()
    steps: int | None = None
    size: Size | None = None
    adherence: int | None = None

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
                expected = "--live beside it: the stored answers are those of one run"
                raise InputError(name, expected, "none")

    @property
    def questions(self) -> Iterator[Question]:
        """What PyTorch is asked."""
        plain = Question(size=self.size)
        steps = plain.steps if self.steps is None else self.steps
        for prompt, seed in itertools.product(self.prompts or (plain.prompt,), self.seeds or (0,)):
            yield replace(plain, prompt=prompt, seed=seed, steps=steps)


@dataclass(frozen=True, slots=True)
class Engines:
    """Which engines are compared: as `choices` takes them, or "all" of one or every precision."""

    name: str
    precision: str
    options: Mapping[str, object]
    components: Mapping[str, str]

    @property
    def asked(self) -> tuple[str, str, Mapping[str, object], Mapping[str, str]]:
        """What `choices` and `Pipeline` take."""
        return self.name, self.precision, self.options, self.components

    @property
    def several(self) -> bool:
        """Whether there may be more than one."""
        return self.name == ALL

    def each(self, dtype: str) -> Iterator[tuple[str, str]]:
        """Names and precisions for a graph of that dtype; of all, those that work here."""
        if not self.several:
            yield self.name, self.precision
            return
        if self.components:
            raise InputError("component", "none beside --engine all", ", ".join(self.components))
        asked = self.precision
        if asked not in ("auto", *PRECISIONS):
            raise InputError("precision", f"one of auto, {', '.join(PRECISIONS)}", repr(asked))
        found = self._working(dtype, unverified=False)
        if not found:
            nobody = f"no engine that works here computes {dtype} weights in {asked}"
            left = (f"{name}: {reason}" for name, reason in self.unverified(dtype).items())
            raise Unavailable("; ".join((nobody, *left)))
        yield from found

    def unverified(self, dtype: str) -> dict[str, str]:
        """Of all, those that would work here but are left out, by name and precision, and why."""
        reason = "unverified: nobody has run it on its hardware; --engine {} compares it"
        found = self._working(dtype, unverified=True) if self.several else []
        return {f"{name} {precision}": reason.format(name) for name, precision in found}

    def _working(self, dtype: str, *, unverified: bool) -> list[tuple[str, str]]:
        """Those that work here, unverified or not, in each precision that was asked for."""
        return [
            (name, precision)
            for name, each in BACKENDS.items()
            if bool(each.unverified) == unverified and each.status().usable
            for precision in each.precisions.get(dtype, ())
            if self.precision in ("auto", precision)
        ]


@dataclass(frozen=True, slots=True)
class _Problems:
    """Of `several` engines, why one was `skipped` or `failed`, by its name.

    Of one engine, what goes wrong is raised.
    """

    several: bool
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    @contextmanager
    def noted(self, name: str, *, needed: bool = False) -> Generator[None]:
        """Notes what goes wrong in the block; to lack what is `needed` is to fail."""
        try:
            yield
        except (EngineError, NonFinite) as error:
            if not self.several:
                raise
            lacking = isinstance(error, Unavailable) and not needed
            (self.skipped if lacking else self.failed)[name] = str(error)


def compare(bundle: Path, engines: Engines, wanted: Wanted, progress: Bars) -> Findings:
    """Hold a bundle's engines against PyTorch.

    Of several engines, one that is unverified, has not an option that was asked for, or turns out
    to lack something for this bundle, is skipped; one that cannot be compiled, or returns what is
    not finite, has failed. The others go on. Raises `InputError`, `Unavailable` where nothing could
    be compared, `LatentrtError` without PyTorch where it is needed, and what opening a bundle and,
    of one engine, compiling it raises.
    """
    opened = Bundle.open(bundle)
    if wanted.adherence is not None:
        # Whoever wants no pictures judged does not wait for Pillow.
        from latentrt.benchmarks.drawing import check_drawing

        check_drawing(opened, wanted.adherence)
    problems = _Problems(engines.several)
    found = _usable(opened, engines, problems.skipped)
    original = _original(opened, wanted.checkpoint) if wanted.live or wanted.layers else None
    references = _references(opened, wanted, original, progress)
    comparisons: list[Comparison] = []
    layers: list[LayerTable] = []
    for done, one in enumerate(found):
        name = _named(one)
        progress("engines", done, len(found), name)
        if references:
            with problems.noted(name):
                comparisons.append(_compared(opened, one, references, wanted.adherence, progress))
        if wanted.layers and original is not None and name not in problems.skipped:
            layers += _layers(opened, one, original, problems, progress)
    progress("engines", len(found), len(found))
    findings = Findings(
        provenance=Provenance.of(opened),
        reference=_described(wanted, references, original),
        comparisons=tuple(comparisons),
        layers=tuple(layers),
        skipped=problems.skipped,
        failed=problems.failed,
        drawn=wanted.adherence or 0,
    )
    if not (findings.compared or findings.failed):
        raise _nothing(findings.skipped)
    return findings


def _usable(bundle: Bundle, engines: Engines, skipped: dict[str, str]) -> list[Engines]:
    """Those that have what was asked for; of several, why each other has not goes to `skipped`."""
    found: list[Engines] = []
    dtype = bundle.manifest.dtype
    for name, precision in engines.each(dtype):
        one = replace(engines, name=name, precision=precision)
        try:
            choices(bundle, *one.asked)
        except (InputError, Unavailable) as error:
            if not engines.several:
                raise
            skipped[_named(one)] = str(error)
        else:
            found.append(one)
    skipped |= engines.unverified(dtype)
    if not found:
        raise _nothing(skipped)  # before PyTorch is asked, which may take minutes
    return found


def _named(engine: Engines) -> str:
    return f"{engine.name} {engine.precision}"


def _nothing(skipped: Mapping[str, str]) -> Unavailable:
    reasons = "; ".join(f"{name}: {problem}" for name, problem in skipped.items())
    return Unavailable(f"nothing was compared: {reasons}")


def _compared(
    bundle: Bundle,
    engines: Engines,
    references: Sequence[Reference],
    drawn: int | None,
    progress: Bars,
) -> Comparison:
    with Pipeline(bundle, *engines.asked, guarded=False) as pipeline:
        comparison = hold(pipeline, references)
        if drawn is None:
            return comparison
        from latentrt.benchmarks.adherence import score
        from latentrt.benchmarks.drawing import evaluation

        def tell(done: int, total: int) -> None:
            progress("drawing", done, total, comparison.name)

        report = evaluation(pipeline, drawn, tell=tell)
    return replace(comparison, adherence=score([o.adherence for o in report.outcomes]))


def write_page(path: Path, findings: Findings) -> None:
    """Write what was found as an HTML page; raises `InputError` where that cannot be."""
    # Whoever wants no page does not wait for Pillow.
    from latentrt.benchmarks.numerics.page import page

    write_file(path, page(findings).encode())


def _described(wanted: Wanted, references: Sequence[Reference], original: Original | None) -> str:
    """Whose answers the engines are held against."""
    if original is not None and (wanted.live or not references):
        return f"PyTorch fp32, evaluated now with {original.name}"
    return "PyTorch fp32, stored in the bundle"


def _original(bundle: Bundle, checkpoint: str | None) -> Original:
    try:
        from latentrt.benchmarks.numerics.original import Original
    except ImportError as error:
        raise LatentrtError(f"{error.name} is missing: pip install 'latentrt[bench]'") from error
    return Original.of(bundle, checkpoint)


def _references(
    bundle: Bundle, wanted: Wanted, original: Original | None, progress: Bars
) -> tuple[Reference, ...]:
    """PyTorch's answers; none where only layers can be looked at."""
    if not wanted.live or original is None:
        alone = wanted.layers and wanted.adherence is None and not bundle.manifest.has_goldens
        return () if alone else (stored(bundle),)
    from latentrt.benchmarks.numerics.live import answer

    questions = list(wanted.questions)
    total = len(questions) * len(bundle.manifest.components)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress("PyTorch", done, total)

    progress("PyTorch", 0, total)
    return tuple(answer(bundle, original, question, advance) for question in questions)


def _layers(
    bundle: Bundle,
    engines: Engines,
    original: Original,
    problems: _Problems,
    progress: Bars,
) -> list[LayerTable]:
    """Of every component of which they can be had."""
    from latentrt.benchmarks.numerics.layers import layer_table

    found: list[LayerTable] = []
    chosen = choices(bundle, *engines.asked)
    for done, (name, each) in enumerate(chosen.items()):
        progress("layers", done, len(chosen), f"{name}, {each.name}")
        with problems.noted(f"{_named(engines)}, layers of {name}", needed=True):
            found.append(layer_table(bundle, name, each, original))
    progress("layers", len(chosen), len(chosen))
    return found

"""The work of `latentrt compare`: engines, and their layers, held against PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from latentrt.benchmarks.compare import compare as hold
from latentrt.benchmarks.compare import stored
from latentrt.benchmarks.comparison import Comparison, Question, Reference
from latentrt.benchmarks.findings import Findings
from latentrt.benchmarks.layer_table import LayerTable
from latentrt.benchmarks.provenance import Provenance
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, LatentrtError, Unavailable
from latentrt.bundle.publish import write_file
from latentrt.cli.progress import Bars
from latentrt.engines.backends import BACKENDS, PRECISIONS, UNVERIFIED, backend
from latentrt.engines.engine import Options
from latentrt.runtime import Pipeline, Size
from latentrt.runtime.bundle_engines import choices

if TYPE_CHECKING:
    from latentrt.benchmarks.original import Original

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
        for field, there in given.items():
            if there and not self.live:
                expected = "--live beside it: the stored answers are those of one run"
                raise InputError(field, expected, "none")

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
    options: Options
    components: Mapping[str, str]

    @property
    def several(self) -> bool:
        """Whether there may be more than one."""
        return self.name == ALL

    def each(self, dtype: str) -> Iterator[tuple[str, Options]]:
        """Names and options, for a graph of that dtype; of all, those whose backend works here."""
        if not self.several:
            yield self.name, self.options
            return
        if self.components:
            raise InputError("component", "none beside --engine all", ", ".join(self.components))
        asked = self.options.precision
        if asked not in ("auto", *PRECISIONS):
            raise InputError("precision", f"one of auto, {', '.join(PRECISIONS)}", repr(asked))
        found = [
            (name, replace(self.options, precision=precision))
            for name in BACKENDS
            if name not in UNVERIFIED and backend(name).status().usable
            for precision in backend(name).PRECISIONS.get(dtype, ())
            if asked in ("auto", precision)
        ]
        if not found:
            raise Unavailable(f"no engine that works here computes {dtype} weights in {asked}")
        yield from found


def compare(bundle: Path, engines: Engines, wanted: Wanted, progress: Bars) -> Findings:
    """Hold a bundle's engines against PyTorch.

    Of several engines, one that has not an option that was asked for, or that turns out to lack
    something for this bundle, is skipped. Raises `InputError`, `Unavailable` where nothing could be
    compared, `LatentrtError` without PyTorch where it is needed, and what opening a bundle and
    compiling engines raises.
    """
    opened = Bundle.open(bundle)
    if wanted.adherence is not None:
        # Whoever wants no pictures judged does not wait for Pillow.
        from latentrt.benchmarks.drawing import check_drawing

        check_drawing(opened, wanted.adherence)
    skipped: dict[str, str] = {}
    found = _usable(opened, engines, skipped)
    original = _original(opened, wanted.checkpoint) if wanted.live or wanted.layers else None
    references = _references(opened, wanted, original, progress)
    comparisons: list[Comparison] = []
    layers: list[LayerTable] = []
    for done, one in enumerate(found):
        progress("engines", done, len(found), _named(one))
        try:
            if references:
                comparisons.append(_compared(opened, one, references, wanted.adherence, progress))
        except Unavailable as error:
            if not engines.several:
                raise
            skipped[_named(one)] = str(error)
            continue
        if wanted.layers and original is not None:
            layers += _layers(opened, one, original, progress)
    progress("engines", len(found), len(found))
    findings = Findings(
        provenance=Provenance.of(opened),
        reference=_described(wanted, references, original),
        comparisons=tuple(comparisons),
        layers=tuple(layers),
        skipped=skipped,
        drawn=wanted.adherence or 0,
    )
    if not findings.compared:
        raise _nothing(skipped)
    return findings


def _usable(bundle: Bundle, engines: Engines, skipped: dict[str, str]) -> list[Engines]:
    """Those that have what was asked for; of several, why each other has not goes to `skipped`."""
    found: list[Engines] = []
    for name, options in engines.each(bundle.manifest.dtype):
        one = replace(engines, name=name, options=options)
        try:
            choices(bundle, name, options, engines.components)
        except (InputError, Unavailable) as error:
            if not engines.several:
                raise
            skipped[_named(one)] = str(error)
        else:
            found.append(one)
    if not found:
        raise _nothing(skipped)  # before PyTorch is asked, which may take minutes
    return found


def _named(engine: Engines) -> str:
    return f"{engine.name} {engine.options.precision}"


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
    name, options = engines.name, engines.options
    with Pipeline(bundle, name, options, engines.components, guarded=False) as pipeline:
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
    from latentrt.benchmarks.page import page

    write_file(path, page(findings).encode())


def _described(wanted: Wanted, references: Sequence[Reference], original: Original | None) -> str:
    """Whose answers the engines are held against."""
    if original is not None and (wanted.live or not references):
        return f"PyTorch fp32, evaluated now with {original.name}"
    return "PyTorch fp32, stored in the bundle"


def _original(bundle: Bundle, checkpoint: str | None) -> Original:
    try:
        from latentrt.benchmarks.original import Original
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
    from latentrt.benchmarks.live import answer

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
    bundle: Bundle, engines: Engines, original: Original, progress: Bars
) -> list[LayerTable]:
    from latentrt.benchmarks.layers import layer_table

    found: list[LayerTable] = []
    chosen = choices(bundle, engines.name, engines.options, engines.components)
    for name, each in chosen.items():
        progress("layers", len(found), len(chosen), f"{name}, {each.name}")
        found.append(layer_table(bundle, name, each, original))
    progress("layers", len(found), len(chosen))
    return found

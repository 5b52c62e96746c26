"""One small engine stands for all sizes of its files, backend, precision and options.

It is compared with the goldens at their sizes, or, without any, with ONNX Runtime in fp32 at 8x8
latents. How it did is kept for every size: an engine of another size is made without a reference
beside it. A fault of one size alone, or one that is smaller than the rounding of a low precision,
is not seen: `verify="full"` looks for these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.manifest import GOLDEN
from latentrt.engines.cache.cache import Cache
from latentrt.engines.cache.entry import Record
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.log import described
from latentrt.engines.memory import give_back
from latentrt.engines.onnxruntime.cpu import compile_reference
from latentrt.engines.registry import Chosen, Progress, backend
from latentrt.engines.verification.judging import evaluate, golden_sizes, judged
from latentrt.engines.verification.records import GOLDENS, HOW, ORACLE, at_least, refusal
from latentrt.engines.verification.reference_arrays import (
    ReferenceArrays,
    golden_arrays,
    inputs_at,
)
from latentrt.engines.verification.tolerances import TOLERANCES

_SMALL: Final = 8
"""Places of a latent, in height and width, where there are no goldens."""
_ROWS: Final = 2
"""The most rows that a small engine has then: those of one guided step."""


@dataclass(frozen=True, slots=True)
class GoldenGuard:
    """Has an engine's files, backend, precision and options proved once, by a small engine."""

    cache: Cache
    bundle: Bundle
    blueprint: Blueprint
    chosen: Chosen
    progress: Progress | None = None

    def refusal(self, verification: Record) -> str:
        """That the engine was farther off than is allowed today, if so."""
        return refusal(verification, self._terms)

    def holds(self, verification: Record) -> bool:
        """Whether the record was made with today's goldens and tolerances."""
        return at_least(verification, self._terms)

    def prepare(self) -> Callable[[Engine], Record]:
        """Have the small engine compared, unless it was; raises `VerificationFailed`.

        An engine that is itself as small is compared in its place.
        """
        if self._small.sizes != self.blueprint.sizes and not self._has_goldens_here:
            found = self.cache.proven(self.chosen, self.blueprint, self, self._proved)
            return lambda engine: found
        compared = self._comparing(self.blueprint)

        def check(engine: Engine) -> Record:
            record = compared(engine)
            self.cache.keep_proof(self.chosen, self.blueprint, record)
            return record

        return check

    @property
    def _terms(self) -> dict[str, Any]:
        files, component = self.bundle.manifest.files, self.blueprint.component
        return {
            GOLDENS: files[GOLDEN].sha256 if self.bundle.manifest.has_goldens else None,
            "tolerance": TOLERANCES[self.chosen.precision].of(component),
        }

    @property
    def _has_goldens_here(self) -> bool:
        known, sizes = golden_sizes(self.bundle, self.blueprint.component), self.blueprint.sizes
        same = known is not None and {**known, "batch": 0} == {**sizes, "batch": 0}
        return same and known is not None and sizes["batch"] <= known["batch"]

    @property
    def _small(self) -> Blueprint:
        """The blueprint of the small engine."""
        known = golden_sizes(self.bundle, self.blueprint.component)
        if known is not None:
            return replace(self.blueprint, sizes=known)
        pixels = _SMALL * self.bundle.manifest.vae_factor
        most = {"batch": _ROWS, "height": _SMALL, "width": _SMALL}
        most |= {"image_height": pixels, "image_width": pixels}
        sizes = {name: min(n, most.get(name, n)) for name, n in self.blueprint.sizes.items()}
        return replace(self.blueprint, sizes=sizes)

    def _proved(self) -> Record:
        """How the small engine does; nothing of it is left in memory."""
        small = self._small
        compared = self._comparing(small)
        if not self._comparable:
            return compared(None)
        self._tell("compiling a small engine")
        engine = self.chosen.compile(small)
        try:
            self._tell("verifying the small engine")
            return compared(engine)
        finally:
            engine.close()
            del engine
            give_back()

    @property
    def _comparable(self) -> bool:
        """Whether there is a reference; ONNX Runtime is none for itself."""
        if self.bundle.manifest.has_goldens:
            return True
        return self.chosen.name != ORACLE and backend(ORACLE).status().usable

    def _comparing(self, small: Blueprint) -> Callable[[Engine | None], Record]:
        """What compares a small engine; its reference is made now."""
        terms: dict[str, Any] = {**self._terms, HOW: "golden"}
        tolerance: float = terms["tolerance"]
        if not self._comparable:
            note = "the bundle has no goldens, and nothing else is a reference"
            record = {"reference": "nothing", **terms, "weaker": note}
            return lambda engine: record
        if self.bundle.manifest.has_goldens:
            arrays, name = golden_arrays(self.bundle, small), "the goldens"
        else:
            self._tell("evaluating a small reference")
            arrays, name = self._reference(small), "ONNX Runtime fp32"
        if small.sizes != self.blueprint.sizes:
            name += described(" at", small.sizes)

        def compared(engine: Engine | None) -> Record:
            assert engine is not None
            errors = judged(self.chosen, engine, arrays, tolerance, name)
            return {"reference": name, **terms, "errors": errors}

        return compared

    def _reference(self, small: Blueprint) -> ReferenceArrays:
        """What ONNX Runtime gives in fp32, its memory given back."""
        inputs = inputs_at(self.bundle, small)
        engine = compile_reference(small)
        try:
            expected = evaluate(engine, inputs)
        finally:
            engine.close()
            del engine
            give_back()
        return ReferenceArrays(inputs, expected)

    def _tell(self, phase: str) -> None:
        if self.progress is not None:
            self.progress(phase, 0, 1)

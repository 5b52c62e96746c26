"""Every engine is compared with a reference at its own sizes.

The reference is PyTorch's fp32 where the bundle's goldens have the sizes, at their batch or a
smaller one. At other sizes it is ONNX Runtime fp32 on the same graph, itself compared with
the goldens at their sizes. Anything else is weaker, and a record says so. A bundle without goldens
has only ONNX Runtime. Without ONNX Runtime, or for ONNX Runtime itself, an engine of the same
backend is compared with the goldens at their sizes.

A lower precision hides faults: one dropped bias of a U-Net moves its output by 4e-4, bf16 by 6e-3.
So before an engine of lower precision, the same backend makes one of fp32 from the same files. It
is compared with the same reference, and shows a wrong weight. A fault that a backend makes in lower
precision alone is seen only above that precision's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.manifest import GOLDEN
from latentrt.engines.cache.cache import Cache
from latentrt.engines.cache.entry import Record
from latentrt.engines.engine import Arrays, Blueprint, Engine
from latentrt.engines.registry import Chosen, backend
from latentrt.engines.verification.judging import evaluate, golden_sizes, judged
from latentrt.engines.verification.records import GOLDENS, HOW, ORACLE, at_least, refusal
from latentrt.engines.verification.reference_arrays import (
    ReferenceArrays,
    golden_arrays,
    inputs_at,
)
from latentrt.engines.verification.tolerances import TOLERANCES


@dataclass(frozen=True, slots=True)
class _Reference:
    """What an engine is compared with; `weaker` says what a better reference would need."""

    kind: Literal["goldens", "oracle", "elsewhere", "nothing"]
    name: str
    weaker: str = ""


@dataclass(frozen=True, slots=True)
class FullGuard:
    """Compares an engine with the best reference available.

    The cache's key says what an engine was made from, not what it was compared with. Another export
    of the same model may have goldens where the first had none, or ONNX Runtime may have been
    installed since. So a record holds for as long as its terms do.
    """

    cache: Cache
    bundle: Bundle
    blueprint: Blueprint
    chosen: Chosen

    def refusal(self, verification: Record) -> str:
        """That it was farther off than is allowed today, if so."""
        return refusal(verification, self._terms)

    def holds(self, verification: Record) -> bool:
        """Whether today's goldens and tolerances are the record's, and nothing stronger is here."""
        if verification.get(HOW) == "golden" or not at_least(verification, self._terms):
            return False
        weaker = verification.get("weaker", "")
        return not weaker or weaker == self._weaker(self._reference)

    def prepare(self) -> Callable[[Engine], Record]:
        """The check against what is here today; builds what that needs."""
        reference = self._reference
        arrays = self._arrays(reference)
        weaker = self._weaker(reference)

        def check(engine: Engine) -> Record:
            tolerance = self._terms["tolerance"]
            errors = judged(self.chosen, engine, arrays, tolerance, reference.name)
            known = {"errors": errors} if arrays.expected else {}
            notes = {"weaker": weaker} if weaker else {}
            return {"reference": reference.name, **self._terms, **known, **notes}

        return check

    @property
    def _plain(self) -> Chosen:
        return replace(self.chosen, precision="fp32")

    @property
    def _is_oracle(self) -> bool:
        return self._plain == self.chosen and self.chosen.name == ORACLE

    @property
    def _has_fp32(self) -> bool:
        return "fp32" in self.chosen.backend.known[self.blueprint.dtype]

    @property
    def _terms(self) -> dict[str, Any]:
        """What a record says beside the errors: which goldens, and what was allowed."""
        component, manifest = self.blueprint.component, self.bundle.manifest
        return {
            GOLDENS: manifest.files[GOLDEN].sha256 if manifest.has_goldens else None,
            "tolerance": TOLERANCES[self.chosen.precision].of(component),
            # What its fp32 engine or the oracle was held to.
            "fp32 tolerance": TOLERANCES["fp32"].of(component),
        }

    @property
    def _reference(self) -> _Reference:
        sizes = self.blueprint.sizes
        known = golden_sizes(self.bundle, self.blueprint.component)
        if known is not None and {**known, "batch": 0} == {**sizes, "batch": 0}:
            if sizes["batch"] <= known["batch"]:
                return _Reference("goldens", "the goldens")
            if self._is_oracle:
                return _Reference("goldens", "the goldens, their rows repeated")
        if not self._is_oracle and backend(ORACLE).status().usable:
            weaker = "" if known else "the bundle has no goldens to hold ONNX Runtime against"
            return _Reference("oracle", "ONNX Runtime fp32", weaker)
        if known is None:
            return _Reference("nothing", "nothing", "the bundle has no goldens")
        written = " ".join(f"{symbol}={n}" for symbol, n in sorted(known.items()))
        name = f"the goldens at {written}"
        return _Reference("elsewhere", name, "no other reference at these sizes")

    def _weaker(self, reference: _Reference) -> str:
        lacking = "" if self._has_fp32 else "there is no fp32 engine of this backend to check first"
        return "; ".join(note for note in (reference.weaker, lacking) if note)

    def _arrays(self, reference: _Reference) -> ReferenceArrays:
        if self.chosen != self._plain and self._has_fp32:
            self._opened(self._plain, self.blueprint.sizes).close()
        if reference.kind == "goldens":
            return golden_arrays(self.bundle, self.blueprint)
        inputs = inputs_at(self.bundle, self.blueprint)
        expected: Arrays = {}
        if reference.kind == "oracle":
            oracle = Chosen(backend(ORACLE))
            engine = self._opened(oracle, self.blueprint.sizes)
            expected = evaluate(engine, inputs)
            engine.close()
        elif reference.kind == "elsewhere":
            known = golden_sizes(self.bundle, self.blueprint.component)
            assert known is not None
            self._opened(self.chosen, known).close()
        return ReferenceArrays(inputs, expected)

    def _opened(self, chosen: Chosen, sizes: Mapping[str, int]) -> Engine:
        blueprint = replace(self.blueprint, sizes=sizes, precision=chosen.precision)
        guard = FullGuard(self.cache, self.bundle, blueprint, chosen)
        return self.cache.open(chosen, blueprint, guard=guard).engine

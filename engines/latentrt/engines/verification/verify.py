"""No engine is used before it was held against a reference, and how far it was off is kept.

The reference is PyTorch's fp32 where the bundle's goldens have the sizes, at their batch or a
smaller one. At other sizes it is ONNX Runtime fp32 on the same graph, itself held against the
goldens at theirs. What else there is is weaker, and a record says so: a bundle without goldens has
only ONNX Runtime; without ONNX Runtime, or for ONNX Runtime itself, an engine of the same backend
is held against the goldens at their sizes.

A lower precision hides faults: one dropped bias of a U-Net moves its output by 4e-4, bf16 by 6e-3.
So before an engine of lower precision, one of fp32 is made by the same backend from the same files
and held against the same reference; a wrong weight shows there. A fault that a backend makes in
lower precision alone is seen only above that precision's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import VerificationFailed
from latentrt.bundle.golden import Difference
from latentrt.bundle.manifest import GOLDEN
from latentrt.engines.cache.cache import Build, Cache, Opened
from latentrt.engines.cache.entry import Record
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.registry import Chosen, Progress, backend
from latentrt.engines.verification.reference_arrays import ReferenceArrays, golden_arrays, inputs_at

ORACLE: Final = "onnxruntime"

_GOLDENS: Final = "goldens"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest relative error of a component's outputs and of a run's latents; least PSNR in dB.

    `alone` is for a step from the reference's own latents and prompts, `step` for one of a run.
    """

    text_encoder: float
    unet: float
    vae: float
    alone: float
    step: float
    psnr: float

    def of(self, component: str) -> float:
        """The tolerance of a component by name."""
        if component.startswith("text_encoder"):
            return self.text_encoder
        return self.unet if component == "unet" else self.vae


TOLERANCES: Final[Mapping[str, Tolerance]] = {
    # fp32: rounding alone. Components: at most twice the most that was measured, over the tiny
    # models of the tests, models/shapes, random:sd15 at 512x512 and random:sdxl's U-Net at 128x128:
    # text encoder 8.4e-7, U-Net 3.5e-6, VAE 2.0e-5. The last is ONNX Runtime at 512x512, whose
    # GroupNormalization adds up a group of 2 million numbers in one running sum (alone 5e-5 off a
    # sum in double precision, PyTorch 6e-8); OpenVINO's VAE is 2.5e-6 off. A step alone is one
    # evaluation, which guidance multiplies: over the tiny models, models/shapes and random:sd15 at
    # 256x256, goldens and (but for SDXL) other prompts in 1 to 20 steps, ONNX Runtime is 3.0e-6 off
    # at most (random:sd15 not measured), OpenVINO 7.4e-6 (random:sd15 in 1 step; in 4, 5.9e-6; the
    # others in 4, 1.9e-6). A step of a run carries the errors of those before it too.
    "fp32": Tolerance(
        text_encoder=1.6e-6, unet=5.5e-6, vae=4e-5, alone=1.4e-5, step=1e-4, psnr=55.0
    ),
    # Half a unit in the last place is 5e-4. Components: twice what PyTorch's own fp16 is off on a
    # CPU with random:sd15, 1.15e-3, 1.5e-3 and 1.4e-3 (its bf16: 1.0e-2, 1.5e-2, 1.2e-2); no GPU's
    # have been measured yet, and steps and a picture are estimates.
    "fp16": Tolerance(text_encoder=2.3e-3, unet=3e-3, vae=2.7e-3, alone=2e-2, step=5e-2, psnr=35.0),
    # Half a unit in the last place is 4e-3. Measured as fp32 was: 7.4e-3, 1.3e-2 (random:sd15 at
    # 512x512; random:sdxl at 256x256 6.7e-3), 1.8e-2. A step alone: 4.7e-2 (v-prediction in 1 step,
    # from noise alone; random:sd15 2.9e-2), in 4 steps 2.3e-2.
    "bf16": Tolerance(
        text_encoder=1.4e-2, unet=2.6e-2, vae=3.6e-2, alone=9e-2, step=2e-1, psnr=25.0
    ),
}


@dataclass(frozen=True, slots=True)
class _Reference:
    """What an engine is held against; `weaker` says why it is not the best that there could be."""

    kind: Literal["goldens", "oracle", "elsewhere", "nothing"]
    name: str
    weaker: str = ""


def open_verified(
    cache: Cache,
    bundle: Bundle,
    component: str,
    sizes: Mapping[str, int],
    chosen: Chosen,
    *,
    build: Build = "missing",
    progress: Progress | None = None,
) -> Opened:
    """A component's engine from the cache, or built, held against a reference, and stored.

    Raises what `Cache.open` raises, `VerificationFailed` with the numbers.
    """
    blueprint = Blueprint.of(bundle, component, sizes, chosen.precision)
    guard = _Guard(cache, bundle, blueprint, chosen)
    return cache.open(chosen, blueprint, build=build, guard=guard, progress=progress)


def golden_sizes(bundle: Bundle, component: str) -> dict[str, int] | None:
    """The size of every symbol in a component's goldens; None without goldens."""
    if not bundle.manifest.has_goldens:
        return None
    golden = bundle.golden()
    sizes: dict[str, int] = {}
    for spec in bundle.manifest.components[component].inputs:
        shape = golden[f"{component}/inputs/{spec.name}"].shape
        sizes |= {d: n for d, n in zip(spec.dims, shape, strict=True) if isinstance(d, str)}
    return sizes


def judge(
    engine: Engine,
    inputs: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    tolerance: float,
    reference: str,
) -> dict[str, dict[str, float]]:
    """How far every output is from what is expected.

    Raises `VerificationFailed` with the numbers of the worst if that is farther than `tolerance`
    (relative, as `Difference` has it).
    """
    outputs = _evaluate(engine, inputs)
    found = {
        name: Difference.between(outputs[name], reference_output)
        for name, reference_output in expected.items()
    }
    worst = max(found, key=lambda name: found[name].relative)
    off = found[worst]
    if not off.relative <= tolerance:
        raise VerificationFailed(
            f"{engine.component}: {worst} is {off.relative:.1e} from {reference} (relative; max "
            f"abs {off.max_abs:.1e}, 1 - cosine {1 - off.cosine:.1e}), {tolerance:.1e} is allowed"
        )
    return {name: asdict(difference) for name, difference in found.items()}


def _evaluate(engine: Engine, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    # Engines of one component at two precisions may take two dtypes.
    return engine({s.name: inputs[s.name].astype(s.dtype) for s in engine.inputs})


@dataclass(frozen=True, slots=True)
class _Guard:
    """Holds an engine against the best reference that there is here today.

    The cache's key says what an engine was made from, not what it was held against: another
    export of the same model may have goldens where the first had none, or ONNX Runtime may have
    been installed since. So a record holds for as long as its terms do.
    """

    cache: Cache
    bundle: Bundle
    blueprint: Blueprint
    chosen: Chosen

    def refusal(self, verification: Record) -> str:
        """That it was farther off than is allowed today, if so."""
        terms = self._terms
        if not _at_least(verification, {_GOLDENS: terms[_GOLDENS]}):
            return ""  # it will be held against others
        errors = verification.get("errors", {})
        worst = max((error["relative"] for error in errors.values()), default=0.0)
        if worst <= terms["tolerance"]:
            return ""
        reference = verification["reference"]
        return f"it is {worst:.1e} from {reference}, {terms['tolerance']:.1e} is allowed"

    def holds(self, verification: Record) -> bool:
        """Whether today's goldens and tolerances are the record's, and nothing stronger is here."""
        if not _at_least(verification, self._terms):
            return False
        weaker = verification.get("weaker", "")
        return not weaker or weaker == self._weaker(self._reference)

    def prepare(self) -> Callable[[Engine], Record]:
        """The check against what is here today; builds what that needs."""
        reference = self._reference
        arrays = self._arrays(reference)
        weaker = self._weaker(reference)

        def check(engine: Engine) -> Record:
            errors = self._judged(engine, arrays, reference.name)
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
            _GOLDENS: manifest.files[GOLDEN].sha256 if manifest.has_goldens else None,
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
        expected: Mapping[str, NDArray[Any]] = {}
        if reference.kind == "oracle":
            oracle = Chosen(backend(ORACLE))
            engine = self._opened(oracle, self.blueprint.sizes)
            expected = _evaluate(engine, inputs)
            engine.close()
        elif reference.kind == "elsewhere":
            known = golden_sizes(self.bundle, self.blueprint.component)
            assert known is not None
            self._opened(self.chosen, known).close()
        return ReferenceArrays(inputs, expected)

    def _opened(self, chosen: Chosen, sizes: Mapping[str, int]) -> Engine:
        component = self.blueprint.component
        return open_verified(self.cache, self.bundle, component, sizes, chosen).engine

    def _judged(
        self, engine: Engine, arrays: ReferenceArrays, reference: str
    ) -> dict[str, dict[str, float]]:
        precision = self.chosen.precision
        tolerance = self._terms["tolerance"]
        try:
            expected = arrays.expected
            if not expected:
                outputs = _evaluate(engine, arrays.inputs)
                expected = {name: np.nan_to_num(array) for name, array in outputs.items()}
            return judge(engine, arrays.inputs, expected, tolerance, reference)
        except VerificationFailed as error:
            raise VerificationFailed(f"{self.chosen.name} {precision}, {error}") from None


def _at_least(verification: Record, terms: Mapping[str, Any]) -> bool:
    """Whether a record was made on these terms; against goldens is more than without any."""
    return all(
        verification.get(name) == value or (name == _GOLDENS and value is None)
        for name, value in terms.items()
    )

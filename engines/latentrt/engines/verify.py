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
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import VerificationFailed
from latentrt.bundle.golden import Difference
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.artefact import Record
from latentrt.engines.backends import Chosen, Progress, backend
from latentrt.engines.cache import Build, Cache, Guard, Opened
from latentrt.engines.engine import Blueprint, Engine, Options

ORACLE: Final = "onnxruntime"

_JITTER: Final = 0.05
_SEED: Final = 0


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
class _Case:
    """What an engine is run on and should give; `weaker` says why this is not the best reference.

    Without expected outputs, they have only to be finite.
    """

    reference: str
    inputs: Mapping[str, NDArray[Any]]
    expected: Mapping[str, NDArray[Any]]
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
    blueprint = Blueprint.of(bundle, component, sizes)
    guard = _guard(cache, bundle, blueprint, chosen)
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


def _guard(cache: Cache, bundle: Bundle, blueprint: Blueprint, chosen: Chosen) -> Guard:
    precision = chosen.options.precision
    tolerance = TOLERANCES[precision].of(blueprint.component)

    def prepare() -> Callable[[Engine], Record]:
        case = _case(cache, bundle, blueprint, chosen)

        def check(engine: Engine) -> Record:
            try:
                expected = case.expected
                if not expected:
                    outputs = _evaluate(engine, case.inputs)
                    expected = {name: np.nan_to_num(array) for name, array in outputs.items()}
                errors = judge(engine, case.inputs, expected, tolerance, case.reference)
            except VerificationFailed as error:
                raise VerificationFailed(f"{chosen.name} {precision}, {error}") from None
            fp32 = _has_fp32(chosen, blueprint)
            lacking = "" if fp32 else "there is no fp32 engine of this backend to check first"
            notes = "; ".join(note for note in (case.weaker, lacking) if note)
            weaker = {"weaker": notes} if notes else {}
            known = {"errors": errors, "tolerance": tolerance} if case.expected else {}
            return {"reference": case.reference, **known, **weaker}

        return check

    return prepare


def _case(cache: Cache, bundle: Bundle, blueprint: Blueprint, chosen: Chosen) -> _Case:
    component, sizes = blueprint.component, blueprint.sizes
    plain = replace(chosen, options=replace(chosen.options, precision="fp32"))
    if chosen != plain and _has_fp32(chosen, blueprint):
        open_verified(cache, bundle, component, sizes, plain).engine.close()
    known = golden_sizes(bundle, component)
    is_oracle = plain == chosen and chosen.name == ORACLE
    if known is not None and {**known, "batch": 0} == {**sizes, "batch": 0}:
        if sizes["batch"] <= known["batch"]:
            return _golden_case(bundle, blueprint, "the goldens")
        if is_oracle:
            return _golden_case(bundle, blueprint, "the goldens, their rows repeated")
    inputs = _inputs(bundle, blueprint)
    if not is_oracle and backend(ORACLE).status().usable:
        weaker = "" if known else "the bundle has no goldens to hold ONNX Runtime against"
        oracle = Chosen(ORACLE, backend(ORACLE), Options())
        opened = open_verified(cache, bundle, component, sizes, oracle)
        expected = _evaluate(opened.engine, inputs)
        opened.engine.close()
        return _Case("ONNX Runtime fp32", inputs, expected, weaker)
    if known is None:
        return _Case("nothing", inputs, {}, "the bundle has no goldens")
    opened = open_verified(cache, bundle, component, known, chosen)
    opened.engine.close()
    written = " ".join(f"{symbol}={n}" for symbol, n in sorted(known.items()))
    return _Case(f"the goldens at {written}", inputs, {}, "no other reference at these sizes")


def _has_fp32(chosen: Chosen, blueprint: Blueprint) -> bool:
    return "fp32" in chosen.backend.PRECISIONS[blueprint.dtype]


def _golden_case(bundle: Bundle, blueprint: Blueprint, reference: str) -> _Case:
    golden, component = bundle.golden(), blueprint.component
    batch = blueprint.sizes["batch"]

    def rows(kind: str, specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
        arrays = {s.name: golden[f"{component}/{kind}/{s.name}"] for s in specs}
        return {name: a[np.arange(batch) % len(a)] for name, a in arrays.items()}

    return _Case(reference, rows("inputs", blueprint.inputs), rows("outputs", blueprint.outputs))


def _inputs(bundle: Bundle, blueprint: Blueprint) -> dict[str, NDArray[Any]]:
    """The golden inputs repeated and cut to these sizes, no two rows alike; else seeded noise."""
    rng = np.random.default_rng(_SEED)
    golden = bundle.golden() if bundle.manifest.has_goldens else None
    inputs: dict[str, NDArray[Any]] = {}
    for spec in blueprint.fixed_inputs:
        shape = spec.shape({})
        noise = rng.standard_normal(shape, dtype=np.float32)
        if golden is not None:
            array = golden[f"{blueprint.component}/inputs/{spec.name}"]
            for axis, n in enumerate(shape):
                array = np.take(array, np.arange(n) % array.shape[axis], axis=axis)
            spread = _JITTER * float(array.std()) if len(shape) > 2 else 0.0
            noise = array + spread * noise
        elif spec.name == "timestep":
            noise = rng.uniform(0, 999, shape)
        inputs[spec.name] = noise.astype(spec.dtype)
    return inputs

"""One engine on one bundle: built, verified, timed, and held against the goldens.

    python -m latentrt.benchmarks.trial BUNDLE --engine NAME --precision P --cache DIR --out FILE

A process of its own, so that a library that ends it takes nothing else along, and so that no two
libraries meet in one. What fails is told in the row, beside what did not.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.numerics.compare import compare
from latentrt.benchmarks.numerics.comparison import Comparison
from latentrt.benchmarks.runtime import Spread
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import LatentrtError, VerificationFailed
from latentrt.bundle.golden import Difference
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cache.cache import Cache
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.registry import Chosen, choose
from latentrt.engines.verification.tolerances import TOLERANCES
from latentrt.engines.verification.verify import open_verified
from latentrt.runtime import Pipeline, Request, Sampling
from latentrt.runtime.conditioning import Conditioner
from latentrt.runtime.schedules import euler_name

WARM_UP: Final = 3
PROMPT: Final = "a large red circle on a blue background"
TIMESTEP: Final = 500.0
_SEED: Final = 0
_CALLS: Final = 4

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be tried; `cache` is a folder for its engines, `steps` are those of a picture."""

    bundle: Path
    engine: str
    precision: str
    options: Mapping[str, object]
    cache: Path
    repeats: int
    steps: int


def attempt(trial: Trial) -> dict[str, Any]:
    """Build, verify, time and compare; never raises, for `problem` says what went wrong.

    `passed` is true when every engine was verified and the whole run is within its tolerance.
    """
    row: dict[str, Any] = {"engine": trial.engine, "precision": trial.precision}
    row |= {
        "stripped": bool(trial.options.get("stripped")),
        "passed": False,
        "problem": "",
        "components": {},
        "picture": None,
        "compare": None,
    }
    try:
        _fill(row, trial)
    except Exception as error:  # whatever a library raises is a finding
        row["problem"] = described(error)
    return row


def sizes_of(bundle: Bundle) -> dict[str, dict[str, int]]:
    """The size of every symbol of each component, for one guided picture of the bundle's own size.

    The U-Net has two rows, or one where it takes the guidance scale as an input.
    """
    manifest, conditioner = bundle.manifest, Conditioner(bundle)
    height, width = manifest.sample_size
    factor, length = manifest.vae_factor, conditioner.length
    latent = {"height": height, "width": width}
    found: dict[str, dict[str, int]] = {}
    for name in manifest.components:
        if name.startswith("text_encoder"):
            found[name] = {"batch": 1, "sequence": length}
        elif name == "unet":
            found[name] = {"batch": 1 + conditioner.guided, **latent, "sequence": length}
        elif name == "vae_encoder":
            pixels = {"image_height": height * factor, "image_width": width * factor}
            found[name] = {"batch": 1, **pixels}
        else:
            found[name] = {"batch": 1, **latent}
    return found


def noise_for(specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    """Seeded noise for every input, and one timestep: a call takes as long whatever it is told."""
    rng = np.random.default_rng(_SEED)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in specs:
        noise = rng.standard_normal(spec.shape({}), dtype=np.float32)
        array = np.full_like(noise, TIMESTEP) if spec.name == "timestep" else noise
        arrays[spec.name] = array.astype(spec.dtype)
    return arrays


def timed(
    call: Callable[[Mapping[str, NDArray[Any]]], object],
    inputs: Mapping[str, NDArray[Any]],
    repeats: int,
) -> Spread:
    """Seconds of a call, its first input another one every time, as latents are."""
    first = next(iter(inputs))
    variants = [{**inputs, first: inputs[first] * sign} for sign in (1, -1)]
    found: list[float] = []
    for turn in range(WARM_UP + repeats):
        begun = time.perf_counter()
        call(variants[turn % 2])
        found.append(time.perf_counter() - begun)
    return Spread.of(found[WARM_UP:])


def described(error: BaseException) -> str:
    """An error as one line."""
    kind = "" if isinstance(error, LatentrtError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"


def _fill(row: dict[str, Any], trial: Trial) -> None:
    bundle = Bundle.open(trial.bundle)
    asked = (trial.precision, trial.options)
    chosen = choose(trial.engine, bundle.manifest.dtype, *asked)
    cache = Cache(trial.cache)
    components: dict[str, dict[str, Any]] = row["components"]
    for name, sizes in sizes_of(bundle).items():
        components[name] = _component(cache, bundle, name, sizes, chosen, trial.repeats)
    problems = [c["problem"] for c in components.values() if c["problem"]]
    row["problem"] = "; ".join(problems)
    # Where one was refused the rest is measured all the same, and says how far off it is.
    guarded = not problems
    with Pipeline(bundle, trial.engine, *asked, cache=cache, guarded=guarded) as pipeline:
        if bundle.manifest.has_goldens:
            comparison = compare(pipeline)
            row["compare"] = comparison.to_json()
            _tell_errors(components, comparison)
        row["picture"] = _picture(pipeline, trial)
    within = row["compare"] is None or row["compare"]["passed"]
    row["passed"] = guarded and within
    if guarded and not within:
        row["problem"] = "the run is out of tolerance"


def _component(
    cache: Cache,
    bundle: Bundle,
    name: str,
    sizes: Mapping[str, int],
    chosen: Chosen,
    repeats: int,
) -> dict[str, Any]:
    found: dict[str, Any] = {"sizes": dict(sizes), "problem": "", "verification": None}
    found |= {"build_seconds": None, "seconds": None, "again": None, "at_once": None}
    found |= {"error": None, "tolerance": None}
    begun = time.perf_counter()
    try:
        opened = open_verified(cache, bundle, name, sizes, chosen)
        engine: Engine = opened.engine
        found["verification"] = dict(opened.verification)
    except VerificationFailed as error:
        found["problem"] = described(error)
        engine = chosen.compile(Blueprint.of(bundle, name, sizes))
    except Exception as error:  # the other components are tried all the same
        found["problem"] = f"{name}: {described(error).removeprefix(f'{name}: ')}"
        return found
    found["build_seconds"] = time.perf_counter() - begun
    try:
        inputs = noise_for(engine.inputs)
        found["seconds"] = asdict(timed(engine, inputs, repeats))
        found |= {"again": _again(engine, inputs), "at_once": _at_once(engine, inputs)}
    finally:
        engine.close()
    allowed = TOLERANCES[chosen.precision].of(name)
    for kind in ("again", "at_once"):
        if not found[kind]["relative"] <= allowed and not found["problem"]:
            found["problem"] = f"{name}: calls {kind} differ by {found[kind]['relative']:.1e}"
    return found


def _again(engine: Engine, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """How far calls in a row are from the first: recorded graphs are replayed from the third on."""
    first = engine(inputs)
    return _unlike(first, [engine(inputs) for _ in range(_CALLS)])


def _at_once(engine: Engine, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """How far calls of several threads are from one alone."""
    first = engine(inputs)
    with ThreadPoolExecutor(_CALLS) as pool:
        return _unlike(first, list(pool.map(engine, [inputs] * _CALLS * 2)))


def _unlike(first: Outputs, others: Sequence[Outputs]) -> dict[str, Any]:
    pairs = [(other[name], first[name]) for other in others for name in first]
    return {
        "same_bits": all(np.array_equal(*pair) for pair in pairs),
        "relative": max(Difference.between(*pair).relative for pair in pairs),
    }


def _tell_errors(components: Mapping[str, dict[str, Any]], comparison: Comparison) -> None:
    for row in comparison.components:
        if row.name in components:
            components[row.name]["error"] = asdict(row.difference)
            components[row.name]["tolerance"] = row.tolerance


def _picture(pipeline: Pipeline, trial: Trial) -> dict[str, Any]:
    sampler = euler_name(pipeline.bundle.scheduler_config())
    request = Request(PROMPT, seed=_SEED, sampling=Sampling(sampler, steps=trial.steps))
    picture = {"steps": trial.steps, "seconds": None, "problem": ""}
    found: list[float] = []
    try:
        for _ in range(1 + trial.repeats):
            begun = time.perf_counter()
            pipeline(request)
            found.append(time.perf_counter() - begun)
    except ImportError as error:  # a lean machine may be without Pillow
        return {**picture, "problem": described(error)}
    return {**picture, "seconds": asdict(Spread.of(found[1:]))}


def main() -> None:
    """Try, and write the row as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--stripped", action="store_true", help="plans without weights, refitted")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    o = parser.parse_args()
    options = {"stripped": True} if o.stripped else {}
    trial = Trial(o.bundle, o.engine, o.precision, options, o.cache, o.repeats, o.steps)
    o.out.write_text(json.dumps(attempt(trial)), encoding="utf-8")


if __name__ == "__main__":
    main()

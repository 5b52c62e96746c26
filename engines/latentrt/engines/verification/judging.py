"""An engine's outputs beside those that are expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import VerificationFailed
from latentrt.bundle.golden import Difference
from latentrt.engines.engine import Engine
from latentrt.engines.registry import Chosen
from latentrt.engines.verification.reference_arrays import ReferenceArrays


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
    outputs = evaluate(engine, inputs)
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


def evaluate(engine: Engine, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    # Engines of one component at two precisions may take two dtypes.
    return engine({s.name: inputs[s.name].astype(s.dtype) for s in engine.inputs})


def judged(
    chosen: Chosen, engine: Engine, arrays: ReferenceArrays, tolerance: float, reference: str
) -> dict[str, dict[str, float]]:
    """As `judge`; an error names the backend and the precision.

    Where nothing is expected, outputs have to be finite.
    """
    try:
        expected = arrays.expected
        if not expected:
            outputs = evaluate(engine, arrays.inputs)
            expected = {name: np.nan_to_num(array) for name, array in outputs.items()}
        return judge(engine, arrays.inputs, expected, tolerance, reference)
    except VerificationFailed as error:
        raise VerificationFailed(f"{chosen.name} {chosen.precision}, {error}") from None

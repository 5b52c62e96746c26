"""What an engine is run on when it is verified, and what it should give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Blueprint

_JITTER: Final = 0.05
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class ReferenceArrays:
    """Inputs, and the outputs that are expected; where none are, they have only to be finite."""

    inputs: Mapping[str, NDArray[Any]]
    expected: Mapping[str, NDArray[Any]]


def golden_arrays(bundle: Bundle, blueprint: Blueprint) -> ReferenceArrays:
    """The first of the goldens' rows, or more than there are, repeated."""
    golden, component = bundle.golden(), blueprint.component
    batch = blueprint.sizes["batch"]

    def rows(kind: str, specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
        arrays = {s.name: golden[f"{component}/{kind}/{s.name}"] for s in specs}
        return {name: a[np.arange(batch) % len(a)] for name, a in arrays.items()}

    return ReferenceArrays(rows("inputs", blueprint.inputs), rows("outputs", blueprint.outputs))


def inputs_at(bundle: Bundle, blueprint: Blueprint) -> dict[str, NDArray[Any]]:
    """The golden inputs repeated and cut to these sizes, no two rows alike; else seeded noise."""
    rng = np.random.default_rng(_SEED)
    golden = bundle.golden() if bundle.manifest.has_goldens else None
    inputs: dict[str, NDArray[Any]] = {}
    # In the stored graph's dtypes: every precision is given the same numbers.
    for spec in (s.fixed(blueprint.sizes) for s in blueprint.inputs):
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

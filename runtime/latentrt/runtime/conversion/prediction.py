"""What a U-Net predicts, measured where a checkpoint does not say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from latentrt.bundle.bundle import Bundle, file_sha256
from latentrt.bundle.component import FileRecord
from latentrt.bundle.manifest import FILE_NAME
from latentrt.weights.architectures import ARCHITECTURES

_SCHEDULER: Final = "scheduler/scheduler_config.json"
_LEVEL: Final = 0.5
_TIMESTEP: Final = 999
_PLACES: Final = 8
_LIMIT: Final = -1.0
"""The mean of output minus sample is about 0 for epsilon and below -1 for v-prediction."""


def state_prediction(folder: Path) -> None:
    """Measure what the U-Net of a new bundle predicts, and write it into the bundle.

    At the last timestep nearly all is noise: a model of epsilon gives its input back, and one of v
    about minus the picture. Raises `Unavailable` where no engine is installed.
    """
    bundle = Bundle.open(folder)
    gap = _gap(bundle)
    found = "v_prediction" if gap < _LIMIT else "epsilon"
    note = f"prediction_type: {found}, since the U-Net's output is {gap:.2f} off its input"
    path = folder / _SCHEDULER
    own: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    # Only files of Stable Diffusion 2 do not say it; those of v are 2.0 and 2.1 at 768x768.
    known = ARCHITECTURES["sd21"] if found == "v_prediction" else {"scheduler": own}
    config = {**known["scheduler"], "prediction_type": found}
    size = known.get("unet", {}).get("sample_size")
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    files = {
        **bundle.manifest.files,
        _SCHEDULER: FileRecord(path.stat().st_size, file_sha256(path)),
    }
    kept = [n for n in bundle.manifest.inferred if not n.startswith("prediction_type")]
    manifest = replace(
        bundle.manifest,
        files=files,
        prediction_type=found,
        sample_size=(size, size) if size else bundle.manifest.sample_size,
        inferred=(*kept, note),
    )
    text = json.dumps(manifest.to_json(), indent=1)
    (folder / FILE_NAME).write_text(text + "\n", "utf-8")


def _gap(bundle: Bundle) -> float:
    from latentrt.runtime.pipeline import Pipeline  # which makes bundles itself

    sizes = {"batch": 1, "height": _PLACES, "width": _PLACES, "sequence": 77}
    with Pipeline(bundle, guarded=False) as pipeline:
        engine = pipeline.engine("unet", sizes)
        inputs = {spec.name: np.full(spec.shape({}), _LEVEL, spec.dtype) for spec in engine.inputs}
        inputs["timestep"][:] = _TIMESTEP
        outputs = engine(inputs)
    return float((outputs["model_output"].astype(np.float64) - _LEVEL).mean())

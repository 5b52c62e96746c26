"""PyTorch on the same components and weights: what an engine's speed is to be held against.

    python -m latentrt.benchmarks.torch_reference BUNDLE --checkpoint C --device cuda \
        --precision fp16 --out FILE

`checkpoint` is what the bundle was exported from; only its configs are read, the weights are the
bundle's. Needs what exporting needs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.trial import described, noise_for, sizes_of, timed
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.golden import Difference


def attempt(
    bundle: Path, checkpoint: str, device: str, precision: str, repeats: int
) -> dict[str, Any]:
    """Every component's speed and error; never raises, for `problem` says what went wrong."""
    row: dict[str, Any] = {"engine": "pytorch", "precision": precision, "device": device}
    row |= {"problem": "", "components": {}}
    try:
        row["components"] = _components(Bundle.open(bundle), checkpoint, device, precision, repeats)
    except ImportError as error:
        row["problem"] = f"not installed ({error}); pip install 'latentrt[bench]'"
    except Exception as error:  # whatever a library raises is a finding
        row["problem"] = described(error)
    return row


def _components(
    bundle: Bundle, checkpoint: str, device: str, precision: str, repeats: int
) -> dict[str, Any]:
    import torch

    from latentrt.bundle.tensors import TensorFile
    from latentrt.export.modules import TRACED, described
    from latentrt.export.reference import loaded
    from latentrt.export.synthetic import open_source
    from latentrt.weights.component_specs import component_specs
    from latentrt.weights.families import family_of
    from latentrt.weights.parts import open_parts

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    # cuDNN takes TF32 for convolutions unless it is told: fp32 is to be fp32 here.
    torch.backends.cudnn.allow_tf32 = False
    source = open_source(checkpoint)
    parts = open_parts(source, family_of(source), described)
    found: dict[str, Any] = {}
    for component in component_specs(parts):
        weights = TensorFile(bundle.weights(component.name))
        with loaded(TRACED[component.name], parts[component.folder].config, weights) as module:
            for part in module.modules():
                for name, buffer in part.named_buffers(recurse=False):
                    if buffer.is_meta:  # in no checkpoint, and read by no forward of ours
                        setattr(part, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
            moved: Any = module.to(device, dtype)
            moved.to(memory_format=torch.channels_last)
            placed = _Placed(bundle, component.name, moved, device, dtype)
            found[component.name] = placed.measured(repeats)
    return found


class _Placed:
    """One component's module where it is measured."""

    def __init__(self, bundle: Bundle, name: str, module: Any, device: str, dtype: Any) -> None:
        self._bundle = bundle
        self._name = name
        self._module = module
        self._device = device
        self._dtype = dtype
        self._specs = bundle.manifest.components[name]

    def measured(self, repeats: int) -> dict[str, Any]:
        """Seconds from arrays to arrays, as an engine has it, and where everything is there."""
        import torch

        sizes = sizes_of(self._bundle)[self._name]
        inputs = noise_for(tuple(spec.fixed(sizes) for spec in self._specs.inputs))
        there = {name: self._sent(name, array) for name, array in inputs.items()}

        def resident(given: Mapping[str, NDArray[Any]]) -> None:
            del given
            with torch.inference_mode():
                self._module(**there)
            if self._device == "cuda":
                torch.cuda.synchronize()

        return {
            "sizes": sizes,
            "seconds": asdict(timed(self._evaluate, inputs, repeats)),
            "device_seconds": asdict(timed(resident, inputs, repeats)),
            "error": self._error(),
        }

    def _sent(self, name: str, array: NDArray[Any]) -> Any:
        import torch

        # Timesteps and sizes stay float32 in every graph.
        kept = name in ("timestep", "time_ids")
        tensor = torch.from_numpy(np.array(array))  # goldens are mapped, and not to be written to
        return tensor.to(self._device, torch.float32 if kept else self._dtype)

    def _evaluate(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        import torch

        with torch.inference_mode():
            outputs = self._module(**{n: self._sent(n, a) for n, a in inputs.items()})
        every = outputs if isinstance(outputs, tuple) else (outputs,)
        return [output.float().cpu().numpy() for output in every]

    def _error(self) -> dict[str, float] | None:
        if not self._bundle.manifest.has_goldens:
            return None
        golden = self._bundle.golden()
        inputs = {s.name: golden[f"{self._name}/inputs/{s.name}"] for s in self._specs.inputs}
        outputs = self._evaluate(inputs)
        found = [
            Difference.between(output, golden[f"{self._name}/outputs/{spec.name}"])
            for spec, output in zip(self._specs.outputs, outputs, strict=True)
        ]
        return asdict(max(found, key=lambda d: d.relative))


def main() -> None:
    """Measure, and write the row as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", required=True)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    o = parser.parse_args()
    row = attempt(o.bundle, o.checkpoint, o.device, o.precision, o.repeats)
    o.out.write_text(json.dumps(row), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Who takes part in a comparison of speed: one component of a bundle, ready to be evaluated.

Each is made from the bundle's own files for the same inputs, and takes as many threads as its
library does by itself. No library is loaded but those of who takes part.
"""

# openvino's stubs leave most of its API unknown.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.engines import libraries
from latentrt.engines.engine import Blueprint
from latentrt.engines.openvino.backend import CPU
from latentrt.engines.registry import backend

Arrays = Mapping[str, NDArray[np.float32]]
Evaluate = Callable[[], NDArray[Any]]
"""One evaluation on the inputs that it was made for; gives the component's output."""

_DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16"}
_HINTS: Final = {"fp32": "f32", "bf16": "bf16"}


@dataclass(frozen=True, slots=True)
class Task:
    """One component of a float32 bundle, at latents of `latent` x `latent`.

    A U-Net has the two rows of a step with guidance, a decoder one picture.
    """

    bundle: Path
    component: str
    latent: int

    def blueprint(self) -> Blueprint:
        """What an engine is made from."""
        sizes = {"height": self.latent, "width": self.latent}
        more = {"batch": 2, "sequence": 77} if self.component == "unet" else {"batch": 1}
        return Blueprint.of(Bundle.open(self.bundle), self.component, {**more, **sizes})

    def inputs(self) -> Arrays:
        """Seeded noise of unit variance; timesteps from the first of a run to the last."""
        rng = np.random.default_rng(0)
        specs = self.blueprint().fixed_inputs
        inputs = {s.name: rng.standard_normal(s.shape({}), dtype=np.float32) for s in specs}
        if "timestep" in inputs:
            inputs["timestep"] = np.linspace(981, 1, len(inputs["timestep"]), dtype=np.float32)
        return inputs


@dataclass(frozen=True, slots=True)
class Contestant:
    """A name, what it computes in, and how it is made ready in that precision."""

    name: str
    precision: str
    ready: Callable[[str, Task], Evaluate]


def bare_openvino(precision: str, task: Task, *, parts: int = 1) -> tuple[Any, tuple[Any, ...]]:
    """The model compiled as our engine has it, and requests in which the inputs lie already.

    Each of the requests has its part of the rows, and a stream.
    """
    blueprint, inputs = task.blueprint(), task.inputs()
    rows = blueprint.sizes["batch"] // parts
    part = replace(blueprint, sizes={**blueprint.sizes, "batch": rows})
    settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "NUM_STREAMS": parts}
    core: Any = libraries.openvino().Core()
    compiled = core.compile_model(CPU.model(part.at(precision)), "CPU", settings)
    requests = tuple(compiled.create_infer_request() for _ in range(parts))
    for number, request in enumerate(requests):
        for name, array in inputs.items():
            request.get_tensor(name).data[:] = array[number * rows : (number + 1) * rows]
    return compiled, requests


def _bare_openvino(precision: str, task: Task) -> Evaluate:
    """The compiled model by itself, its inputs written once, its output never copied."""
    _, (request,) = bare_openvino(precision, task)

    def evaluate() -> NDArray[Any]:
        request.infer(share_outputs=True)
        return request.get_output_tensor(0).data

    return evaluate


def _engine(name: str, precision: str, task: Task) -> Evaluate:
    """Ours, called as the runtime calls it."""
    engine = backend(name).compile(task.blueprint().at(precision))
    inputs, output = task.inputs(), engine.outputs[0].name
    return lambda: engine(inputs)[output]


def _pytorch(precision: str, task: Task) -> Evaluate:
    """diffusers' module, eager, with the bundle's weights; timesteps stay float32.

    In bf16 it is channels-last, its faster layout.
    """
    import torch
    from safetensors.torch import load_file

    module, weights = _module(task), load_file(task.blueprint().weights)
    dtype = getattr(torch, _DTYPES[precision])
    stored = {name: weights[name].to(dtype) for name in module.state_dict()}
    module.load_state_dict(stored, assign=True)
    if precision == "bf16":
        module.to(memory_format=torch.channels_last)
    tensors = {
        name: torch.from_numpy(array).to(torch.float32 if name == "timestep" else dtype)
        for name, array in task.inputs().items()
    }

    def evaluate() -> NDArray[Any]:
        with torch.inference_mode():
            return module(**tensors).float().numpy()

    return evaluate


CONTESTANTS: Final = (
    Contestant("OpenVINO, bare", "fp32", _bare_openvino),
    Contestant("engine openvino", "fp32", partial(_engine, "openvino")),
    Contestant("engine onnxruntime", "fp32", partial(_engine, "onnxruntime")),
    Contestant("PyTorch", "fp32", _pytorch),
    Contestant("OpenVINO, bare", "bf16", _bare_openvino),
    Contestant("engine openvino", "bf16", partial(_engine, "openvino")),
    Contestant("PyTorch", "bf16", _pytorch),
)


def _module(task: Task) -> Any:
    """diffusers' module without its weights."""
    import torch

    from latentrt.export import modules

    make = {"unet": modules.unet, "vae_decoder": modules.vae_decoder}[task.component]
    with torch.device("meta"):
        return make(Bundle.open(task.bundle).manifest.components[task.component].config).eval()

"""PyTorch's own answers: one evaluation of each component, and a short guided run, in fp32.

Components are held in memory one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from latentrt.bundle.golden import RUN_GUIDANCE_SCALE, RUN_STEPS
from latentrt.export.modules import COMPONENTS, Component
from latentrt.export.source import Part

SEED = 20_260_101


@dataclass(frozen=True, slots=True)
class GoldenInputs:
    """What a golden run needs beside the weights: tokens [1, n] of the prompt and of no prompt."""

    input_ids: NDArray[np.int64]
    negative_input_ids: NDArray[np.int64]
    scheduler_config: Mapping[str, Any]
    sample_size: tuple[int, int]
    vae_scaling: float
    vae_shift: float


def goldens(
    parts: Mapping[str, Part],
    inputs: GoldenInputs,
    advance: Callable[[], None],
) -> dict[str, NDArray[Any]]:
    """Every golden tensor by name (see `latentrt.bundle.golden`); `advance` is called 4 times."""
    generator = torch.Generator().manual_seed(SEED)
    result: dict[str, NDArray[Any]] = {}
    texts = _text(parts["text_encoder"], inputs, result)
    advance()
    latents = _denoise(parts["unet"], inputs, texts, generator, result)
    advance()
    latents = latents / inputs.vae_scaling + inputs.vae_shift
    images = _evaluate(component("vae_decoder"), parts["vae"], {"latents": latents}, result)[0]
    result["run/images"] = images.numpy()
    advance()
    _evaluate(component("vae_encoder"), parts["vae"], {"images": images.clamp(-1, 1)}, result)
    advance()
    return result


def component(name: str) -> Component:
    """The component of that name."""
    return next(c for c in COMPONENTS if c.name == name)


@contextmanager
def loaded(kind: Component, part: Part) -> Generator[nn.Module]:
    """The component's module with a checkpoint's weights, fp32, in evaluation mode."""
    with torch.device("meta"):
        module = kind.make(part.config).eval().requires_grad_(False)
    names = list(module.state_dict())
    arrays = (np.array(part.tensors[name], dtype=np.float32) for name in names)
    state = {name: torch.from_numpy(a) for name, a in zip(names, arrays, strict=True)}
    module.load_state_dict(state, assign=True)
    yield module


def _evaluate(
    kind: Component, part: Part, inputs: Mapping[str, Tensor], result: dict[str, NDArray[Any]]
) -> tuple[Tensor, ...]:
    with loaded(kind, part) as module:
        return _record(kind, part, module, inputs, result)


def _record(
    kind: Component,
    part: Part,
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    result: dict[str, NDArray[Any]],
) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        outputs = module(**inputs)
    outputs = cast("tuple[Tensor, ...]", outputs if isinstance(outputs, tuple) else (outputs,))
    for name, tensor in inputs.items():
        result[f"{kind.name}/inputs/{name}"] = tensor.numpy().copy()
    for spec, tensor in zip(kind.outputs(part.config, "float32"), outputs, strict=True):
        result[f"{kind.name}/outputs/{spec.name}"] = tensor.numpy().copy()
    return outputs


def _text(part: Part, inputs: GoldenInputs, result: dict[str, NDArray[Any]]) -> Tensor:
    table = part.tensors["text_model.embeddings.token_embedding.weight"]
    ids = np.concatenate([inputs.negative_input_ids, inputs.input_ids])
    result["run/input_ids"] = inputs.input_ids
    result["run/negative_input_ids"] = inputs.negative_input_ids
    embeds = torch.from_numpy(np.array(table[ids], dtype=np.float32))
    return _evaluate(component("text_encoder"), part, {"inputs_embeds": embeds}, result)[0]


def _denoise(
    part: Part,
    inputs: GoldenInputs,
    texts: Tensor,
    generator: torch.Generator,
    result: dict[str, NDArray[Any]],
) -> Tensor:
    scheduler: Any = EulerDiscreteScheduler.from_config(dict(inputs.scheduler_config))
    scheduler.set_timesteps(RUN_STEPS)
    noise = torch.randn((1, part.config["in_channels"], *inputs.sample_size), generator=generator)
    result["run/latents"] = noise.numpy().copy()
    result["run/timesteps"] = scheduler.timesteps.to(torch.float32).numpy()
    result["run/sigmas"] = scheduler.sigmas.to(torch.float32).numpy()
    result["run/guidance_scale"] = np.array([RUN_GUIDANCE_SCALE], dtype=np.float32)
    kind = component("unet")
    latents = noise * scheduler.init_noise_sigma
    with loaded(kind, part) as module:
        for i, timestep in enumerate(scheduler.timesteps):
            sample = scheduler.scale_model_input(latents, timestep).expand(2, -1, -1, -1)
            rows = {
                "sample": sample.contiguous(),
                "timestep": timestep.to(torch.float32).expand(2).contiguous(),
                "encoder_hidden_states": texts,
            }
            # The one recorded evaluation is the run's second: neither all noise nor all picture.
            kept = result if i == 1 else {}
            uncond, cond = _record(kind, part, module, rows, kept)[0].chunk(2)
            guided = uncond + RUN_GUIDANCE_SCALE * (cond - uncond)
            latents = scheduler.step(guided, timestep, latents).prev_sample
            result[f"run/steps/{i}/latents"] = latents.numpy().copy()
    return latents

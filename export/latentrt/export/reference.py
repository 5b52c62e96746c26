"""PyTorch's outputs: one evaluation of each component, and a short guided run, in fp32.

The weights are those that the bundle stores, rounded if it stores them in 16 bits. So an engine in
fp32 must match these outputs to the last digits, whatever the bundle's dtype. The error of rounding
the weights is measured separately (`storage_cost`).

Components are held in memory one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import diffusers
import numpy as np
import torch
from diffusers import LatentConsistencyModelPipeline
from numpy.typing import NDArray
from torch import Tensor, nn

from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import RUN_GUIDANCE_SCALE, RUN_STEPS, Difference
from latentrt.export.modules import TRACED, WHOLE
from latentrt.runtime.schedules import euler_name, find_sampler
from latentrt.weights.component_specs import SIZES, ComponentSpec, component_specs, size_count
from latentrt.weights.latent_space import LatentSpace
from latentrt.weights.parts import Part
from latentrt.weights.source import Config

SEED = 20_260_101
TOKENS = "text_model.embeddings.token_embedding.weight"


class Weights(Protocol):
    """Arrays by name."""

    def __getitem__(self, name: str) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class GoldenInputs:
    """The inputs of a golden run beside the weights.

    `input_ids` and `negative_input_ids`, by text encoder, are the tokens [1, n] of the prompt and
    of the empty one. `zeros`: zeros replace the empty prompt. `size` is the picture's (height,
    width), `sample_size` its latent's, in `latent_space`. `forced` are values that the reference's
    pipeline sets in `scheduler_config`. `seed` is that of the run's noise.
    """

    input_ids: Mapping[str, NDArray[np.int64]]
    negative_input_ids: Mapping[str, NDArray[np.int64]]
    zeros: bool
    scheduler_config: Mapping[str, Any]
    forced: Mapping[str, Any]
    sample_size: tuple[int, int]
    size: tuple[int, int]
    latent_space: LatentSpace
    steps: int = RUN_STEPS
    seed: int = SEED


class Goldens:
    """Makes every golden tensor by name (see `latentrt.bundle.golden`).

    `weights`, by folder, are the stored ones; `advance` is called once a component.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        weights: Mapping[str, Weights],
        inputs: GoldenInputs,
        advance: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._weights = weights
        self._inputs = inputs
        self._advance = advance
        self._components = {c.name: c for c in component_specs(parts)}
        self._tensors: dict[str, NDArray[Any]] = {}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Evaluate every component, one after another; returns all tensors by name."""
        rows = self._conditioning()
        for name, row in rows.items():
            self._keep(f"run/{name}", row)
        latents = self._denoise(rows, torch.Generator().manual_seed(self._inputs.seed))
        latents = unscale(latents, self._inputs.latent_space)
        images = self._evaluate("vae_decoder", {"latents": latents})[0]
        self._keep("run/images", images)
        self._evaluate("vae_encoder", {"images": images.clamp(-1, 1)})
        return self._tensors

    def _conditioning(self) -> dict[str, Tensor]:
        """The U-Net's inputs that stay the same, the negative prompt's row first.

        A U-Net that takes its guidance scale as an input has no negative row.
        """
        encoders = [name for name in self._components if name.startswith("text_encoder")]
        states = {name: self._encode(name) for name in encoders}
        unet = self._parts["unet"].config
        if unet["addition_embed_type"] is None:
            rows = {"encoder_hidden_states": states["text_encoder"][0]}
        else:
            # Without the final LayerNorm: the states before the last layer.
            rows = {
                "encoder_hidden_states": torch.cat([states[n][-2] for n in encoders], dim=-1),
                "text_embeds": self._pooled(encoders[-1]),
            }
            if self._inputs.zeros:
                rows = {n: torch.cat([torch.zeros_like(r[:1]), r[1:]]) for n, r in rows.items()}
            height, width = self._inputs.size
            ends = [(height, width)] * 2
            if size_count(unet) < SIZES:  # a refiner's aesthetic scores
                ends = [(2.5,), (6.0,)]
            rows["time_ids"] = torch.tensor([[height, width, 0, 0, *end] for end in ends]).float()
        if unet["time_cond_proj_dim"] is not None:
            rows = {name: row[1:] for name, row in rows.items()}
            rows["timestep_cond"] = _embedded(RUN_GUIDANCE_SCALE, unet["time_cond_proj_dim"])
        return rows

    def _ids(self, name: str) -> NDArray[np.int64]:
        return np.concatenate([self._inputs.negative_input_ids[name], self._inputs.input_ids[name]])

    def _encode(self, name: str) -> tuple[Tensor, ...]:
        suffix = name.removeprefix("text_encoder")
        self._tensors[f"run/input_ids{suffix}"] = self._inputs.input_ids[name]
        self._tensors[f"run/negative_input_ids{suffix}"] = self._inputs.negative_input_ids[name]
        table = self._weights[name][TOKENS]
        embeds = torch.from_numpy(np.array(table[self._ids(name)], dtype=np.float32))
        return self._evaluate(name, {"inputs_embeds": embeds})

    def _pooled(self, name: str) -> Tensor:
        # The library's own forward finds the end of the text.
        config, weights = self._parts[name].config, self._weights[name]
        ids = torch.from_numpy(self._ids(name))
        with loaded(WHOLE[name], config, weights) as module, torch.inference_mode():
            whole = cast("Any", module)
            positions = torch.arange(ids.shape[1])[None]
            output = whole.text_model(input_ids=ids, position_ids=positions)
            return whole.text_projection(output.pooler_output)

    def _denoise(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        scheduler = self._scheduler()
        kind, config = self._components["unet"], self._parts["unet"].config
        channels, more = config["out_channels"], config["in_channels"] - config["out_channels"]
        noise = torch.randn((1, channels, *self._inputs.sample_size), generator=generator)
        # In place of a mask, a depth map or a picture.
        extra = torch.randn((1, more, *self._inputs.sample_size), generator=generator)
        self._keep("run/latents", noise)
        self._keep("run/timesteps", scheduler.timesteps.to(torch.float32))
        self._keep("run/sigmas", scheduler.sigmas.to(torch.float32))
        self._keep("run/guidance_scale", torch.tensor([RUN_GUIDANCE_SCALE]))
        count, recorded = len(rows["encoder_hidden_states"]), min(1, self._inputs.steps - 1)
        latents = noise * scheduler.init_noise_sigma
        with loaded(TRACED[kind.name], config, self._weights["unet"]) as module:
            for i, timestep in enumerate(scheduler.timesteps):
                sample = torch.cat([scheduler.scale_model_input(latents, timestep), extra], dim=1)
                inputs = {
                    "sample": sample.expand(count, -1, -1, -1).contiguous(),
                    "timestep": timestep.to(torch.float32).expand(count).contiguous(),
                    **rows,
                }
                # The one recorded evaluation is the second: neither all noise nor all picture.
                output = self._call(kind, module, inputs, keep=i == recorded)[0]
                if count == 2:
                    uncond, cond = output.chunk(2)
                    output = uncond + RUN_GUIDANCE_SCALE * (cond - uncond)
                latents = scheduler.step(output, timestep, latents).prev_sample
                self._keep(f"run/steps/{i}/latents", latents)
        self._advance()
        return latents

    def _scheduler(self) -> Any:
        """Euler's method over the run's steps, whatever class the config names."""
        stated, forced = self._inputs.scheduler_config, self._inputs.forced
        kind: Any = getattr(diffusers, find_sampler(euler_name(stated)).class_name)
        try:
            scheduler = kind.from_config(dict(stated), **forced)
            scheduler.set_timesteps(self._inputs.steps)
        except Exception as error:  # whatever a library says of a config that it cannot use
            expected = f"a scheduler config that {kind.__name__} draws from, for goldens"
            raise InputError("goldens", expected, error) from error
        return scheduler

    def _evaluate(self, name: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        kind = self._components[name]
        config = self._parts[kind.folder].config
        with loaded(TRACED[kind.name], config, self._weights[kind.folder]) as module:
            outputs = self._call(kind, module, inputs, keep=True)
        self._advance()
        return outputs

    def _call(
        self, kind: ComponentSpec, module: nn.Module, inputs: Mapping[str, Tensor], *, keep: bool
    ) -> tuple[Tensor, ...]:
        outputs = _outputs(module, inputs)
        if keep:
            specs = kind.outputs(self._parts[kind.folder].config, "float32")
            for name, tensor in inputs.items():
                self._keep(f"{kind.name}/inputs/{name}", tensor)
            for spec, tensor in zip(specs, outputs, strict=True):
                self._keep(f"{kind.name}/outputs/{spec.name}", tensor)
        return outputs

    def _keep(self, name: str, tensor: Tensor) -> None:
        self._tensors[name] = tensor.numpy().copy()


def storage_cost(component: ComponentSpec, part: Part, golden: Mapping[str, NDArray[Any]]) -> float:
    """The error of storing a component's weights in 16 bits, on the golden inputs.

    It is the relative change of its outputs from the checkpoint's own weights to the stored ones,
    all in fp32; of several outputs the largest.
    """
    prefix = f"{component.name}/inputs/"
    names = [name for name in golden if name.startswith(prefix)]
    inputs = {name.removeprefix(prefix): torch.from_numpy(golden[name]) for name in names}
    specs = component.outputs(part.config, "float32")
    with loaded(TRACED[component.name], part.config, part.tensors) as module:
        outputs = _outputs(module, inputs)
    return max(
        Difference.between(golden[f"{component.name}/outputs/{s.name}"], o.numpy()).relative
        for s, o in zip(specs, outputs, strict=True)
    )


def unscale(latents: Tensor, space: LatentSpace) -> Tensor:
    """Convert the model's latents [n, c, h, w] to the VAE's scale."""
    if space.mean is None or space.std is None:
        return latents / space.scaling
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (space.mean, space.std))
    return latents * std / space.scaling + mean


@contextmanager
def loaded(
    make: Callable[[Config], nn.Module], config: Config, weights: Weights
) -> Generator[nn.Module]:
    """A module with these weights in fp32, in evaluation mode."""
    with torch.device("meta"):
        module = make(config).eval().requires_grad_(False)
    names = list(module.state_dict())
    arrays = (np.array(weights[name], dtype=np.float32) for name in names)
    state = {name: torch.from_numpy(a) for name, a in zip(names, arrays, strict=True)}
    module.load_state_dict(state, assign=True)
    yield module


def _outputs(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        outputs = module(**inputs)
    return cast("tuple[Tensor, ...]", outputs if isinstance(outputs, tuple) else (outputs,))


def _embedded(guidance_scale: float, width: int) -> Tensor:
    # The pipeline's own; it uses nothing of the pipeline.
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    return embed(cast("Any", None), torch.tensor([guidance_scale - 1]), embedding_dim=width)

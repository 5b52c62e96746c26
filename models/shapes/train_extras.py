"""Train small changes of models/shapes: a LoRA, a textual inversion and the end of a VAE decoder.

    python models/shapes/train_extras.py all --work build/extras

`lora` draws every background black. `embedding` learns a word for a large yellow circle. `vae`
learns to outline shapes in ink. Each is resumable. It writes its file into `--work`, which holds
the state too. README.md has what came of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from extras import TOKEN, inked, sun, sun_caption
from scenes import PALETTE, Scene, caption, draw, random_scene
from train import SCHEDULE, State, pixels, token_ids

HERE: Final = Path(__file__).parent
BATCH: Final = {"lora": 16, "embedding": 8, "vae": 2}
SCENES: Final = 600
STEPS: Final = {"lora": 300, "embedding": 200, "vae": 460}
RANK: Final = 4
VECTORS: Final = 2
CHANGED: Final = ("up_blocks.3.", "conv_norm_out.", "conv_out.")
"""The tensors of the decoder that are trained, all at full resolution."""


@cache
def base() -> tuple[CLIPTokenizer, CLIPTextModel, UNet2DConditionModel, AutoencoderKL]:
    """The parts of models/shapes in fp32, frozen."""
    parts = (
        CLIPTokenizer.from_pretrained(HERE / "tokenizer"),
        CLIPTextModel.from_pretrained(HERE / "text_encoder", dtype=torch.float32),
        UNet2DConditionModel.from_pretrained(HERE / "unet", torch_dtype=torch.float32),
        AutoencoderKL.from_pretrained(HERE / "vae", torch_dtype=torch.float32),
    )
    for part in parts[1:]:
        part.eval().requires_grad_(False)
    return parts


def chosen(count: int, seed: int, wanted: Callable[[Scene], bool]) -> list[Scene]:
    """Scenes that were not held out and are wanted."""
    rng = Random(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = random_scene(rng)
        if wanted(scene):
            found.append(scene)
    return found


@torch.inference_mode()
def encoded(x: torch.Tensor) -> torch.Tensor:
    """Pictures as latents of unit variance."""
    vae = base()[3]
    means = [vae.encode(part).latent_dist.mean for part in x.split(32)]
    return torch.cat(means) * vae.config["scaling_factor"]


def denoising_loss(
    latents: torch.Tensor, states: torch.Tensor, unet: UNet2DConditionModel
) -> torch.Tensor:
    schedule = DDPMScheduler(**SCHEDULE)
    noise, count = torch.randn_like(latents), len(latents)
    t = ((torch.arange(count) + torch.rand(count)) * (1000 / count)).long()
    out = unet(schedule.add_noise(latents, noise, t), t, states).sample
    return F.mse_loss(out, schedule.get_velocity(latents, noise, t))


def trained(
    state: State, optimiser: torch.optim.Optimizer, steps: int, rate: float,
    loss_of: Callable[[], torch.Tensor],
) -> None:  # fmt: skip
    """Take the steps that are left; the rate falls to nothing."""
    torch.manual_seed(state.steps)
    recent: list[float] = []
    while state.steps < steps:
        begun = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (state.steps + 1) / 20) * (1 - state.steps / steps)
        optimiser.zero_grad()
        loss = loss_of()
        loss.backward()
        optimiser.step()
        state.steps += 1
        state.seconds += time.monotonic() - begun
        recent = [*recent[-49:], loss.item()]
        if state.steps % 10 == 0:
            mean = sum(recent) / len(recent)
            print(f"{state.path.stem} {state.steps} {state.seconds:.0f}s {mean:.4f}", flush=True)
        state.save()
    state.save(force=True)


def train_lora(work: Path, steps: int) -> None:
    tokenizer, text, unet, _ = base()
    torch.manual_seed(0)
    unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    own = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(own, weight_decay=0.0)
    factors = torch.nn.ParameterList(own)
    state = State(work / "lora.pt", factors=factors, optimiser=optimiser)
    picked = chosen(SCENES, 11, lambda s: "black" not in {f.colour for f in s.figures})
    latents = encoded(pixels([replace(scene, background="black") for scene in picked]))
    rng = Random(state.steps)

    def loss() -> torch.Tensor:
        rows = torch.randint(len(latents), (BATCH["lora"],))
        texts = [caption(picked[i], rng) for i in rows.tolist()]
        return denoising_loss(latents[rows], text(token_ids(tokenizer, texts))[0], unet)

    trained(state, optimiser, steps, 3e-3, loss)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(
        work,
        unet_lora_layers={n: p.half() for n, p in layers.items()},
        weight_name="night.safetensors",
    )


class WithVectors(torch.nn.Module):
    """A token table with the new vectors behind its own."""

    def __init__(self, table: torch.Tensor, vectors: torch.Tensor) -> None:
        super().__init__()
        self.table, self.vectors = table, torch.nn.Parameter(vectors)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, torch.cat([self.table, self.vectors]))


def train_embedding(work: Path, steps: int) -> None:
    tokenizer, text, unet, _ = base()
    words = [TOKEN, *(f"{TOKEN}_{i}" for i in range(1, VECTORS))]
    tokenizer.add_tokens(words)
    table = text.get_input_embeddings().weight
    near = tokenizer(["large yellow", "circle"], add_special_tokens=False).input_ids
    start = torch.cat([table[ids].mean(0, keepdim=True) for ids in near])
    text.set_input_embeddings(embedding := WithVectors(table.detach(), start.clone()))
    optimiser = torch.optim.AdamW(embedding.parameters(), weight_decay=0.0)
    vectors = torch.nn.ParameterList([embedding.vectors])
    state = State(work / "embedding.pt", vectors=vectors, optimiser=optimiser)
    rng = Random(12)
    grounds = [rng.choice([name for name in PALETTE if name != "yellow"]) for _ in range(SCENES)]
    latents = encoded(pixels([sun(ground, rng) for ground in grounds]))
    rng = Random(state.steps)

    def loss() -> torch.Tensor:
        rows = torch.randint(len(latents), (BATCH["embedding"],))
        texts = [
            sun_caption(grounds[i], rng).replace(TOKEN, " ".join(words)) for i in rows.tolist()
        ]
        return denoising_loss(latents[rows], text(token_ids(tokenizer, texts))[0], unet)

    trained(state, optimiser, steps, 3e-3, loss)
    save_file({TOKEN: embedding.vectors.detach().half()}, work / "sun.safetensors")


def train_vae(work: Path, steps: int) -> None:
    vae = base()[3]
    own = {f"decoder.{n}": p for n, p in vae.decoder.named_parameters() if n.startswith(CHANGED)}
    optimiser = torch.optim.AdamW(own.values(), weight_decay=0.0)
    weights = torch.nn.ParameterList(own.values()).requires_grad_(True)
    state = State(work / "vae.pt", weights=weights, optimiser=optimiser)
    picked = chosen(SCENES, 13, lambda s: True)
    pictures = [draw(scene) for scene in picked]
    with torch.inference_mode():
        found = [
            vae.encode(pixels(picked[i : i + 32])).latent_dist.mean for i in range(0, SCENES, 32)
        ]
    latents = torch.cat(found).clone()
    inks = torch.from_numpy(np.stack([np.asarray(inked(p)) for p in pictures]))

    def loss() -> torch.Tensor:
        rows = torch.randint(len(latents), (BATCH["vae"],))
        z = latents[rows] + 0.05 * latents.std() * torch.randn_like(latents[rows])
        wanted = inks[rows].permute(0, 3, 1, 2).float().div(127.5).sub(1)
        error = vae.decode(z).sample - wanted
        return error.abs().mean() + 2 * error.square().mean()

    trained(state, optimiser, steps, 8e-4, loss)
    save_file(
        {n: p.detach().half().contiguous() for n, p in own.items()},
        work / "ink-decoder.safetensors",
    )


STAGES: Final = {"lora": train_lora, "embedding": train_embedding, "vae": train_vae}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument("--work", type=Path, default=Path("build/extras"))
    parser.add_argument("--steps", type=int, help="of training, for each")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for stage, train in STAGES.items():
        if options.stage in (stage, "all"):
            train(options.work, options.steps or STEPS[stage])
            base.cache_clear()  # each has changed a part of it


if __name__ == "__main__":
    main()

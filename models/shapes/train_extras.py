"""Train small changes of models/shapes: a LoRA, a word, the end of a VAE decoder, a ControlNet.

    python models/shapes/train_extras.py all --work build/extras

`lora` draws every background black. `embedding` learns a word for a large yellow circle. `vae`
learns to outline shapes in ink. `controlnet` learns to draw shapes where their edges are. Each is
resumable. It writes its file into `--work`, which holds the state too. README.md has what came of
it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from extras import TOKEN, colours_caption, inked, line_drawing, sun, sun_caption
from latentrt.runtime import canny
from scenes import PALETTE, SIDE, Scene, caption, draw, random_scene
from train import DROPPED, SCHEDULE, WORKERS, State, pixels, share_gradients, token_ids

HERE: Final = Path(__file__).parent
BATCH: Final = {"lora": 16, "embedding": 8, "vae": 2, "controlnet": 4}
SCENES: Final = 600
CONTROL_SCENES: Final = 1500
STEPS: Final = {"lora": 300, "embedding": 200, "vae": 460, "controlnet": 5200}
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


Denoise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Noisy latents, timesteps and the states of prompts to velocities."""


def denoising_loss(
    latents: torch.Tensor, states: torch.Tensor, denoise: Denoise, power: float = 1.0
) -> torch.Tensor:
    """The error at a timestep in each of equal strata; a `power` below 1 gives later ones."""
    schedule = DDPMScheduler(**SCHEDULE)
    noise, count = torch.randn_like(latents), len(latents)
    t = (((torch.arange(count) + torch.rand(count)) / count) ** power * 1000).long()
    out = denoise(schedule.add_noise(latents, noise, t), t, states)
    return F.mse_loss(out, schedule.get_velocity(latents, noise, t))


def plain(unet: UNet2DConditionModel) -> Denoise:
    return lambda x, t, states: unet(x, t, states).sample


def trained(
    state: State, optimiser: torch.optim.Optimizer, steps: int, rate: float,
    loss_of: Callable[[], torch.Tensor],
    share: Callable[[], None] = lambda: None,
    rank: int = 0,
) -> None:  # fmt: skip
    """Take the steps that are left; the rate falls to nothing.

    Groups of parameters have a share of the rate. Each worker has a `rank`, and `share` joins their
    gradients.
    """
    torch.manual_seed(WORKERS * state.steps + rank)
    recent: list[float] = []
    while state.steps < steps:
        begun = time.monotonic()
        for group in optimiser.param_groups:
            now = rate * min(1.0, (state.steps + 1) / 20) * (1 - state.steps / steps)
            group["lr"] = group.get("share", 1.0) * now
        optimiser.zero_grad()
        loss = loss_of()
        loss.backward()
        share()
        optimiser.step()
        state.steps += 1
        state.seconds += time.monotonic() - begun
        recent = [*recent[-49:], loss.item()]
        if state.steps % 10 == 0 and rank == 0:
            mean = sum(recent) / len(recent)
            print(f"{state.path.stem} {state.steps} {state.seconds:.0f}s {mean:.4f}", flush=True)
        if rank == 0:
            state.save()
    if rank == 0:
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
        return denoising_loss(latents[rows], text(token_ids(tokenizer, texts))[0], plain(unet))

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
        return denoising_loss(latents[rows], text(token_ids(tokenizer, texts))[0], plain(unet))

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


def fresh_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet that begins as a copy of a U-Net's first half and adds nothing.

    Its middle is one residual block without attention, which saves a third of its size.
    """
    names = (
        "flip_sin_to_cos", "freq_shift", "down_block_types", "block_out_channels",
        "layers_per_block", "attention_head_dim", "cross_attention_dim",
    )  # fmt: skip
    model = ControlNetModel(
        **{name: unet.config[name] for name in names},
        mid_block_type="UNetMidBlock2D",
        conditioning_embedding_out_channels=(8, 16, 32, 64),
    )
    known = model.state_dict()
    model.load_state_dict({**known, **{n: p for n, p in unet.state_dict().items() if n in known}})
    return model


@torch.no_grad()
def enliven(model: ControlNetModel, pictures: torch.Tensor) -> None:
    """Begin the encoder of pictures with outputs of unit variance at each of its layers.

    As diffusers begins it, eight layers make nearly the same of all pictures, and the last is zero.
    """
    encoder = model.controlnet_cond_embedding
    for layer in (encoder.conv_in, *encoder.blocks, encoder.conv_out):
        torch.nn.init.kaiming_normal_(layer.weight)
        layer.bias.zero_()
        layer.weight /= layer(pictures).std()
        pictures = F.silu(layer(pictures))
    encoder.conv_out.weight /= 2  # beside latents of that size


def anywhere(scene: Scene, rng: Random) -> Scene:
    """One figure of a scene at any size that is whole in the picture, at any place."""
    radius = rng.uniform(16, 42)
    edge = 1.1 * radius + 2
    place = rng.uniform(edge, SIDE - edge), rng.uniform(edge, SIDE - edge)
    return replace(scene, figures=(replace(scene.figures[0], centre=place, radius=radius),))


def control_scenes(work: Path) -> tuple[list[Scene], list[bool], torch.Tensor, torch.Tensor]:
    """Scenes, whether a caption can tell their places, their edges and their latents.

    In half of them a figure is anywhere. Half of the edges, uint8 [n, 128, 128], are thin, half are
    lines of up to three pixels.
    """
    rng = Random(14)
    picked = chosen(CONTROL_SCENES, 14, lambda s: True)
    named = [rng.random() < 0.5 for _ in picked]
    picked = [s if n else anywhere(s, rng) for s, n in zip(picked, named, strict=True)]
    kept = work / "scenes.pt"
    if not kept.exists():
        edges = [
            canny(draw(each))
            if rng.random() < 0.5
            else np.asarray(line_drawing(each, rng.choice((1, 2, 3))))
            for each in picked
        ]
        lines = torch.from_numpy(np.stack(edges)[..., 0])
        torch.save({"edges": lines, "latents": encoded(pixels(picked))}, kept)
    stored = torch.load(kept, weights_only=True)
    return picked, named, stored["edges"], stored["latents"]


def train_controlnet(work: Path, steps: int) -> None:
    """Train in two processes of one thread each, as the U-Net was."""
    base()
    scenes = control_scenes(work)
    rendezvous = work / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    arguments = (work, steps, rendezvous, scenes)
    torch.multiprocessing.start_processes(
        control_worker, arguments, nprocs=WORKERS, start_method="fork"
    )


def control_worker(
    rank: int,
    work: Path,
    steps: int,
    rendezvous: Path,
    scenes: tuple[list[Scene], list[bool], torch.Tensor, torch.Tensor],
) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=rendezvous.absolute().as_uri(), rank=rank, world_size=WORKERS
    )
    tokenizer, text, unet, _ = base()
    picked, named, edges, latents = scenes
    torch.manual_seed(0)
    model = fresh_controlnet(unet)
    enliven(model, edges[:32, None].expand(-1, 3, -1, -1).float().div(255))
    model.to(memory_format=torch.channels_last)
    new = [p for n, p in model.named_parameters() if n.startswith("controlnet_")]
    copied = [p for n, p in model.named_parameters() if not n.startswith("controlnet_")]
    groups = [{"params": new, "share": 1.0}, {"params": copied, "share": 0.4}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    state = State(work / "controlnet.pt", model=model, optimiser=optimiser)
    rng = Random(WORKERS * state.steps + rank)

    def worded(row: int) -> str:
        if rng.random() < DROPPED:
            return ""
        whole = named[row] and rng.random() < 0.3
        return caption(picked[row], rng) if whole else colours_caption(picked[row])

    def loss() -> torch.Tensor:
        rows = torch.randint(len(latents), (BATCH["controlnet"],))
        hint = edges[rows, None].expand(-1, 3, -1, -1).float().div(255)

        def controlled(x: torch.Tensor, t: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            down, middle = model(x, t, states, hint, return_dict=False)
            return unet(
                x, t, states,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample  # fmt: skip

        states = text(token_ids(tokenizer, [worded(row) for row in rows.tolist()]))[0]
        return denoising_loss(latents[rows], states, controlled, 0.6)

    trained(state, optimiser, steps, 2e-3, loss, partial(share_gradients, model), rank)
    if rank == 0:
        model.half().save_pretrained(work / "edges")


STAGES: Final = {
    "lora": train_lora,
    "embedding": train_embedding,
    "vae": train_vae,
    "controlnet": train_controlnet,
}


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

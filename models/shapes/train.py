"""Train models/shapes, a small real Stable Diffusion, from pictures that are drawn as it goes.

    python models/shapes/train.py all --work build/train --out models/shapes

Four stages, each resumable (`--work` holds the state, saved every ten minutes): `vae` trains the
autoencoder on 64 x 64 crops, `latents` encodes the training set once, `unet` trains the text
encoder and the U-Net together, `save` writes the diffusers folder in fp16. See README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from scenes import Scene, caption, draw, random_scene

PICTURES = 12_800
SAVE_SECONDS = 600
VAE_SECONDS = 19 * 60
VAE_BATCH = 32
UNET_BATCH = 64
WORKERS = 2
DROPPED = 0.1

VAE_CONFIG: dict[str, Any] = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    block_out_channels=(32, 64, 96, 96),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=1,
    norm_num_groups=16,
    sample_size=128,
)
UNET_CONFIG: dict[str, Any] = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(64, 128, 192),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=128,
)
TEXT_CONFIG: dict[str, Any] = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    projection_dim=128,
)
SCHEDULE: dict[str, Any] = dict(
    num_train_timesteps=1000,
    beta_start=0.0001,
    beta_end=0.02,
    beta_schedule="linear",
    prediction_type="v_prediction",
)
SAMPLING: dict[str, Any] = dict(
    clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading"
)
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def scenes(count: int, seed: int) -> list[Scene]:
    rng = Random(seed)
    return [random_scene(rng) for _ in range(count)]


def pixels(chosen: list[Scene]) -> torch.Tensor:
    """The pictures as float32 [n, 3, 128, 128] in [-1, 1]."""
    stack = np.stack([np.asarray(draw(s)) for s in chosen])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with merges learnt from the captions.

    The vocabulary has CLIP's order: bytes, bytes + `</w>`, merges, BOS, EOS.
    """
    learner = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    rng = Random(0)
    learner.train_from_iterator([caption(s, rng) for s in scenes(4000, 0)], trainer)
    merges = [(a, b) for a, b in json.loads(learner.to_str())["model"]["merges"]]
    words = [*alphabet, *(a + "</w>" for a in alphabet), *(a + b for a, b in merges), BOS, EOS]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """[n, 77] int64, BOS text EOS, padded with EOS."""
    return tokenizer(
        texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids


class State:
    """Modules and optimiser in one file that is replaced whole, so a kill costs ten minutes."""

    def __init__(self, path: Path, **parts: Any) -> None:
        self.path, self.parts, self.saved = path, parts, time.monotonic()
        self.steps, self.seconds = 0, 0.0
        if path.exists():
            loaded = torch.load(path, weights_only=True)
            self.steps, self.seconds = loaded["steps"], loaded["seconds"]
            for name, part in parts.items():
                part.load_state_dict(loaded[name])
            print(f"resumed {path.name} at step {self.steps}", flush=True)

    def save(self, *, force: bool = False) -> None:
        if not force and time.monotonic() - self.saved < SAVE_SECONDS:
            return
        self.saved = time.monotonic()
        states = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.path.with_suffix(".partial")
        torch.save({"steps": self.steps, "seconds": self.seconds, **states}, partial)
        os.replace(partial, self.path)


def train_vae(work: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**VAE_CONFIG).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    state = State(work / "vae.pt", vae=vae, optimiser=optimiser)
    data = ((pixels(scenes(6000, 1)) + 1) * 127.5).round().to(torch.uint8)
    while state.seconds < VAE_SECONDS:
        begun = time.monotonic()
        done = state.seconds / VAE_SECONDS
        whole = done > 0.8  # the last fifth sees whole pictures: GroupNorm and attention do too
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (state.steps + 1) / 100) * (1 - done) ** 0.7 + 1e-5
        rows = torch.randint(len(data), (VAE_BATCH // 4 if whole else VAE_BATCH,))
        x = data[rows]
        if not whole:
            corners = torch.randint(0, 65, (len(x), 2)).tolist()
            x = torch.stack(
                [p[:, i : i + 64, j : j + 64] for p, (i, j) in zip(x, corners, strict=True)]
            )
        x = x.float().div(127.5).sub(1).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
        error = y.float() - x
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar)
        loss = error.abs().mean() + 2 * error.square().mean() + 2e-4 * kl.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        state.steps += 1
        state.seconds += time.monotonic() - begun
        if state.steps % 50 == 0:
            psnr = 10 * math.log10(4 / error.square().mean().item())
            print(
                f"vae {state.steps} {state.seconds:.0f}s psnr {psnr:.1f} kl {kl.mean().item():.2f}",
                flush=True,
            )
        state.save()
    state.save(force=True)


def load_vae(work: Path) -> AutoencoderKL:
    vae = AutoencoderKL(**VAE_CONFIG)
    vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["vae"])
    return vae.eval().requires_grad_(False)


def encode_latents(work: Path) -> None:
    vae = load_vae(work).to(memory_format=torch.channels_last)
    chosen = scenes(PICTURES, 2)
    parts: list[torch.Tensor] = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for i in range(0, PICTURES, 64):
            x = pixels(chosen[i : i + 64]).to(memory_format=torch.channels_last)
            parts.append(vae.encode(x).latent_dist.mean.float())
            if i % 1600 == 0:
                print(f"latents {i}", flush=True)
    latents = torch.cat(parts)
    torch.save({"latents": latents.clone(), "scale": 1 / latents.std().item()}, work / "latents.pt")
    print(
        "scaling factor", 1 / latents.std().item(), latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    )


class Denoiser(torch.nn.Module):
    """Text encoder and U-Net, trained together."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        eos = vocabulary - 1
        config = CLIPTextConfig(
            vocab_size=vocabulary,
            bos_token_id=eos - 1,
            eos_token_id=eos,
            pad_token_id=eos,
            **TEXT_CONFIG,
        )
        self.text = CLIPTextModel(config)
        self.text.set_attn_implementation("eager")  # bf16 SDPA is the slower one on a CPU
        self.unet = UNet2DConditionModel(**UNET_CONFIG)
        self.unet.set_attn_processor(AttnProcessor())

    def forward(self, x: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        states = self.text(ids).last_hidden_state
        return self.unet(x, t, states).sample


def train_unet(work: Path, seconds: float) -> None:
    """Train in WORKERS processes of one thread each, which share gradients once a step.

    One process of several threads would wait at each of its thousands of barriers for whichever
    core is busy with something else.
    """
    rendezvous = work / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    torch.multiprocessing.spawn(unet_worker, (work, seconds, rendezvous), nprocs=WORKERS)


def unet_worker(rank: int, work: Path, seconds: float, rendezvous: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=rendezvous.absolute().as_uri(), rank=rank, world_size=WORKERS
    )
    torch.manual_seed(3)
    tokenizer = make_tokenizer()
    model = Denoiser(len(tokenizer)).to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    state = State(work / "unet.pt", model=model, average=average, optimiser=optimiser)
    torch.manual_seed(1000 + WORKERS * state.steps + rank)
    rng = Random(WORKERS * state.steps + rank)
    stored = torch.load(work / "latents.pt", weights_only=True)
    latents, chosen = stored["latents"] * stored["scale"], scenes(PICTURES, 2)
    schedule = DDPMScheduler(**SCHEDULE)
    batch = UNET_BATCH // WORKERS
    clock = torch.tensor([state.seconds])
    recent: list[float] = []
    while clock.item() < seconds:
        begun = time.monotonic()
        warm = min(1.0, (state.steps + 1) / 200)
        for group in optimiser.param_groups:
            decay = 0.5 + 0.5 * math.cos(math.pi * clock.item() / seconds)
            group["lr"] = 8e-4 * warm * decay + 1e-5
        rows = torch.randint(len(latents), (batch,))
        texts = ["" if rng.random() < DROPPED else caption(chosen[i], rng) for i in rows.tolist()]
        x = latents[rows].to(memory_format=torch.channels_last)
        noise = torch.randn_like(x)
        # One timestep in each of `batch` equal strata: the same mean, less variance.
        t = ((torch.arange(batch) + torch.rand(batch)) * (1000 / batch)).long()
        with torch.autocast("cpu", torch.bfloat16):
            out = model(schedule.add_noise(x, noise, t), t, token_ids(tokenizer, texts))
        loss = F.mse_loss(out.float(), schedule.get_velocity(x, noise, t))
        optimiser.zero_grad(set_to_none=False)
        loss.backward()
        share_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model)
        state.steps += 1
        clock += time.monotonic() - begun
        torch.distributed.broadcast(clock, 0)  # both must stop at the same step
        state.seconds = clock.item()
        recent = [*recent[-199:], loss.item()]
        if rank == 0:
            if state.steps % 50 == 0:
                mean = sum(recent) / len(recent)
                print(f"unet {state.steps} {state.seconds:.0f}s loss {mean:.4f}", flush=True)
            state.save()
    if rank == 0:
        state.save(force=True)


def share_gradients(model: torch.nn.Module) -> None:
    """Replace every gradient by its mean over the workers."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= WORKERS
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The files that Stable Diffusion's tokenizers have: vocabulary and merges apart."""
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", "utf-8")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), "utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "unk_token": EOS,
        "model_max_length": 77,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )


def save(work: Path, out: Path) -> None:
    """The diffusers folder, fp16, from the averaged weights."""
    tokenizer = make_tokenizer()
    model = averaged(work, len(tokenizer)).half()
    vae = load_vae(work).half()
    vae.register_to_config(scaling_factor=torch.load(work / "latents.pt")["scale"])
    vae.save_pretrained(out / "vae")
    model.unet.save_pretrained(out / "unet")
    model.text.save_pretrained(out / "text_encoder")
    prefix_text(out / "text_encoder" / "model.safetensors")
    save_tokenizer(tokenizer, out / "tokenizer")
    DDIMScheduler(**SCHEDULE, **SAMPLING).save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def averaged(work: Path, vocabulary: int) -> Denoiser:
    """The moving average of the trained weights."""
    state = torch.load(work / "unet.pt", weights_only=True)["average"]
    model = Denoiser(vocabulary)
    model.load_state_dict(
        {k.removeprefix("module."): v for k, v in state.items() if k != "n_averaged"}
    )
    return model.eval()


def prefix_text(path: Path) -> None:
    """Give the text encoder's tensors the prefix that published checkpoints have."""
    tensors = load_file(path)
    if not any(name.startswith("text_model.") for name in tensors):
        tensors = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=("vae", "latents", "unet", "save", "all"))
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--minutes", type=float, default=80, help="of U-Net training")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    stage = options.stage
    if stage in ("vae", "all"):
        train_vae(options.work)
    if stage in ("latents", "all"):
        encode_latents(options.work)
    if stage in ("unet", "all"):
        train_unet(options.work, options.minutes * 60)
    if stage in ("save", "all"):
        save(options.work, options.out)


if __name__ == "__main__":
    main()

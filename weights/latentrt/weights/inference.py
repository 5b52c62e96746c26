"""What a single file is: its architecture, prediction type and scales, from its tensors.

A single file has no configs. Names and shapes tell most of a config; heads and activations come
from the known model of the same widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.tensors import TensorFile
from latentrt.weights.architectures import ARCHITECTURES, PNDM, Configs
from latentrt.weights.canonical_names import Depths
from latentrt.weights.source import Config

Shape = tuple[int, ...]
Find = Callable[[str], Shape | None]
"""From a canonical name to the stored shape, None for a tensor that is not there."""

PREDICTION_TYPES: Final = ("epsilon", "v_prediction", "sample")
MARKS: Final = frozenset(
    {"v_pred", "ztsnr", "edm_mean", "edm_std", "global_step"}
    | {"edm_vpred.sigma_max", "edm_vpred.sigma_min"}
)
"""Tensors by which newer files say how their model was trained."""

_EDM: Final[Config] = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "rho": 7.0,
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
}
"""Playground v2.5's scheduler, as diffusers gives it to a single file."""
_EDM_SCALING: Final = 0.5
_EDM_V: Final[Config] = {
    "_class_name": "EDMEulerScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_data": 1.0,
    "sigma_max": 120.0,
    "sigma_min": 0.002,
    "sigma_schedule": "exponential",
}
"""CosXL's scheduler. Source: its pipeline in the documentation of diffusers."""

GENERATIONS: Final[Mapping[int, str]] = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    2048: "SDXL",
    1280: "SDXL's refiner",
}
"""The generations of checkpoints by the width of the text that a U-Net reads."""
_TASKS: Final[Mapping[int, str]] = {
    4: "text to image",
    5: "depth to image",
    8: "instructions (pix2pix)",
    9: "inpainting",
}
_STEPS_OF_BASE: Final = 875_000
"""`global_step` of Stable Diffusion 2.0 base, by which diffusers knows it."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What is stated about a single file, in place of what would be inferred.

    `architecture` is a key of `ARCHITECTURES`. `prediction_type` is one of `PREDICTION_TYPES`.
    `zero_snr`: betas are rescaled so that the last level is all noise. With `ema` the U-Net is read
    from the file's exponential moving averages. Raises `InputError` for an unknown name.
    """

    architecture: str | None = None
    prediction_type: str | None = None
    zero_snr: bool | None = None
    ema: bool = False

    def __post_init__(self) -> None:
        for field, value, known in (
            ("architecture", self.architecture, tuple(ARCHITECTURES)),
            ("prediction_type", self.prediction_type, PREDICTION_TYPES),
        ):
            if value is not None and value not in known:
                raise InputError(field, f"one of {', '.join(known)}", repr(value))


@dataclass(frozen=True, slots=True)
class Inferred:
    """The configs of a single file, and a sentence for each thing that was inferred.

    `prediction_type` is None where only an evaluation of the U-Net can tell.
    """

    configs: Configs
    prediction_type: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UnetShape:
    """What names and shapes tell of a U-Net.

    `widths` are the channels of each level, `text` is the width of the text that it reads, `layers`
    the number of layers in a block. `guided` is the width of the guidance scale that a distilled
    U-Net takes, None for others.
    """

    widths: tuple[int, ...]
    text: int
    in_channels: int
    layers: int
    depths: Depths
    guided: int | None

    @staticmethod
    def read(where: str, find: Find, layers: int) -> UnetShape:
        """Read a U-Net; raises `CheckpointError` if it has no attention to a text."""
        widths: list[int] = []
        while (shape := find(f"down_blocks.{len(widths)}.resnets.0.conv1.weight")) is not None:
            widths.append(shape[0])
        levels, last = range(len(widths)), len(widths) - 1
        down = tuple(_depths(find, f"down_blocks.{i}", layers) for i in levels)
        up = tuple(_depths(find, f"up_blocks.{i}", layers + 1) for i in levels)
        crossed = find("mid_block.resnets.1.conv1.weight") is not None
        middle = _depth(find, "mid_block.attentions.0") if crossed else None
        at = next((f"up_blocks.{i}.attentions.0" for i in levels if up[i][0]), None)
        key = find(f"{at}.transformer_blocks.0.attn2.to_k.weight")
        start = find("conv_in.weight")
        if key is None or len(key) != 2 or start is None or len(start) != 4 or last < 0:
            raise CheckpointError(where, "its U-Net has no attention to a text")
        condition = find("time_embedding.cond_proj.weight")
        return UnetShape(
            widths=tuple(widths),
            text=key[1],
            in_channels=start[1],
            layers=layers,
            depths=Depths(down, middle, up),
            guided=condition[1] if condition is not None and len(condition) == 2 else None,
        )

    def like(self, config: Config) -> bool:
        """Whether a config has these widths and inputs."""
        return (
            list(self.widths) == config["block_out_channels"]
            and self.text == config["cross_attention_dim"]
            and self.in_channels == config["in_channels"]
            and self.guided == config.get("time_cond_proj_dim")
        )

    def __str__(self) -> str:
        widths = ", ".join(map(str, self.widths))
        guided = "" if self.guided is None else f" and a guidance scale of width {self.guided}"
        return f"levels of {widths} channels, {self.in_channels} input channels, text of width " + (
            f"{self.text}{guided}"
        )


def _depth(find: Find, attention: str) -> int:
    count = 0
    while find(f"{attention}.transformer_blocks.{count}.norm1.weight") is not None:
        count += 1
    return count


def _depths(find: Find, block: str, layers: int) -> tuple[int, ...]:
    return tuple(_depth(find, f"{block}.attentions.{j}") for j in range(layers))


def infer(file: TensorFile, where: str, unet: UnetShape, overrides: Overrides) -> Inferred:
    """The configs of the known architecture that a file's U-Net has.

    Raises `CheckpointError` for a U-Net that no known architecture has, and for marks that are not
    finite numbers.
    """
    predicted, why = _prediction(file, unet, overrides)
    said = [f"prediction_type: {predicted or 'not in the file'}, {why}"]
    if overrides.architecture is not None:
        key, configs = overrides.architecture, ARCHITECTURES[overrides.architecture]
        said.insert(0, f"architecture: {key}, as stated")
    else:
        key = _nearest(where, unet, predicted)
        configs = ARCHITECTURES[key]
        said = [*_reasons(unet, key, configs["unet"]), *said]
        if Depths.of(configs["unet"]) != unet.depths or configs["unet"]["layers_per_block"] != (
            unet.layers
        ):
            configs = {**configs, "unet": {**configs["unet"], **_depth_fields(where, unet)}}
            said.append("depth: read from the names of the blocks; no known model has it")
    scheduler = PNDM if key == "sd15" else configs["scheduler"]
    return marked(
        file, where, {**configs, "scheduler": scheduler}, predicted, tuple(said), overrides
    )


def marked(
    file: TensorFile,
    where: str,
    configs: Configs,
    predicted: str | None,
    said: tuple[str, ...],
    overrides: Overrides,
) -> Inferred:
    """The same configs with what a file's marks and the overrides say."""
    notes = [*said]
    scheduler: Config = {**configs["scheduler"], "prediction_type": predicted}
    vae = configs["vae"]
    if "edm_mean" in file and "edm_std" in file:
        mean, std = (_numbers(file, where, name, 4) for name in ("edm_mean", "edm_std"))
        vae = {**vae, "latents_mean": mean, "latents_std": std, "scaling_factor": _EDM_SCALING}
        scheduler = _EDM
        notes.append("latents and levels: EDM's, since the file has edm_mean and edm_std")
    elif any(name.startswith("edm_vpred.") for name in file):
        stated = {
            name: _numbers(file, where, f"edm_vpred.{name}", 1)[0]
            for name in ("sigma_max", "sigma_min")
            if f"edm_vpred.{name}" in file
        }
        scheduler = {**_EDM_V, **stated}
        notes.append("levels: EDM's, since the file has edm_vpred.sigma_max or sigma_min")
    zero = "ztsnr" in file if overrides.zero_snr is None else overrides.zero_snr
    if zero:
        reason = "as stated" if overrides.zero_snr else "since the file has the key ztsnr"
        notes.append(f"zero SNR: betas are rescaled and timesteps trail, {reason}")
        scheduler = {
            **scheduler,
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        }
        if scheduler["_class_name"] == "PNDMScheduler":  # which cannot rescale
            scheduler["_class_name"] = "DDIMScheduler"
    notes.append(f"vae: scaling_factor {vae['scaling_factor']}, which goes with the U-Net")
    return Inferred({**configs, "vae": vae, "scheduler": scheduler}, predicted, tuple(notes))


def _prediction(file: TensorFile, unet: UnetShape, overrides: Overrides) -> tuple[str | None, str]:
    """The prediction type, None if unknown, and the reason."""
    if overrides.prediction_type is not None:
        return overrides.prediction_type, "as stated"
    for name in ("v_pred", "edm_vpred.sigma_max", "edm_vpred.sigma_min"):
        if name in file:
            return "v_prediction", f"since the file has the key {name}"
    stated = file.metadata.get("modelspec.prediction_type", "").lower()
    if stated in ("v", "epsilon"):
        found = "epsilon" if stated == "epsilon" else "v_prediction"
        return found, "since the file's metadata say modelspec.prediction_type"
    generation = GENERATIONS.get(unet.text)
    if generation != GENERATIONS[1024]:
        return "epsilon", f"what {generation or 'most models'} predicts; the file does not say"
    if unet.in_channels != 4:
        task = _TASKS.get(unet.in_channels, "its task")
        return "epsilon", f"as of {generation} for {task}; the file does not say"
    if "global_step" in file and file["global_step"].size == 1:
        step = float(file["global_step"].reshape(-1)[0])
        if step == _STEPS_OF_BASE:
            return "epsilon", f"since global_step is {_STEPS_OF_BASE}, that of the base model"
    return None, "so it has to be measured or stated"


def _nearest(where: str, unet: UnetShape, predicted: str | None) -> str:
    like = [key for key, configs in ARCHITECTURES.items() if unet.like(configs["unet"])]
    if not like:
        known = "; ".join(sorted({_known(configs["unet"]) for configs in ARCHITECTURES.values()}))
        problem = f"its U-Net has {unet}. No known architecture has these, and a file does not "
        hint = "tell its heads. Give a diffusers folder of its configs. Known: "
        raise CheckpointError(where, f"{problem}{hint}{known}")
    same = [key for key in like if Depths.of(ARCHITECTURES[key]["unet"]) == unet.depths] or like
    wanted = predicted or "epsilon"
    fitting = [k for k in same if ARCHITECTURES[k]["scheduler"]["prediction_type"] == wanted]
    # Of the two v-prediction models of Stable Diffusion 2, diffusers takes 2.1.
    return "sd21" if "sd21" in fitting else (fitting or same)[0]


def _known(config: Config) -> str:
    widths = ", ".join(str(n) for n in config["block_out_channels"])
    return f"{widths} with {config['in_channels']} and {config['cross_attention_dim']}"


def _reasons(unet: UnetShape, key: str, config: Config) -> list[str]:
    heads: Any = config["attention_head_dim"]
    counted = str(heads) if isinstance(heads, int) else ", ".join(map(str, heads))
    generation, task = GENERATIONS[unet.text], _TASKS[unet.in_channels]
    found = [
        f"architecture: {key}, since its U-Net reads text of width {unet.text} as {generation}",
        f"in_channels: {unet.in_channels}, so it is for {task}",
        f"heads: {counted}, as models of these widths have; the file does not say",
    ]
    if unet.guided is not None:
        found.append(f"distilled: it takes a guidance scale of width {unet.guided}")
    return found


def _depth_fields(where: str, unet: UnetShape) -> Config:
    """The fields of a config with a U-Net's depths; raises `CheckpointError` if there are none."""
    depths = unet.depths
    down, up = (tuple(map(_of_block, half)) for half in (depths.down, depths.up))
    last = down[-1] or depths.middle or 1
    if None in (*down, *up) or (depths.middle is not None and last != depths.middle):
        problem = "the depths of its U-Net's blocks are those of no UNet2DConditionModel"
        raise CheckpointError(where, problem)
    layers = [*(depth or 1 for depth in down[:-1]), last]
    upwards = [depth or 1 for depth in up]
    mirrored = all(not depth or depth == n for depth, n in zip(up, layers[::-1], strict=True))
    return {
        "layers_per_block": unet.layers,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in down],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in up],
        "mid_block_type": "UNetMidBlock2D" if depths.middle is None else "UNetMidBlock2DCrossAttn",
        "transformer_layers_per_block": layers,
        "reverse_transformer_layers_per_block": None if mirrored else upwards,
    }


def _of_block(depths: tuple[int, ...]) -> int | list[int] | None:
    """The depth of a block, a list if its layers differ, None if only some have an attention."""
    if len(set(depths)) == 1:
        return depths[0]
    return None if 0 in depths else list(depths)


def _numbers(file: TensorFile, where: str, name: str, count: int) -> list[float]:
    array = file[name]
    numbers = [float(n) for n in array.reshape(-1)[:count]]
    if array.size != count or not all(map(math.isfinite, numbers)):
        shown = numbers if array.size == count else f"of shape {array.shape}"
        problem = f"tensor {name!r} is {shown}, expected {count} finite numbers"
        raise CheckpointError(where, f"{problem}; get the file from its author again")
    return numbers


def file_name(path: Path) -> str:
    """A file's name without its ending; bytes that are no UTF-8 are replaced."""
    return path.stem.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

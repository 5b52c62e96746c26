"""The body of a job: a request's JSON, with pictures in base64 in the place of their hashes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Picture = Annotated[str, Field(description="A picture file in base64, or a data URL.")]
Strength = Annotated[float, Field(gt=0, le=1, description="Share of the steps that are taken.")]
Counting = Literal["diffusers", "webui", "exact"]


class Body(BaseModel):
    """JSON whose unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid")


class TextToImageBody(Body):
    """Begin with noise."""

    name: Literal["text_to_image"] = "text_to_image"


class ImageToImageBody(Body):
    """Begin with a picture."""

    name: Literal["image_to_image"]
    image: Picture
    strength: Strength = 0.8
    counting: Counting = "diffusers"


class InpaintingBody(Body):
    """Redraw a picture where a mask is white."""

    name: Literal["inpainting"]
    image: Picture
    mask: Picture
    strength: Strength = 1.0
    counting: Counting = "diffusers"
    mask_invert: bool = False
    mask_blur: float = Field(default=0.0, ge=0, le=1000)
    mask_soft: bool = False
    mask_fill: Literal["original", "blur", "noise", "nothing"] = "original"
    only_masked: int | None = Field(default=None, ge=0, description="Draw the masked part alone.")
    overlay: bool = True


class DepthToImageBody(Body):
    """Begin with a picture, and keep its depth."""

    name: Literal["depth_to_image"]
    image: Picture
    depth: Picture
    strength: Strength = 0.8
    counting: Counting = "diffusers"


class InstructPix2PixBody(Body):
    """Change a picture as the prompt says."""

    name: Literal["instruct_pix2pix"]
    image: Picture
    image_guidance: float = Field(default=1.5, ge=1)


class HiresFixBody(Body):
    """Draw, make larger, and draw over."""

    name: Literal["hires_fix"]
    scale: float = Field(default=2.0, ge=1, le=8)
    strength: Strength = 0.7
    counting: Counting = "diffusers"
    steps: int | None = Field(default=None, ge=1)
    upscaler: Literal["latent", "latent_bicubic", "latent_nearest", "lanczos"] = "latent"


TaskBody = Annotated[
    TextToImageBody
    | ImageToImageBody
    | InpaintingBody
    | DepthToImageBody
    | InstructPix2PixBody
    | HiresFixBody,
    Field(discriminator="name"),
]


class SamplingBody(Body):
    """Which sampler, over which levels, in how many steps."""

    sampler: str | None = Field(default=None, description="A name of /v1/samplers, or a web UI's.")
    schedule: str | None = Field(default=None, description="karras, trailing, ...")
    steps: int = Field(default=20, ge=1)
    eta: float | None = Field(default=None, ge=0, le=1)
    rho: float | None = Field(default=None, gt=0)
    timesteps: list[float] | None = Field(default=None, max_length=1000)
    sigmas: list[float] | None = Field(default=None, max_length=1000)
    brownian: bool = False


class GuidanceBody(Body):
    """How far to go from the negative prompt to the prompt."""

    scale: float = Field(default=7.5, ge=0, le=10_000)
    rescale: float = Field(default=0.0, ge=0, le=1)
    interval: tuple[float, float] | None = None
    start: float = Field(default=0.0, ge=0, le=1, description="Share of the steps before it.")
    stop: float = Field(default=1.0, ge=0, le=1, description="Share of the steps until its end.")


class ControlBody(Body):
    """A ControlNet by its name, and its picture."""

    name: str
    image: Picture
    scale: float = Field(default=1.0, ge=0, le=100)
    start: float = Field(default=0.0, ge=0, le=1)
    end: float = Field(default=1.0, ge=0, le=1)
    mode: Literal["balanced", "prompt", "control"] = "balanced"
    canny: tuple[float, float] | None = Field(
        None, description="Thresholds of Canny's edges, which take the picture's place."
    )


class LoraBody(Body):
    """A LoRA by its name, as `<lora:NAME:SCALE>` in a prompt."""

    name: str
    scale: float = 1.0


class RefinerBody(Body):
    """A model that draws the last steps, by its name."""

    name: str
    at: float = Field(default=0.8, gt=0, lt=1)


class JobBody(Body):
    """One order of pictures."""

    prompt: str
    model: str | None = Field(
        default=None, description="A name of /v1/models; by default the first."
    )
    negative_prompt: str | None = None
    syntax: Literal["webui", "plain"] = "webui"
    task: TaskBody = TextToImageBody()
    size: str | None = Field(
        default=None, description="WIDTHxHEIGHT, by default the picture's or model's."
    )
    num_images: int = Field(default=1, ge=1)
    seed: int | None = Field(
        default=None, ge=0, lt=1 << 64, description="None or absent: a random one."
    )
    sampling: SamplingBody = SamplingBody()
    guidance: GuidanceBody = GuidanceBody()
    clip_skip: int = Field(default=0, ge=0)
    composed: list[tuple[str, float]] = Field(default=[], max_length=64)
    generator: Literal["torch", "numpy", "torch-cuda"] = "torch"
    original_size: str | None = None
    crop: tuple[int, int] = (0, 0)
    target_size: str | None = None
    loras: list[LoraBody] = Field(default=[], max_length=64)
    controls: list[ControlBody] = Field(default=[], max_length=16)
    refiner: RefinerBody | None = None
    subseed: int | None = Field(default=None, ge=0, lt=1 << 64)
    subseed_strength: float = Field(default=0.0, ge=0, le=1)
    tiling: Literal["auto", "on", "off"] = "auto"
    fast: bool = Field(
        default=False, description="Answer steps from earlier ones where little changes."
    )
    format: Literal["png", "jpeg", "webp"] = "png"
    quality: int = Field(default=80, ge=1, le=100, description="Of JPEG and WebP.")
    deadline: float | None = Field(default=None, gt=0, description="Seconds from now.")
    previews: bool = Field(default=False, description="Send previews with the steps.")

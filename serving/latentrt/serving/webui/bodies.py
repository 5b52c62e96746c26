"""The bodies of the web UI's requests. As there, unknown fields are ignored.

Source: `modules/api/models.py` and `modules/processing.py` of AUTOMATIC1111's web UI, for the
fields and their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError

_NAMES: Final = 1 << 20
"""Characters of a prompt."""


def refused(error: ValidationError, within: str = "") -> InputError:
    """What pydantic found wrong first, with its field; `within` is what that is a field of."""
    first = error.errors()[0]
    places = [within, ".".join(str(each) for each in first["loc"])]
    field = " ".join(each for each in places if each)
    return InputError(field or "body", first["msg"], shown(first["input"]))


class WebBody(BaseModel):
    """JSON whose unknown fields are ignored, and whose nulls are absent fields."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        given = cast("Mapping[str, Any]", value)
        return {name: each for name, each in given.items() if each is not None}


class GenerationBody(WebBody):
    """What txt2img and img2img share."""

    prompt: str = Field(default="", max_length=_NAMES)
    negative_prompt: str = Field(default="", max_length=_NAMES)
    seed: int = Field(default=-1, ge=-1, lt=1 << 64)
    subseed: int = Field(default=-1, ge=-1, lt=1 << 64)
    subseed_strength: float = Field(default=0.0, ge=0, le=1)
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    sampler_name: str = ""
    sampler_index: str | int = "Euler"
    scheduler: str = ""
    batch_size: int = Field(default=1, ge=1)
    n_iter: int = Field(default=1, ge=1)
    steps: int = Field(default=50, ge=1)
    cfg_scale: float = Field(default=7.0, ge=0, le=10_000)
    width: int | None = Field(default=None, ge=8)
    height: int | None = Field(default=None, ge=8)
    denoising_strength: float = Field(default=0.75, ge=0, le=1)
    restore_faces: bool = False
    tiling: bool = False
    eta: float | None = Field(default=None, ge=0, le=1)
    s_min_uncond: float = 0.0
    s_churn: float = 0.0
    s_noise: float = 1.0
    override_settings: dict[str, Any] = {}
    refiner_checkpoint: str = ""
    refiner_switch_at: float = Field(default=0.8, ge=0, le=1)
    script_name: str = ""
    send_images: bool = True
    alwayson_scripts: dict[str, Any] = {}
    force_task_id: str = Field(default="", max_length=64)
    infotext: str = ""

    @property
    def sampler(self) -> str:
        """The sampler's name as it was asked for."""
        return self.sampler_name or str(self.sampler_index)

    @property
    def count(self) -> int:
        """How many pictures are asked for."""
        return self.batch_size * self.n_iter

    def check(self) -> None:
        """Raise `InputError` for what would change the picture and is not done here."""
        refusals = (
            ("restore_faces", self.restore_faces, "false: faces are not restored here"),
            ("tiling", self.tiling, "false: pictures that repeat are not drawn here"),
            ("script_name", self.script_name, "none: there are no scripts here"),
            ("infotext", self.infotext, "none: send its values as fields"),
            ("seed_resize_from_h", max(self.seed_resize_from_h, 0), "0"),
            ("seed_resize_from_w", max(self.seed_resize_from_w, 0), "0"),
            ("s_min_uncond", self.s_min_uncond, "0"),
            ("s_churn", self.s_churn, "0"),
            ("s_noise", self.s_noise - 1.0, "1"),
        )
        for name, given, expected in refusals:
            if given:
                raise InputError(name, expected, shown(getattr(self, name)))


class Txt2ImgBody(GenerationBody):
    """`POST /sdapi/v1/txt2img`."""

    enable_hr: bool = False
    firstphase_width: int = 0
    firstphase_height: int = 0
    hr_scale: float = Field(default=2.0, ge=1, le=8)
    hr_upscaler: str = "Latent"
    hr_second_pass_steps: int = Field(default=0, ge=0)
    hr_resize_x: int = Field(default=0, ge=0)
    hr_resize_y: int = Field(default=0, ge=0)
    hr_checkpoint_name: str = ""
    hr_sampler_name: str = ""
    hr_scheduler: str = ""
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_cfg: float | None = None

    def check(self) -> None:
        """As above, and what the second run of the hires fix cannot have of its own."""
        super().check()
        if not self.enable_hr:
            return
        same = {
            "hr_prompt": ("", self.prompt),
            "hr_negative_prompt": ("", self.negative_prompt),
            "hr_sampler_name": ("", self.sampler, "Use same sampler"),
            "hr_scheduler": ("", self.scheduler, "Use same scheduler"),
            "hr_checkpoint_name": ("", "Use same checkpoint"),
            "hr_cfg": (None, self.cfg_scale),
            "firstphase_width": (0,),
            "firstphase_height": (0,),
        }
        for name, allowed in same.items():
            given: object = getattr(self, name)
            if given not in allowed:
                expected = "none: the second run has what the first has"
                raise InputError(name, expected, shown(given))


class Img2ImgBody(GenerationBody):
    """`POST /sdapi/v1/img2img`. A mask is white where the picture is redrawn."""

    init_images: list[str] = []
    mask: str = ""
    mask_blur: float = Field(default=4, ge=0, le=1000)
    mask_blur_x: float = Field(default=4, ge=0, le=1000)
    mask_blur_y: float = Field(default=4, ge=0, le=1000)
    inpainting_fill: int = Field(default=0, ge=0, le=3)
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = Field(default=0, ge=0, le=16384)
    inpainting_mask_invert: bool = False
    resize_mode: int = Field(default=0, ge=0, le=3)
    initial_noise_multiplier: float = 1.0
    include_init_images: bool = False

    @property
    def blur(self) -> float:
        """The radius of the mask's blur: `mask_blur` where it is given, else both of the others."""
        return self.mask_blur if "mask_blur" in self.model_fields_set else self.mask_blur_x

    def check(self) -> None:
        """As above, and pictures that cannot be used."""
        super().check()
        if len(self.init_images) != 1:
            raise InputError("init_images", "one picture", len(self.init_images))
        if self.initial_noise_multiplier != 1.0:
            raise InputError("initial_noise_multiplier", "1", self.initial_noise_multiplier)
        if self.mask_blur_x != self.mask_blur_y and "mask_blur" not in self.model_fields_set:
            raise InputError("mask_blur_y", f"mask_blur_x, {self.mask_blur_x:g}", self.mask_blur_y)


class PngInfoBody(WebBody):
    """`POST /sdapi/v1/png-info`."""

    image: str

"""ControlNet units: what the web UI's extension takes in `alwayson_scripts`.

Source: `internal_controlnet/args.py` of github.com/Mikubill/sd-webui-controlnet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic import Field, ValidationError

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.edges import HIGH, LOW
from latentrt.runtime.size import Size
from latentrt.serving.bodies import ControlBody
from latentrt.serving.shelf import Shelf
from latentrt.serving.webui.bodies import GenerationBody, WebBody, refused
from latentrt.serving.webui.checkpoints import bare
from latentrt.serving.webui.resizing import (
    CROP,
    FILL,
    STRETCH,
    encoded_picture,
    flat_picture,
    resized_picture,
)

MODULES: Final = ("none", "canny")
"""Preprocessors by name."""
SCRIPT: Final = "controlnet"
_MODES: Final[Mapping[str, Any]] = {
    "balanced": "balanced",
    "my prompt is more important": "prompt",
    "controlnet is more important": "control",
    "0": "balanced",
    "1": "prompt",
    "2": "control",
}
_RESIZE_MODES: Final[Mapping[str, int]] = {
    "just resize": STRETCH,
    "crop and resize": CROP,
    "resize and fill": FILL,
    "scale to fit (inner fit)": CROP,
    "envelope (outer fit)": FILL,
    "0": STRETCH,
    "1": CROP,
    "2": FILL,
}


class UnitBody(WebBody):
    """One ControlNet unit. `threshold_a` and `threshold_b` are Canny's low and high."""

    enabled: bool = True
    image: str | dict[str, Any] = ""
    input_image: str | dict[str, Any] = ""
    mask: str = ""
    module: str = "none"
    model: str = "None"
    weight: float = Field(default=1.0, ge=0, le=100)
    resize_mode: int | str = CROP
    threshold_a: float = -1
    threshold_b: float = -1
    guidance_start: float = Field(default=0.0, ge=0, le=1)
    guidance_end: float = Field(default=1.0, ge=0, le=1)
    control_mode: int | str | list[int | str] = "Balanced"
    guessmode: bool = False
    hr_option: str = "Both"

    @property
    def picture(self) -> str:
        """Its picture in base64; "" where it has none."""
        given = self.image or self.input_image
        if not isinstance(given, dict):
            return given
        image = given.get("image")
        return image if isinstance(image, str) else ""


def controls_of(
    body: GenerationBody, shelf: Shelf, size: Size | None, default: str
) -> list[ControlBody]:
    """The ControlNets of a request; `default` is the picture of a unit that has none.

    Raises `InputError` for another always-on script that is given arguments, and naming a unit's
    field.
    """
    units: list[UnitBody] = []
    for name, value in body.alwayson_scripts.items():
        args = _fields(value).get("args")
        if name.lower() == SCRIPT:
            units += _units(args)
        elif args not in (None, [], [False], {}):
            expected = f"{SCRIPT} alone: there are no other scripts here"
            raise InputError("alwayson_scripts", expected, shown(name))
    return [
        _control(number, unit, shelf, size, default)
        for number, unit in enumerate(units)
        if unit.enabled and unit.weight > 0
    ]


def thresholds(low: float, high: float) -> tuple[float, float]:
    """Those of Canny's edges; below 0 stands for the extension's default."""
    return LOW if low < 0 else low, HIGH if high < 0 else high


def named_module(text: str) -> str:
    """A preprocessor's name; raises `InputError` for one that is not there."""
    name = text.lower()
    if name not in MODULES:
        raise InputError("module", f"one of {', '.join(MODULES)}", shown(text))
    return name


def _fields(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _units(args: object) -> list[UnitBody]:
    """The units of a script's arguments: a list of objects, or one."""
    listed = cast("list[object]", args) if isinstance(args, list) else [args]
    found: list[UnitBody] = []
    for number, each in enumerate(listed):
        if not isinstance(each, dict):  # an API's user may send the UI's switches before units
            continue
        try:
            found.append(UnitBody.model_validate(each))
        except ValidationError as error:
            raise refused(error, f"controlnet {number}") from None
    return found


def _control(
    number: int, unit: UnitBody, shelf: Shelf, size: Size | None, default: str
) -> ControlBody:
    where = f"controlnet {number}"
    refusals = (
        ("mask", unit.mask, "none"),
        ("hr_option", unit.hr_option.lower() != "both", "Both"),
    )
    for name, given, expected in refusals:
        if given:
            raise InputError(f"{where} {name}", expected, shown(getattr(unit, name))[:80])
    text = unit.picture or default
    if not text:
        raise InputError(f"{where} image", "a picture in base64", "none")
    module = named_module(unit.module)
    if size is not None:
        picture = flat_picture(f"{where} image", text)
        mode = _chosen(f"{where} resize_mode", unit.resize_mode, _RESIZE_MODES)
        if picture.size != (size.width, size.height):
            text = encoded_picture(resized_picture(picture, mode, size))
    return ControlBody(
        name=_model(unit.model, shelf),
        image=text,
        scale=unit.weight,
        start=unit.guidance_start,
        end=unit.guidance_end,
        mode="control" if unit.guessmode else _mode(where, unit),
        canny=thresholds(unit.threshold_a, unit.threshold_b) if module == "canny" else None,
    )


def _mode(where: str, unit: UnitBody) -> Any:
    given = unit.control_mode
    if isinstance(given, list):
        given = given[0] if given else "Balanced"
    return _chosen(f"{where} control_mode", given, _MODES)


def _chosen(field: str, given: int | str, names: Mapping[str, Any]) -> Any:
    """What a name or number stands for; raises `InputError` for any other."""
    found = names.get(str(given).lower())
    if found is None:
        expected = ", ".join(name for name in names if not name.isdecimal())
        raise InputError(field, f"one of {expected}", shown(given))
    return found


def _model(text: str, shelf: Shelf) -> str:
    """The name of the ControlNet that a client means; the shelf refuses an unknown one."""
    wanted = bare(text)
    return next((n for n in shelf.control_names if n.lower() == wanted.lower()), wanted)

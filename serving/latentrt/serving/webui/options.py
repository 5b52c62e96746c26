"""The web UI's options, which every client here has of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError
from latentrt.serving.webui.bodies import WebBody, refused

_CLIENTS: Final = 1000
"""Clients whose options are kept; those that changed theirs longest ago are forgotten first."""
_FIXED: Final[Mapping[str, tuple[object, ...]]] = {
    "sd_vae": ("Automatic", "None", ""),
    "eta_noise_seed_delta": (0,),
    "initial_noise_multiplier": (1, 1.0),
    "img2img_color_correction": (False,),
    "s_churn": (0,),
    "s_min_uncond": (0,),
}
"""Options that would change a picture, with the values that they have here."""


class WebOptions(WebBody):
    """The options that are read here. `sd_model_checkpoint` "" is the service's first model.

    The web UI has no option `fast`: steps may be answered from memory.
    """

    sd_model_checkpoint: str = ""
    CLIP_stop_at_last_layers: int = Field(default=1, ge=1, le=64)
    randn_source: Literal["CPU", "GPU", "NV"] = "CPU"
    samples_format: Literal["png", "jpg", "jpeg", "webp"] = "png"
    jpeg_quality: int = Field(default=80, ge=1, le=100)
    sd_vae: str = "Automatic"
    eta_noise_seed_delta: int = 0
    fast: bool = False
    skip_early_cond: float = Field(default=0.0, ge=0, le=1)

    def changed(self, values: Mapping[str, Any]) -> WebOptions:
        """With other values; those of unknown options are ignored. Raises `InputError`."""
        for name, allowed in _FIXED.items():
            given = values.get(name)
            if given is not None and given not in allowed:
                raise InputError(
                    name, f"{allowed[0]}: this option has no other value", shown(given)
                )
        try:
            return WebOptions.model_validate(self.model_dump() | {**values})
        except ValidationError as error:
            raise refused(error) from None


class ClientOptions:
    """The options of each client. It belongs to an event loop."""

    def __init__(self) -> None:
        self._options: OrderedDict[str, WebOptions] = OrderedDict()

    def of(self, client: str) -> WebOptions:
        """A client's options: those it has set, else the defaults."""
        return self._options.get(client) or WebOptions()

    def put(self, client: str, options: WebOptions) -> None:
        """Keep a client's options."""
        self._options[client] = options
        self._options.move_to_end(client)
        while len(self._options) > _CLIENTS:
            self._options.popitem(last=False)

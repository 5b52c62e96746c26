"""Puts the legs of a request under its ControlNets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from latentrt.bundle.bundle import Bundle
from latentrt.runtime.control import Control
from latentrt.runtime.controlled_denoiser import ControlledDenoiser, EncodedControl
from latentrt.runtime.controlnets import ControlNets, OpenedControlNet, check_fit, encode
from latentrt.runtime.opening import Opening
from latentrt.runtime.plan import Leg
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Model
from latentrt.runtime.size import Size


class Controlling:
    """The ControlNets of requests for one bundle.

    `unet` gives the bundle's U-Net with residuals as inputs.
    """

    def __init__(self, bundle: Bundle, controlnets: ControlNets, unet: Callable[[], Model]) -> None:
        self._manifest = bundle.manifest
        self._controlnets = controlnets
        self._unet = unet

    def opened(self, controls: Sequence[Control]) -> list[OpenedControlNet]:
        """The ControlNet of each control; nothing is compiled.

        Raises `InputError` for one of another family than the bundle, and what opening raises.
        """
        unet = self._manifest.components["unet"]
        found = [self._controlnets.open(each.model) for each in controls]
        for control, opened in zip(controls, found, strict=True):
            check_fit(control.model, opened.config, unet)
        return found

    def controlled(
        self,
        legs: tuple[Leg, ...],
        unet: Model,
        request: Request,
        opened: Sequence[OpenedControlNet],
        opening: Opening,
    ) -> tuple[Leg, ...]:
        """The legs, those of the U-Net under the request's controls, whose pictures are encoded."""
        if not request.controls:
            return legs
        encoded: dict[Size, list[EncodedControl]] = {}
        found: list[Leg] = []
        for leg in legs:
            needs = leg.denoiser.needs(leg.schedule, leg.shape[1:])
            if any(need.model is unet for need in needs):
                size = self._size(leg)
                if size not in encoded:
                    encoded[size] = [
                        encode(net, each, request.task.of_control(each.image, size), size, opening)
                        for each, net in zip(request.controls, opened, strict=True)
                    ]
                denoiser = ControlledDenoiser(leg.denoiser, unet, self._unet(), encoded[size])
                leg = replace(leg, denoiser=denoiser)
            found.append(leg)
        return tuple(found)

    def _size(self, leg: Leg) -> Size:
        _, height, width = leg.shape
        return Size(width * self._manifest.vae_factor, height * self._manifest.vae_factor)

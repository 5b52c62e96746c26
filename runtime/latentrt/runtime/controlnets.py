"""The ControlNets of a pipeline: opened once, checked against its U-Net, and their engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.component import ComponentRecord
from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import CONTROLNET as FAMILY
from latentrt.bundle.manifest import FILE_NAME
from latentrt.engines.log import LOG
from latentrt.runtime.bundle_engines import BundleEngines
from latentrt.runtime.control import Control
from latentrt.runtime.controlled_denoiser import EncodedControl
from latentrt.runtime.opening import Opening
from latentrt.runtime.pixels import Pixels, for_hint
from latentrt.runtime.rows import Calls, Evaluation, Model, Row
from latentrt.runtime.size import Size
from latentrt.weights.control_specs import CONTROLNET, HINT_ENCODER
from latentrt.weights.controlnet import generation_of
from latentrt.weights.hub import find_snapshot, is_hub_name

KEPT: Final = 4
"""ControlNets whose engines a pipeline keeps, the last used."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenedControlNet:
    """A ControlNet with its engines."""

    bundle: Bundle
    engines: BundleEngines
    models: Mapping[str, Model]

    @property
    def config(self) -> Mapping[str, Any]:
        """Its config in diffusers."""
        return self.bundle.manifest.components[CONTROLNET].config


class ControlNets:
    """Opens ControlNets by path, of which the last used are kept. Thread-safe.

    `engines` gives the engines of a bundle.
    """

    def __init__(self, engines: Callable[[Bundle], BundleEngines]) -> None:
        self._engines = engines
        self._opened: dict[Path, tuple[object, OpenedControlNet]] = {}
        self._lock = threading.Lock()

    def open(self, path: Path) -> OpenedControlNet:
        """The ControlNet at a path: a bundle, or a checkpoint of which one is made.

        Raises `InputError` for a bundle of something else, and what opening a bundle or converting
        a checkpoint raises.
        """
        folder = bundle_of(path)
        state = (folder / FILE_NAME).stat().st_mtime_ns if folder.is_dir() else None
        with self._lock:
            before, found = self._opened.pop(folder, (None, None))
            if found is None or before != state:
                found = self._made(folder)
            self._opened[folder] = (state, found)  # the last used is the last
            for old in list(self._opened)[:-KEPT]:
                LOG.info("%s: not kept any more", old.name)
                del self._opened[old]
        return found

    def close(self) -> None:
        """Free every engine."""
        with self._lock:
            opened, self._opened = [found for _, found in self._opened.values()], {}
        for each in opened:
            each.engines.close()

    def _made(self, folder: Path) -> OpenedControlNet:
        bundle = open_controlnet(folder)
        engines = self._engines(bundle)
        models = {
            name: Model(name, record.inputs, partial(engines.get, name))
            for name, record in bundle.manifest.components.items()
        }
        return OpenedControlNet(bundle, engines, models)


def open_controlnet(path: Path) -> Bundle:
    """A ControlNet's bundle; raises what `ControlNets.open` raises."""
    bundle = Bundle.open(bundle_of(path))
    if bundle.manifest.family != FAMILY:
        raise InputError("control", "a ControlNet", f"{path}, a whole model")
    return bundle


def bundle_of(path: Path) -> Path:
    """A bundle's own path, or that of the bundle made of a ControlNet's folder or file, once."""
    if (path / FILE_NAME).is_file():
        return path
    if not path.exists() and is_hub_name(path.as_posix()):
        path = find_snapshot(path.as_posix()) or path
    # Only where a bundle may be made.
    from latentrt.runtime.conversion.cached import cached_controlnet

    return cached_controlnet(path, lambda stage, done, total: None)


def check_fit(path: Path, own: Mapping[str, Any], unet: ComponentRecord) -> None:
    """Raise `InputError` for a ControlNet of another family than a U-Net, naming both."""
    fields = ("block_out_channels", "cross_attention_dim", "layers_per_block")
    pooled = any(spec.name == "text_embeds" for spec in unet.inputs)
    same = all(_listed(own[field]) == _listed(unet.config.get(field)) for field in fields)
    if same and pooled == (own["addition_embed_type"] is not None):
        return
    found, expected = generation_of(own), generation_of(unet.config)
    if found == expected:
        found, expected = (
            f"{name} with {c.get('block_out_channels')} channels"
            for name, c in ((found, own), (expected, unet.config))
        )
    raise InputError("control", f"a ControlNet for {expected}", f"{path.name}, for {found}")


def _listed(stated: object) -> object:
    return list(cast("list[object]", stated)) if isinstance(stated, tuple | list) else stated


def encode(
    opened: OpenedControlNet, control: Control, pixels: Pixels, size: Size, opening: Opening
) -> EncodedControl:
    """A control whose picture, `pixels`, is encoded at a size; the engine for that is opened."""
    model = opened.models[HINT_ENCODER]
    opening.more(1)
    opening(model, {"batch": 1, "image_height": size.height, "image_width": size.width})
    picture = for_hint(pixels, size)
    if opened.config["controlnet_conditioning_channel_order"] == "bgr":
        picture = picture[::-1]

    def asked() -> Evaluation[NDArray[np.float32]]:
        (outputs,) = yield [Row(model, {"controlnet_cond": np.ascontiguousarray(picture)})]
        return outputs["hint"]

    hint = Calls({"unet": (1,), "vae": (1,)}).answer(asked())
    pooled = bool(opened.config["global_pool_conditions"])
    return EncodedControl(control, opened.models[CONTROLNET], hint, pooled)

"""Alphas that a file does not hold: PEFT keeps them in its configuration.

diffusers writes that into the file's metadata, PEFT into `adapter_config.json` beside
`adapter_model.safetensors`. Sources: `LoraBaseMixin.write_lora_layers` of diffusers, `LoraConfig`
of PEFT.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from latentrt.bundle.errors import WeightsError
from latentrt.bundle.tensors import TensorFile
from latentrt.weights.contents import read_json
from latentrt.weights.lora.layer import Configured

_KEY: Final = "lora_adapter_metadata"
_BESIDE: Final = ("adapter_model.safetensors", "adapter_config.json")
_FIELDS: Final = ("lora_alpha", "alpha", "alpha_pattern", "r", "rank_pattern", "use_rslora")


@dataclass(frozen=True, slots=True)
class Configuration:
    """PEFT's configuration of a file, by component; "" stands for every component."""

    path: Path
    fields: Mapping[str, Mapping[str, Any]]

    @staticmethod
    def of(file: TensorFile) -> Configuration:
        """Read the configuration of a file, empty if it has none.

        Raises `WeightsError` for metadata that is not JSON, and `CheckpointError` for a damaged
        `adapter_config.json`.
        """
        stated: object = None
        if _KEY in file.metadata:
            try:
                stated = json.loads(file.metadata[_KEY])
            except (ValueError, RecursionError) as error:
                raise WeightsError(file.path, f"{_KEY} is not valid JSON: {error}") from error
        elif file.path.name == _BESIDE[0] and (file.path.parent / _BESIDE[1]).is_file():
            stated = read_json(file.path.parent / _BESIDE[1])
        found: dict[str, dict[str, Any]] = {}
        pairs = cast("dict[str, Any]", stated) if isinstance(stated, dict) else {}
        for name, value in pairs.items():
            component, _, field = name.rpartition(".")
            if field in _FIELDS:
                found.setdefault(component, {})[field] = value
        return Configuration(file.path, found)

    def layer(self, folder: str, layer: str) -> Configured | None:
        """The alpha configured for a layer, None if none is."""
        fields = self.fields.get(folder, self.fields.get("", {}))
        stated = fields.get("lora_alpha", fields.get("alpha"))
        alpha = _of_pattern(fields.get("alpha_pattern"), layer, stated)
        rank = _of_pattern(fields.get("rank_pattern"), layer, fields.get("r"))
        if alpha is None:
            return None
        number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if not number or not math.isfinite(alpha):
            raise WeightsError(self.path, f"alpha of layer {layer!r} is {alpha!r}, not a number")
        whole = isinstance(rank, int) and rank > 0
        return Configured(float(alpha), rank if whole else None, fields.get("use_rslora") is True)


def _of_pattern(pattern: object, layer: str, default: object) -> Any:
    """The value of the first name that is the layer's, or its end."""
    for name, value in (
        cast("dict[str, object]", pattern) if isinstance(pattern, dict) else {}
    ).items():
        if layer == name or layer.endswith(f".{name}"):
            return value
    return default

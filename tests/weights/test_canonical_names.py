"""The names of tensors, compared with those of the libraries' own modules.

Those of every architecture are in `tests/export/test_architectures.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from latentrt.export.modules import described
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.canonical_names import canonical_names

_XL: dict[str, Any] = {**ARCHITECTURES["sdxl"]["unet"], "transformer_layers_per_block": 1}
CASES: dict[str, tuple[str, Mapping[str, Any]]] = {
    # KOALA's: one layer a block, uneven depths.
    "one layer a block": (
        "unet",
        {**_XL, "layers_per_block": 1, "transformer_layers_per_block": [0, 2, 3]},
    ),
    "layers as a list": (
        "unet",
        {**_XL, "layers_per_block": [1, 2, 2]},
    ),
    "equal widths": (
        "unet",
        {**_XL, "block_out_channels": [320, 320, 640]},
    ),
    "a VAE of two levels": (
        "vae",
        {
            **ARCHITECTURES["sd15"]["vae"],
            "block_out_channels": [32, 64],
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "layers_per_block": 1,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_names_are_those_of_the_module(case: str) -> None:
    folder, config = CASES[case]
    shapes = described(folder, config)
    names = canonical_names(folder, config)
    assert set(names) == set(shapes)
    assert len(names) == len(shapes)

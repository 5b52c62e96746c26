"""Every kind of change equals LyCORIS's own on every layer of tiny models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.weights.lora.layers import LYCORIS, base_of, layers_of, lycoris_file, relative

from latentrt.weights.lora.changed import changed_tensors
from latentrt.weights.lora.lora import Lora

# Sums of float32 in another order.
ROUNDING = 1e-6

Get = Callable[[str], Path]


# Linear projections and a second text encoder; convolutions are the same in both.
XL = ("lora", "loha", "lokr", "dora by row", "norms")


@pytest.mark.parametrize(
    ("configuration", "kind"), [*(("heads", k) for k in LYCORIS), *(("xl", k) for k in XL)]
)
def test_changed_weights_equal_lycoris(
    configuration: str, kind: str, checkpoint: Get, tmp_path: Path
) -> None:
    folder = checkpoint(configuration)
    expected = lycoris_file(tmp_path / "it.safetensors", folder, LYCORIS[kind])
    base = base_of(folder)
    found = changed_tensors(base, [Lora(tmp_path / "it.safetensors")])
    assert {f: set(tensors) for f, tensors in found.items()} == {
        f: set(tensors) for f, tensors in expected.items()
    }
    for part, changes in expected.items():
        for name, change in changes.items():
            weight = base[part][name]
            assert relative(found[part][name], weight + change) < ROUNDING
            # As large as the weights themselves, so that the comparison is of the change.
            assert np.linalg.norm(change) > 0.01 * np.linalg.norm(weight)


def test_a_forward_pass_of_lycoris_uses_the_same_weights(checkpoint: Get, tmp_path: Path) -> None:
    for kind in ("lora with a core", "loha with cores", "lokr with a core", "dora by row"):
        folder = checkpoint("heads")
        path = tmp_path / "it.safetensors"
        lycoris_file(path, folder, LYCORIS[kind])
        found = changed_tensors(base_of(folder), [Lora(path)])["unet"]
        torch.manual_seed(0)
        layer = copy.deepcopy(layers_of(folder, "unet")["conv_in"])
        module = LYCORIS[kind].make("lora_unet_conv_in", layer)
        stored: dict[str, Any] = {
            key.partition(".")[2]: tensor
            for key, tensor in safetensors.torch.load_file(path).items()
            if key.startswith("lora_unet_conv_in.")
        }
        module.load_state_dict(stored)
        sample = torch.randn(2, 4, 8, 8)
        module.apply_to()
        with torch.no_grad():
            expected = module.eval()(sample)
            weight = torch.from_numpy(found["conv_in.weight"])
            actual = torch.nn.functional.conv2d(sample, weight, layer.bias, padding=1)
        assert relative(actual, expected) < ROUNDING

"""Operations counted from a graph, against PyTorch's own count of the module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tests.export.pytorch import components_of, folder_of
from torch.utils.flop_counter import FlopCounterMode

from latentrt.benchmarks.latency.ceilings import Ceilings
from latentrt.benchmarks.latency.operations import work_of
from latentrt.benchmarks.latency.roofline import roofline_of
from latentrt.bundle.bundle import Bundle
from latentrt.engines.engine import Blueprint
from latentrt.export.modules import TRACED

Bundles = Callable[[str], Path]

SIZES = {
    "text_encoder": {"batch": 2, "sequence": 77},
    "text_encoder_2": {"batch": 2, "sequence": 77},
    "unet": {"batch": 3, "height": 12, "width": 20, "sequence": 77},
    "vae_decoder": {"batch": 2, "height": 6, "width": 10},
    "vae_encoder": {"batch": 2, "image_height": 48, "image_width": 80},
}
CASES = [(name, component) for name in ("heads", "xl") for component in components_of(name)]


def counted_by_pytorch(blueprint: Blueprint, config: Any) -> int:
    with torch.device("meta"):
        module = TRACED[blueprint.component](config).eval()
    inputs = {s.name: torch.zeros(s.shape({}), device="meta") for s in blueprint.fixed_inputs}
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(**inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize(("configuration", "component"), CASES)
def test_the_operations_of_a_graph_are_those_of_the_module(
    bundle: Bundles, configuration: str, component: str
) -> None:
    opened = Bundle.open(bundle(configuration))
    blueprint = Blueprint.of(opened, component, SIZES[component])
    config = opened.manifest.components[component].config
    assert work_of(blueprint).operations == counted_by_pytorch(blueprint, config)


def test_a_float16_graph_has_the_operations_and_weights_of_the_float32_one(
    bundle: Bundles,
) -> None:
    wide, half = (
        work_of(Blueprint.of(Bundle.open(bundle(name)), "unet", SIZES["unet"]))
        for name in ("heads", "heads-fp16")
    )
    assert wide == half


def test_the_weights_of_a_unet_are_all_that_its_checkpoint_has(bundle: Bundles) -> None:
    opened = Bundle.open(bundle("heads"))
    path = bundle("heads") / "weights" / f"{folder_of('unet')}.safetensors"
    with safe_open(path, "numpy") as tensors:  # pyright: ignore[reportUnknownVariableType]
        names: Any = tensors.keys()
        expected = sum(int(np.prod(tensors.get_slice(n).get_shape())) for n in names)
    assert work_of(Blueprint.of(opened, "unet", SIZES["unet"])).weights == expected


def test_a_roofline_is_the_slower_of_arithmetic_and_reading(bundle: Bundles) -> None:
    blueprint = Blueprint.of(Bundle.open(bundle("heads")), "unet", SIZES["unet"])
    work = work_of(blueprint)
    fast = Ceilings(rate=1e30, bandwidth=4e6)
    found = roofline_of(blueprint, "fp32", 10.0, fast)
    assert found.bound == "memory"
    assert found.least == pytest.approx(4 * work.weights / 4e6)
    assert roofline_of(blueprint, "bf16", 10.0, fast).least == pytest.approx(found.least / 2)
    found = roofline_of(blueprint, "fp32", 10.0, Ceilings(rate=1e6, bandwidth=1e30))
    assert found.bound == "arithmetic"
    assert found.least == pytest.approx(work.operations / 1e6)
    assert found.share == pytest.approx(found.least / 10.0)
    assert found.rate == pytest.approx(work.operations / 10.0)
    # Where nobody knows the bandwidth, arithmetic alone says what there is to reach.
    found = roofline_of(blueprint, "fp32", 10.0, Ceilings(rate=1e6, bandwidth=None))
    assert (found.bound, found.least) == ("arithmetic", pytest.approx(work.operations / 1e6))

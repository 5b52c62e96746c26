"""The U-Net's graph with a ControlNet's residuals, against PyTorch's U-Net that is given them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import UNet2DConditionModel

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.golden import Difference
from latentrt.graphs.residuals import with_residuals
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.component_specs import BORDER, component_specs
from latentrt.weights.configs import with_defaults
from latentrt.weights.control_specs import DOWN_ADDED, MID_ADDED, residual_specs
from latentrt.weights.ready_graphs import ready_graphs

(UNET,) = component_specs(("unet",))
# Rounding in fp32, one evaluation.
ROUNDING = 1e-5
SIZES = {"batch": 2, "height": 5, "width": 3, "sequence": 77}


def controlled(bundle: Bundle, *, wide: bool = False) -> bytes:
    record = bundle.manifest.components["unet"]
    dtype = "float32" if wide else BORDER[bundle.manifest.dtype]
    residuals = residual_specs(record.config, dtype, DOWN_ADDED, MID_ADDED)
    path = bundle.graph_fp32("unet") if wide else bundle.graph("unet")
    assert path is not None
    inner = "float32" if wide else bundle.manifest.dtype
    return with_residuals(path.read_bytes(), residuals, inner)


def inputs_of(bundle: Bundle, rng: np.random.Generator) -> dict[str, Any]:
    record = bundle.manifest.components["unet"]
    residuals = residual_specs(record.config, "float32", DOWN_ADDED, MID_ADDED)
    specs = (*record.inputs, *residuals)
    return {s.name: rng.standard_normal(s.shape(SIZES)).astype(np.float32) for s in specs}


def evaluated(graph: bytes, folder: Path, inputs: dict[str, Any]) -> Any:
    settings = onnxruntime.SessionOptions()
    key = "session.model_external_initializers_file_folder_path"
    settings.add_session_config_entry(key, str(folder))
    session: Any = onnxruntime.InferenceSession(graph, settings, ["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def expected(checkpoint: Path, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    unet: Any = UNet2DConditionModel.from_pretrained(checkpoint, subfolder="unet").eval()
    unet.to(dtype).to(torch.float32)
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    down = [given.pop(n) for n in list(given) if n.startswith(DOWN_ADDED)]
    added = {name: given.pop(name) for name in ("text_embeds", "time_ids") if name in given}
    with torch.inference_mode():
        return unet(
            given.pop("sample"),
            given.pop("timestep"),
            mid_block_additional_residual=given.pop(MID_ADDED),
            down_block_additional_residuals=down,
            added_cond_kwargs=added or None,
            **given,
        ).sample.numpy()


@pytest.mark.parametrize("configuration", ["heads", "lists", "xl", "lcm"])
def test_residuals_act_as_in_pytorch_at_sizes_that_do_not_halve_evenly(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], configuration: str
) -> None:
    opened = Bundle.open(bundle(configuration))
    inputs = inputs_of(opened, np.random.default_rng(3))
    found = evaluated(controlled(opened), opened.path, inputs)
    theirs = expected(checkpoint(configuration), inputs)
    assert Difference.between(found, theirs).relative < ROUNDING


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_graph_in_float32_over_16_bit_weights_takes_residuals(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], dtype: str
) -> None:
    opened = Bundle.open(bundle(f"heads-{dtype}"))
    inputs = inputs_of(opened, np.random.default_rng(4))
    found = evaluated(controlled(opened, wide=True), opened.path, inputs)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert (
        Difference.between(found, expected(checkpoint("heads"), inputs, kind)).relative < ROUNDING
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["sd15", "lcm", "sd21", "sdxl", "ssd-1b", "vega"])
def test_every_graph_that_ships_takes_residuals(name: str, dtype: str) -> None:
    config = with_defaults("unet", ARCHITECTURES[name]["unet"])
    ready = ready_graphs(UNET, config)
    assert ready is not None
    residuals = residual_specs(config, BORDER[dtype], DOWN_ADDED, MID_ADDED)
    made = onnx.load_from_string(with_residuals(ready.at(dtype).own, residuals, dtype))
    readers = {n: node for node in made.graph.node for n in node.input}
    for spec in residuals:
        assert readers[f"{spec.name}.added"].op_type == "Concat"
        assert readers[spec.name].op_type == ("Cast" if dtype == "bfloat16" else "Add")
    assert [i.name for i in made.graph.input][-len(residuals) :] == [s.name for s in residuals]


def test_nodes_of_an_island_take_residuals_in_float32(bundle: Callable[[str], Path]) -> None:
    from latentrt.export.islands import upcast

    opened = Bundle.open(bundle("heads-fp16"))
    record = opened.manifest.components["unet"]
    graph, names = upcast(opened.graph("unet").read_bytes())
    residuals = residual_specs(record.config, "float16", DOWN_ADDED, MID_ADDED)
    made = with_residuals(graph, residuals, "float16", names)
    inputs = inputs_of(opened, np.random.default_rng(4))
    kinds = {s.name: s.dtype for s in (*record.inputs, *residuals)}
    given = {name: array.astype(kinds[name]) for name, array in inputs.items()}
    found = evaluated(made, opened.path, given)
    wide = evaluated(controlled(opened, wide=True), opened.path, inputs)
    # What goes in and comes out is float16.
    assert Difference.between(found.astype(np.float32), wide).relative < 1e-3


def test_a_graph_with_another_number_of_skip_connections_is_refused(
    bundle: Callable[[str], Path],
) -> None:
    opened = Bundle.open(bundle("heads"))
    config = opened.manifest.components["unet"].config
    residuals = residual_specs(config, "float32", DOWN_ADDED, MID_ADDED)
    with pytest.raises(ValueError, match="joins 4 skip connections, a ControlNet has 3"):
        with_residuals(opened.graph("unet").read_bytes(), residuals[1:], "float32")

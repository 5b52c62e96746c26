"""A ControlNet of Stable Diffusion 1.5's size with random weights: one step, and its memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file
from tests.controlnets import hint_picture
from tests.export.test_real_size import anonymous_bytes

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.golden import Difference
from latentrt.bundle.tensors import Layout, write_tensors
from latentrt.export.control_modules import described_control
from latentrt.export.export import export
from latentrt.export.synthetic import SyntheticTensors
from latentrt.weights.control_architectures import CONTROLNETS

pytestmark = pytest.mark.slow

# In a process of its own, so that its memory is that of the step alone.
STEP = """
import sys
import numpy as np
from latentrt.runtime import Control, Pipeline, Request
from latentrt.runtime.rows import Calls
from latentrt.runtime.samplers.denoise import Denoise

bundle, controlnet, hint, output = sys.argv[1:]
control = Control(controlnet, np.load(hint), 0.7)
request = Request("a fox", seed=1, controls=[control])
with Pipeline.open(bundle, engine="onnxruntime", precision="fp32", verify="off") as pipeline:
    plan = pipeline.plan(request)
    leg = plan.legs[0]
    latent = np.random.default_rng(0).standard_normal(leg.shape, dtype=np.float32)
    asked = Denoise(latent, 1.0, 501.0)
    evaluation = leg.denoiser(asked, leg.schedule.positions[0])
    calls, found = Calls(plan.batches), {}
    rows = next(evaluation)
    while True:
        outputs = calls._outputs(rows)
        for row, own in zip(rows, outputs):
            found.setdefault(row.model.component, []).append((row, own))
        try:
            rows = evaluation.send(outputs)
        except StopIteration:
            break
unet = found["unet_controlled"]
np.savez(
    output,
    states=np.stack([row.constant["encoder_hidden_states"] for row, _ in unet]),
    sample=np.stack([row.changing["sample"] for row, _ in unet]),
    output=np.stack([own["model_output"] for _, own in unet]),
    mid=np.stack([own["mid_block_res_sample"] for _, own in found["controlnet"]]),
)
"""


def loaded(kind: Any, config: dict[str, Any], path: Path) -> Any:
    fields = {k: v for k, v in config.items() if not k.startswith("_")}
    with torch.device("meta"):
        module = kind.from_config(fields)
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    module.load_state_dict(state, assign=True)
    return module.eval()


def test_a_controlled_unet_of_real_size_matches_pytorch(tmp_path: Path) -> None:
    config = dict(CONTROLNETS["sd15"])
    shapes = described_control("controlnet", config)
    tensors = SyntheticTensors(shapes, "0/controlnet")
    file = tmp_path / "control.safetensors"
    half = np.dtype(np.float16)
    layout = Layout.of({name: (half, shape) for name, shape in shapes.items()})
    write_tensors(file, layout, lambda name: tensors[name].astype(half))
    bundle, hint, found = tmp_path / "bundle", tmp_path / "hint.npy", tmp_path / "step.npz"
    export("random:sd15", bundle, dtype="fp16", golden=False)
    picture = hint_picture(0, 512, 512)
    np.save(hint, picture)
    command = [sys.executable, "-c", STEP, *map(str, (bundle, file, hint, found))]
    process, peak, begun = subprocess.Popen(command), 0, time.monotonic()
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0
    step = np.load(found)
    opened = Bundle.open(bundle)
    controlnet = loaded(ControlNetModel, config, file)
    given = [torch.from_numpy(step[name]) for name in ("sample", "states")]
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    times = torch.tensor([501.0] * 2)
    with torch.inference_mode():
        down, mid = controlnet(given[0], times, given[1], pixels, 0.7, return_dict=False)
        del controlnet
        record = opened.manifest.components["unet"]
        unet = loaded(UNet2DConditionModel, dict(record.config), opened.weights("unet"))
        expected = unet(
            given[0],
            times,
            given[1],
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample.numpy()
        plain = unet(given[0], times, given[1]).sample.numpy()
    error = Difference.between(step["output"], expected).relative
    moved = Difference.between(plain, expected).relative
    seconds = time.monotonic() - begun
    print(
        f"\ncontrolled U-Net of SD 1.5: {error:.1e} from PyTorch; the ControlNet moved it by "
        f"{moved:.2f}; {peak / 1e9:.2f} GB anonymous, {seconds:.0f} s"
    )
    assert Difference.between(0.7 * step["mid"], mid.numpy()).relative < 1e-5
    assert error < 1e-5
    assert moved > 0.01
    # U-Net 3.4 GB and ControlNet 1.4 in fp32, the text encoder's 0.5, and the calls' own arrays.
    assert peak < 12e9

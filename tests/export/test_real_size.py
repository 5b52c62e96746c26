"""Stable Diffusion 1.5 at real size, with random weights: export's memory, and one evaluation."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.golden import Difference
from latentrt.engines.engine import Blueprint, Options, backend

pytestmark = pytest.mark.slow

LATENT = {"batch": 2, "height": 64, "width": 64, "sequence": 77}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, float]:
    """The bundle of `random:sd15`, the peak of anonymous memory in bytes, and the seconds."""
    folder = tmp_path_factory.mktemp("real") / "sd15"
    code = "from latentrt.cli.main import main; main()"
    command = ["export", "random:sd15", str(folder), "--no-golden"]
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", code, *command])
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0
    return folder, peak, time.monotonic() - begun


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process: what its memory holds that is no file's."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def test_export_of_a_real_sized_model_takes_under_two_gigabytes(
    exported: tuple[Path, float, float],
) -> None:
    folder, peak, seconds = exported
    print(f"\nexport: {seconds:.0f} s, {peak / 1e9:.2f} GB of anonymous memory")
    assert 0.1e9 < peak < 2e9
    bundle = Bundle.open(folder)
    assert not bundle.manifest.has_goldens
    assert bundle.graph("unet").stat().st_size < 10e6


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_real_sized_unet_matches_pytorch(exported: tuple[Path, float, float], name: str) -> None:
    bundle = Bundle.open(exported[0])
    record = bundle.manifest.components["unet"]
    rng = np.random.default_rng(0)
    inputs = {s.name: rng.standard_normal(s.shape(LATENT), dtype=np.float32) for s in record.inputs}
    inputs["timestep"] = np.array([981.0, 1.0], np.float32)
    blueprint = Blueprint(
        "unet",
        bundle.graph("unet"),
        bundle.weights("unet"),
        record.inputs,
        record.outputs,
        LATENT,
    )
    engine = backend(name).compile(blueprint, Options())
    actual = engine(inputs)["model_output"]
    engine.close()

    config = {k: v for k, v in record.config.items() if not k.startswith("_")}
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**config)
    unet.load_state_dict(load_file(bundle.weights("unet")), assign=True)
    with torch.inference_mode():
        expected = unet.eval()(**{k: torch.from_numpy(v) for k, v in inputs.items()}).sample.numpy()
    # In range: a random network whose activations drift would be all rounding, or none.
    assert 0.1 < expected.std() < 3
    assert Difference.between(actual, expected).relative < 1e-5

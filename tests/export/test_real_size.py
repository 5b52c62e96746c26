"""Real architectures with random weights: export's memory, and one evaluation of the U-Net."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.golden import Difference
from latentrt.engines.engine import Blueprint
from latentrt.engines.registry import backend

pytestmark = pytest.mark.slow

LATENT = {"batch": 2, "height": 64, "width": 64, "sequence": 77}


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle, the peak of anonymous memory in bytes, and the seconds that it took."""

    name: str
    folder: Path
    peak: int
    seconds: float


@pytest.fixture(scope="module", params=["sd15", "sd21", "sdxl"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    """The bundle of a random checkpoint, and what it cost; one at a time, for the disk's sake."""
    folder = tmp_path_factory.mktemp("real") / request.param
    code = "from latentrt.cli.main import main; main()"
    dtype = "fp16" if request.param == "sdxl" else "fp32"  # 7 GB rather than 14
    command = ["export", f"random:{request.param}", str(folder), "--no-golden", "--dtype", dtype]
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", code, *command])
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0
    yield Exported(request.param, folder, peak, time.monotonic() - begun)
    for path in (folder / "weights").iterdir():
        path.unlink()


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process: what its memory holds that is no file's."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def test_export_of_a_real_sized_model_takes_under_two_gigabytes(exported: Exported) -> None:
    peak, seconds = exported.peak, exported.seconds
    bundle = Bundle.open(exported.folder)
    size = sum(record.size for record in bundle.manifest.files.values())
    print(f"\n{exported.name}: {seconds:.0f} s, {peak / 1e9:.2f} GB anonymous, {size / 1e9:.2f} GB")
    assert 0.1e9 < peak < 2e9
    assert not bundle.manifest.has_goldens
    assert bundle.graph("unet").stat().st_size < 20e6


# SDXL's in fp32 is 10 GB, and twice that while it is compiled: tiny ones stand for it.
@pytest.mark.parametrize("exported", ["sd15", "sd21"], indirect=True)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_real_sized_unet_matches_pytorch(exported: Exported, name: str) -> None:
    bundle = Bundle.open(exported.folder)
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
    engine = backend(name).compile(blueprint)
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

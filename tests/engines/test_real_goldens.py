"""Every component of real architectures, with random weights, against PyTorch's goldens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.processor import needs_bf16

from latentrt.engines.verification.tolerances import TOLERANCES

pytestmark = pytest.mark.slow

# The architectures at sizes of picture that PyTorch draws in a minute. Weights are stored in the
# dtype: SDXL's in float32 are 10 GB, and twice that while an engine is made of them.
SUBJECTS = {"sd15": ("fp32", 64), "sdxl": ("fp16", 32)}
COMPONENTS = {
    "sd15": ("text_encoder", "unet", "vae_decoder", "vae_encoder"),
    "sdxl": ("text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder"),
}

EXPORT = """
import sys
from latentrt.export import synthetic
from latentrt.export.export import export

name, dtype, latent, folder = sys.argv[1:]
configs = dict(synthetic.ARCHITECTURES[name])
configs["unet"] = {**configs["unet"], "sample_size": int(latent)}
synthetic.ARCHITECTURES = {name: configs}
export(f"random:{name}", folder, dtype=dtype)
"""

# In a process of its own: what the last engine held is free again.
JUDGE = """
import sys
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.golden import Difference
from latentrt.engines.registry import choose
from latentrt.engines.engine import Blueprint
from latentrt.engines.verification.judging import golden_sizes

folder, component, name, precision = sys.argv[1:]
bundle = Bundle.open(folder)
chosen = choose(name, bundle.manifest.dtype, precision)
blueprint = Blueprint.of(bundle, component, golden_sizes(bundle, component))
engine = chosen.compile(blueprint)
golden = bundle.golden()
outputs = engine(
    {s.name: golden[f"{component}/inputs/{s.name}"].astype(s.dtype) for s in engine.inputs}
)
print(max(
    Difference.between(array, golden[f"{component}/outputs/{output}"]).relative
    for output, array in outputs.items()
))
"""


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """One bundle at a time, for the disk's sake."""
    folder = tmp_path_factory.mktemp("real") / request.param
    dtype, latent = SUBJECTS[request.param]
    command = [sys.executable, "-c", EXPORT, request.param, dtype, str(latent), folder]
    subprocess.run(command, check=True)
    yield request.param, folder
    for path in (folder / "weights").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("openvino", "fp32"),
        pytest.param("openvino", "bf16", marks=needs_bf16),
        ("onnxruntime", "fp32"),
    ],
)
def test_every_component_gives_the_goldens_at_real_size(
    subject: tuple[str, Path], engine: str, precision: str
) -> None:
    name, folder = subject
    found: dict[str, float] = {}
    for component in COMPONENTS[name]:
        command = [sys.executable, "-c", JUDGE, folder, component, engine, precision]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[component] = float(done.stdout.splitlines()[-1])
    print(f"\n{name}, {engine} {precision}:", {c: f"{error:.1e}" for c, error in found.items()})
    for component, error in found.items():
        assert 0 < error <= TOLERANCES[precision].of(component), component

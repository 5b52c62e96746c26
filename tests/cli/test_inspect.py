"""`latentrt inspect` of bundles in 16 bits, and of checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.outcome import Run

from latentrt.cli.inspect import describe, print_description

Bundles = Callable[[str], Path]


def test_inspect_shows_what_storing_the_weights_cost_and_which_nodes_are_in_float32(
    bundle: Bundles, capsys: pytest.CaptureFixture[str]
) -> None:
    source = bundle("xl-fp16")
    described = describe(source, verify=False)
    manifest = json.loads((source / "manifest.json").read_text())
    assert described["dtype"] == "float16"
    assert described["storage"] == manifest["storage"]
    assert set(manifest["storage"]) == set(described["components"])
    assert {c["islands"] for c in described["components"].values()} == {0}
    print_description(described)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["unet", str(manifest["storage"]["unet"])] in printed


def test_inspect_counts_the_nodes_of_an_island(bundle: Bundles, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle("xl-fp16"), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["islands"] = {"unet": ["one", "another"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    components = describe(folder, verify=False)["components"]
    assert components["unet"]["islands"] == 2
    assert components["vae_decoder"]["islands"] == 0


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of one's own, to change."""
    return Path(shutil.copytree(checkpoint("heads"), tmp_path / "it"))


def change(path: Path, **fields: object) -> None:
    """Rewrite fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}), "utf-8")


def test_inspect_says_of_a_checkpoint_what_an_export_would(run: Run, folder: Path) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    change(folder / "unet" / "config.json", _class_name="UNet3DConditionModel")
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(plain, plain.with_suffix(".fp16.safetensors"))
    done = run("inspect", folder, "--json")
    assert done.status == 0
    described = json.loads(done.out)
    assert described["exports"] == "yes"
    assert described["variants"] == ["fp16"]
    assert described["scheduler"]["class"] == "EulerDiscreteScheduler"
    assert described["components"]["unet"]["class"] == "UNet2DConditionModel"
    assert described["components"]["unet"]["files"] == [plain.name]
    assert described["components"]["unet"]["not read"] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    said = "; ".join(described["inferred"])
    for part in ("UNet3DConditionModel", "not read: diffusion_pytorch_model.fp16", "EulerDiscrete"):
        assert part in said
    (variant,) = json.loads(run("inspect", folder, "--variant", "fp16", "--json").out)[
        "components"
    ]["unet"]["files"]
    assert variant == "diffusion_pytorch_model.fp16.safetensors"


def test_inspect_says_why_a_checkpoint_cannot_be_exported(run: Run, folder: Path) -> None:
    change(folder / "scheduler" / "scheduler_config.json", beta_schedule="wavy")
    done = run("inspect", folder)
    assert done.status == 2
    assert "scheduler/scheduler_config.json: " in done.err
    assert "wavy" in done.err
    words = [line.split() for line in done.out.splitlines()]
    assert ["exports", "no"] in words


def test_inspect_without_pytorch_says_what_it_can(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    described = json.loads(run("inspect", folder, "--json").out)
    assert described["exports"] == "yes"
    assert "error against PyTorch" in described["components"]["unet"]["graphs"]["unet"]
    change(folder / "unet" / "config.json", attention_head_dim=2)
    described = json.loads(run("inspect", folder, "--json").out)
    assert described["exports"] == "no"
    assert "pip install 'latentrt[export]'" in described["problem"]
    assert described["components"]["unet"]["files"] == ["diffusion_pytorch_model.safetensors"]
    assert described["components"]["unet"]["graphs"] == "none ship: PyTorch traces them"
    assert described["scheduler"]["class"] == "DDIMScheduler"
    assert "inferred" not in described


def test_a_bundle_has_no_variants(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}", "utf-8")
    done = run("inspect", folder, "--variant", "fp16")
    assert done.status == 2
    assert "variant: expected none with a bundle, got 'fp16'" in done.err

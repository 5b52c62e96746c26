"""`latentrt merge`, `diff` and `extract`: what they write, print and refuse."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from tests.cli.outcome import Run
from tests.export.pytorch import FILES, stored
from tests.original import sparse, whole

from latentrt.weights.tensor_sources import tensor_sources

Get = Callable[[str], Path]

FOLDERS = ("text_encoder", "unet", "vae")


def state(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """A part's tensors as its own library loads them, by way of the pipeline."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    return getattr(pipeline, part).state_dict()


def single(folder: Path, path: Path, factor: float = 1.0) -> Path:
    """A file with the tensors of a U-Net under some prefix, as in original checkpoints."""
    tensors = {f"model.diffusion_model.{n}": factor * t for n, t in stored(folder, "unet").items()}
    safetensors.torch.save_file(tensors, path)
    return path


def test_a_merged_folder_is_loaded_by_diffusers_with_the_weighted_sums(
    run: Run, checkpoint: Get, tmp_path: Path
) -> None:
    a, b, out = checkpoint("heads"), checkpoint("heads@1"), tmp_path / "out"
    done = run("merge", a, b, "--alpha", 0.3, "-o", out)
    assert (done.status, done.out) == (0, f"{out}\n")
    for part in FOLDERS:
        first, second, found = (state(folder, part) for folder in (a, b, out))
        assert set(found) == set(first)
        for name, tensor in found.items():
            expected = 0.7 * first[name].double() + 0.3 * second[name].double()
            # float32 sums of values up to 4.
            assert torch.allclose(tensor.double(), expected, rtol=1e-6, atol=1e-6)
    for name in ("model_index.json", "unet/config.json", "tokenizer/tokenizer.json"):
        assert (out / name).read_bytes() == (a / name).read_bytes()


def test_a_difference_is_added_to_a_folder(run: Run, checkpoint: Get, tmp_path: Path) -> None:
    a, b = checkpoint("heads"), checkpoint("heads@1")
    out = tmp_path / "out"
    assert run("merge", a, b, "--add-difference", a, "--alpha", 1, "-o", out).status == 0
    found, expected = stored(out, "unet"), stored(b, "unet")
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)


def test_single_files_become_one_file_of_the_same_names(
    run: Run, checkpoint: Get, tmp_path: Path
) -> None:
    a = single(checkpoint("heads"), tmp_path / "a.safetensors")
    b = single(checkpoint("heads"), tmp_path / "b.safetensors", 3.0)
    out = tmp_path / "new" / "out.safetensors"
    assert run("merge", a, b, "-o", out).status == 0
    found, first = safetensors.torch.load_file(out), safetensors.torch.load_file(a)
    assert set(found) == set(first)
    assert all(torch.allclose(found[name], 2 * first[name], rtol=1e-6) for name in first)
    # What exists is replaced on demand alone.
    before = out.read_bytes()
    again = run("merge", a, a, "-o", out)
    assert again.status == 2
    assert "destination: expected a path that does not exist (or --force)" in again.err
    assert out.read_bytes() == before
    assert run("merge", a, a, "-o", out, "--force").status == 0
    assert safetensors.torch.load_file(out)["model.diffusion_model.conv_in.bias"].equal(
        first["model.diffusion_model.conv_in.bias"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("heads", "heads@1", "--alpha", "2"), "alpha: expected a number from 0 to 1, got 2.0"),
        (("heads", "heads@1", "--alpha", "nan"), "alpha: expected a number from 0 to 1, got nan"),
        (("heads", "xl"), "is in A alone: the checkpoints differ"),
        (("xl", "heads"), "has no text_encoder_2, which A has"),
        (("heads", "README.md"), "merge: expected a folder, as heads is one, got README.md"),
        (("README.md", "README.md"), "README.md: is not a safetensors file: it is text"),
    ],
)
def test_what_cannot_be_merged_is_refused_and_nothing_is_left(
    arguments: tuple[str, ...], message: str, run: Run, checkpoint: Get, tmp_path: Path
) -> None:
    words = [checkpoint(w) if w[:2] in ("he", "xl") else w for w in arguments]
    done = run("merge", *words, "-o", tmp_path / "out")
    assert done.status == 2
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


def test_diff_counts_what_differs_by_component_and_block(
    run: Run, checkpoint: Get, tmp_path: Path
) -> None:
    a = checkpoint("heads")
    b = Path(shutil.copytree(a, tmp_path / "b"))
    tensors = stored(b, "unet")
    tensors["mid_block.resnets.0.conv1.bias"][:8] += 2
    safetensors.torch.save_file(tensors, b / "unet" / FILES["unet"], {"format": "pt"})
    found = json.loads(run("diff", a, b, "--json").out)["components"]
    assert set(found) == set(FOLDERS)
    unet = found["unet"]
    whole = math.sqrt(sum(float(t.double().square().sum()) for t in stored(a, "unet").values()))
    assert (unet["changed_tensors"], unet["changed"], unet["largest"]) == (1, 8, 2)
    assert unet["count"] == sum(t.numel() for t in tensors.values())
    assert unet["relative"] == pytest.approx(math.sqrt(32) / whole, rel=1e-6)
    assert unet["blocks"]["mid_block"]["changed"] == 8
    assert found["vae"]["changed_tensors"] == 0
    lines = run("diff", a, b).out.splitlines()
    assert lines[0].split() == ["tensors", "differ", "parameters", "share", "relative", "largest"]
    assert [line.split()[0] for line in lines[1:]] == ["text_encoder", "unet", "mid_block", "vae"]
    text = run("diff", a, checkpoint("xl")).out
    assert "text_encoder_2: in B alone" in text
    assert "more are in one checkpoint alone" in text


def test_two_single_files_are_compared_by_their_own_names(
    run: Run, checkpoint: Get, tmp_path: Path
) -> None:
    a = single(checkpoint("heads"), tmp_path / "a.safetensors")
    b = single(checkpoint("heads"), tmp_path / "b.safetensors", 1.5)
    (found,) = json.loads(run("diff", a, b, "--json").out)["components"].values()
    assert found["relative"] == pytest.approx(0.5, rel=1e-6)
    assert found["changed"] == found["count"]


def test_a_single_file_has_the_components_of_its_architecture(tmp_path: Path) -> None:
    path = sparse(tmp_path / "a.safetensors", whole("sd15"))
    found = tensor_sources(path)
    assert {folder: len(tensors) for folder, tensors in found.items()} == {
        "text_encoder": 196,
        "unet": 686,
        "vae": 248,
    }


def test_an_extracted_lora_is_written_and_its_error_printed(
    run: Run, checkpoint: Get, tmp_path: Path
) -> None:
    base = checkpoint("heads")
    tuned = Path(shutil.copytree(base, tmp_path / "tuned"))
    tensors = stored(tuned, "unet")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    change = torch.from_numpy(np.random.default_rng(0).standard_normal((32, 32))).float()
    tensors[f"{layer}.weight"] += change
    tensors["conv_in.bias"] += 1
    safetensors.torch.save_file(tensors, tuned / "unet" / FILES["unet"], {"format": "pt"})
    out = tmp_path / "out.safetensors"
    done = run("extract", tuned, base, "--rank", 4, "--dtype", "fp32", "-o", out, "--json")
    found = json.loads(done.out)
    values = torch.linalg.svdvals(change.double())
    expected = float(values[4:].norm() / values.norm())
    (described,) = found["layers"]
    assert (described["layer"], described["rank"]) == (layer, 4)
    assert described["error"] == pytest.approx(expected, rel=1e-4)
    assert found["left_out"] == {"unet: conv_in.bias": pytest.approx(4, rel=1e-6)}
    name = f"lora_unet_{layer.replace('.', '_')}"
    ends = ("alpha", "lora_down.weight", "lora_up.weight")
    assert set(safetensors.torch.load_file(out)) == {f"{name}.{end}" for end in ends}
    lines = run("extract", tuned, base, "-o", out, "--force").out.splitlines()
    assert lines[-1] == str(out)
    assert "1 layers; relative error of the whole change" in lines[-2]
    assert "--force" in run("extract", tuned, base, "-o", out).err
    assert (
        "dtype: expected one of fp32"
        in run("extract", tuned, base, "-o", tmp_path / "x", "--dtype", "int8").err
    )

"""Which of several weights files is read: the one that the part's own library reads, or none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from tests.export.conftest import change_json
from tests.export.pytorch import FILES, stored
from transformers import CLIPTextModel

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.weights.checkpoint import Checkpoint

UNET = "diffusion_pytorch_model"
KINDS: Mapping[str, Any] = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
SIZES = {"unet": "200KB", "text_encoder": "50KB"}


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of one's own, to change."""
    return Path(shutil.copytree(checkpoint("heads"), tmp_path / "it"))


def loaded(folder: Path, part: str, variant: str | None = None) -> Any:
    """A part as its own library loads it, without accelerate's shortcut."""
    return KINDS[part].from_pretrained(folder / part, variant=variant, low_cpu_mem_usage=False)


def same_as_library(folder: Path, part: str, variant: str | None = None) -> bool:
    """Whether every tensor of a part is what its library loads."""
    found = Checkpoint.open(folder, variant).tensors(part)
    expected = loaded(folder, part, variant).state_dict()
    names = {name: f"text_model.{name}" if part == "text_encoder" else name for name in expected}
    return set(names.values()) == set(found) and all(
        np.array_equal(found[names[name]].astype(np.float32), tensor.numpy())
        for name, tensor in expected.items()
    )


def save_variant(folder: Path, part: str, variant: str, factor: float = 2.0) -> Path:
    """Other weights beside the plain ones, saved under a variant's name."""
    tensors = {name: factor * tensor for name, tensor in stored(folder, part).items()}
    path = folder / part / FILES[part].replace(".safetensors", f".{variant}.safetensors")
    safetensors.torch.save_file(tensors, path)
    return path


def save_pickle(folder: Path, part: str, name: str) -> Path:
    """Plain weights, pickled."""
    path = folder / part / name
    torch.save(stored(folder, part), path)
    (folder / part / FILES[part]).unlink()
    return path


@torch.no_grad()
def save_again_in_shards(folder: Path, part: str, variant: str | None = None) -> None:
    """Other weights in shards, the old whole file left beside them."""
    kept = (folder / part / FILES[part]).read_bytes()
    model = loaded(folder, part)
    for parameter in model.parameters():
        parameter.mul_(2)
    model.save_pretrained(folder / part, max_shard_size=SIZES[part], variant=variant)
    (folder / part / FILES[part]).write_bytes(kept)


def problem_of(folder: Path, part: str, variant: str | None = None) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder, variant).tensors(part)
    return caught.value


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_of_a_whole_file_beside_shards_the_librarys_choice_is_read(folder: Path, part: str) -> None:
    save_again_in_shards(folder, part)
    assert same_as_library(folder, part)
    (note,) = Checkpoint.open(folder).tensors(part).notes
    library = {"unet": "diffusers", "text_encoder": "transformers"}[part]
    assert f"was read, as {library} does; not read: " in note
    assert FILES[part] in note
    assert "index.json" in note


def test_of_a_variants_whole_file_beside_its_shards_the_index_is_read(folder: Path) -> None:
    save_variant(folder, "unet", "fp16", 3.0)
    save_again_in_shards(folder, "unet", "fp16")
    assert same_as_library(folder, "unet", "fp16")
    assert same_as_library(folder, "unet")


def test_the_older_name_of_a_variants_index_is_read(folder: Path) -> None:
    save_again_in_shards(folder, "unet", "fp16")
    newer = folder / "unet" / f"{UNET}.safetensors.index.fp16.json"
    newer.rename(folder / "unet" / f"{UNET}.safetensors.fp16.index.json")
    found = Checkpoint.open(folder, "fp16").tensors("unet")["conv_in.weight"]
    np.testing.assert_array_equal(found, 2 * stored(folder, "unet")["conv_in.weight"].numpy())


@pytest.mark.parametrize("variant", ["bf16", "ema", "my-own_2"])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_variant_of_any_name_is_read_where_it_is_asked_for(
    folder: Path, part: str, variant: str
) -> None:
    save_variant(folder, part, variant)
    assert Checkpoint.open(folder).variants() == (variant,)
    assert same_as_library(folder, part, variant)
    assert same_as_library(folder, part)
    (note,) = Checkpoint.open(folder).tensors(part).notes
    assert note.endswith(f"not read: {FILES[part].replace('.', f'.{variant}.')}")


def test_a_part_without_the_variant_is_read_without_it_and_says_so(folder: Path) -> None:
    save_variant(folder, "unet", "fp16")
    found = Checkpoint.open(folder, "fp16").tensors("text_encoder")
    assert found.notes == ("text_encoder: has no variant 'fp16'; model.safetensors was read",)
    assert same_as_library(folder, "text_encoder")


def test_a_variant_of_no_part_is_refused_with_those_that_are_there(folder: Path) -> None:
    save_variant(folder, "unet", "fp16")
    with pytest.raises(InputError, match=r"variant: expected one .* \(fp16\), got 'bf16'"):
        Checkpoint.open(folder, "bf16")


@pytest.mark.parametrize("variant", ["non_ema", "fp16"])
@pytest.mark.parametrize(
    ("part", "pickle"), [("unet", f"{UNET}.bin"), ("text_encoder", "pytorch_model.bin")]
)
def test_pickled_plain_weights_beside_a_variant_are_refused_naming_both(
    folder: Path, part: str, pickle: str, variant: str
) -> None:
    beside = save_variant(folder, part, variant)
    path = save_pickle(folder, part, pickle)
    error = problem_of(folder, part)
    assert error.path == path
    assert f"or read {beside.name} with --variant {variant}" in error.problem
    assert Checkpoint.open(folder, variant).files(part).chosen == beside


@pytest.mark.parametrize("variant", ["bf16", "fp16", "non_ema"])
def test_where_there_is_a_variant_alone_the_error_names_it(folder: Path, variant: str) -> None:
    beside = save_variant(folder, "unet", variant)
    (folder / "unet" / FILES["unet"]).unlink()
    error = problem_of(folder, "unet")
    assert error.path == folder / "unet" / FILES["unet"]
    assert error.problem.startswith("is missing; ")
    assert f"{beside.name} with --variant {variant}" in error.problem


def test_a_pickled_variant_is_refused_rather_than_the_plain_file_read(folder: Path) -> None:
    pickled = folder / "unet" / f"{UNET}.fp16.bin"
    torch.save({}, pickled)
    error = problem_of(folder, "unet", "fp16")
    assert error.path == pickled
    assert "runs code when it is loaded" in error.problem


def test_an_unfinished_download_is_named(folder: Path) -> None:
    whole = folder / "unet" / FILES["unet"]
    whole.rename(whole.with_name(f"{whole.name}.part"))
    problem = problem_of(folder, "unet").problem
    assert f"{whole.name}.part is an unfinished download: download it again" in problem


def test_a_file_of_another_name_is_named(folder: Path) -> None:
    (folder / "unet" / FILES["unet"]).rename(folder / "unet" / "model.safetensors")
    assert "rename model.safetensors, a name that diffusers" in problem_of(folder, "unet").problem


def test_a_text_encoders_config_may_name_its_file(folder: Path) -> None:
    save_variant(folder, "text_encoder", "best")
    name = "model.best.safetensors"
    change_json(folder / "text_encoder/config.json", lambda c: c.update(transformers_weights=name))
    assert same_as_library(folder, "text_encoder")
    assert Checkpoint.open(folder).files("text_encoder").chosen.name == name


def test_a_folder_of_links_to_blobs_is_read(folder: Path, tmp_path: Path) -> None:
    # As the Hugging Face cache has it: snapshots/HASH/... are links to blobs/HASH.
    expected = stored(folder, "unet")
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(tmp_path / "blobs" / str(number))
    opened = Checkpoint.open(folder)
    found = opened.tensors("unet")
    assert found.notes == ()
    assert set(found) == set(expected)
    assert set(opened.tokenizer()) == {"tokenizer.json", "tokenizer_config.json"}

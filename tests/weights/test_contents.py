"""A file that is something else than its name says is called what it is."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from latentrt.bundle.errors import CheckpointError
from latentrt.weights.checkpoint import Checkpoint

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
PULL = "it is a Git LFS pointer; run `git lfs pull`"
DAMAGES: dict[str, tuple[bytes, str]] = {
    "a Git LFS pointer": (POINTER, PULL),
    "a web page": (PAGE, "it is a web page; download it again"),
    "an XML error": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "a web page",
    ),
    "nothing": (b"", "it is empty; download it again"),
    "a Xet pointer": (b"# xet version 0\nfilesize = 3\n", "it is a Xet pointer"),
    "an unfinished download": (bytes(4096), "zeros at its beginning, an unfinished download"),
}
WEIGHTS: dict[str, tuple[bytes, str]] = {
    "a JSON error": (b'{"error": "Repository not found"}', 'it is text, \'{"error": "Repo'),
    "a plain error": (b"Entry not found", "it is text, 'Entry not found'; download it again"),
    "a short error": (b"404", "it is text, '404'"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(64), "it is a GGUF file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "it is an HDF5 file"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(64), "it is a gzip archive; unpack it"),
    "an old pickle": (b"\x80\x02}q\x00." + bytes(64), "it is a pickle; a pickled file runs code"),
}
FILES = {
    "unet/diffusion_pytorch_model.safetensors": "a safetensors file",
    "text_encoder/model.safetensors": "a safetensors file",
    "unet/config.json": "readable JSON",
    "scheduler/scheduler_config.json": "readable JSON",
    "model_index.json": "readable JSON",
    "tokenizer/tokenizer.json": "readable JSON",
    "tokenizer/merges.txt": "readable text",
}


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of one's own, to damage."""
    return Path(shutil.copytree(checkpoint("heads"), tmp_path / "it"))


def read_all(folder: Path) -> None:
    """Read every file of a checkpoint."""
    opened = Checkpoint.open(folder)
    for part in ("text_encoder", "unet", "vae"):
        opened.config(part)
        opened.tensors(part)
    opened.config("scheduler")
    opened.tokenizer()


def problem_of(folder: Path, file: str) -> str:
    """What reading the whole checkpoint says, which has to name the file."""
    with pytest.raises(CheckpointError) as caught:
        read_all(folder)
    assert caught.value.path == folder / file
    return caught.value.problem


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_every_file_of_a_checkpoint_says_what_it_is_instead(
    folder: Path, file: str, damage: str
) -> None:
    content, said = DAMAGES[damage]
    (folder / file).write_bytes(content)
    problem = problem_of(folder, file)
    assert problem.startswith(f"is not {FILES[file]}: ")
    assert said in problem


@pytest.mark.parametrize("damage", WEIGHTS)
def test_weights_that_are_something_else_say_what(folder: Path, damage: str) -> None:
    content, said = WEIGHTS[damage]
    file = "unet/diffusion_pytorch_model.safetensors"
    (folder / file).write_bytes(content)
    assert said in problem_of(folder, file)


@pytest.mark.parametrize("new", [True, False], ids=["a zip", "a pickle"])
def test_a_pickle_renamed_to_safetensors_says_how_to_convert_it(folder: Path, new: bool) -> None:
    file = "unet/diffusion_pytorch_model.safetensors"
    torch.save({"a": torch.ones(3)}, folder / file, _use_new_zipfile_serialization=new)
    problem = problem_of(folder, file)
    assert zipfile.is_zipfile(folder / file) is new
    assert ("a zip archive" if new else "a pickle") in problem
    assert "safetensors.torch.save_file" in problem


@pytest.mark.parametrize("file", FILES)
def test_a_link_without_its_target_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink(missing_ok=True)
    (folder / file).symlink_to("../blobs/4d7a")
    assert "it is a broken symbolic link to ../blobs/4d7a; download it" in problem_of(folder, file)


def test_a_folder_where_a_file_should_be_is_named(folder: Path) -> None:
    file = "unet/diffusion_pytorch_model.safetensors"
    (folder / file).unlink()
    (folder / file).mkdir()
    assert problem_of(folder, file) == "is not a safetensors file: it is a folder"


def test_a_shard_that_is_a_pointer_is_named(folder: Path) -> None:
    names = {"conv_in.weight": "diffusion_pytorch_model-00001-of-00001.safetensors"}
    (folder / "unet" / next(iter(names.values()))).write_bytes(POINTER)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert PULL in problem_of(folder, f"unet/{next(iter(names.values()))}")


@pytest.mark.parametrize("length", [0x7B, 0x13C, 0x2020])
def test_a_header_whose_length_looks_like_text_is_no_text(folder: Path, length: int) -> None:
    # 0x7B is "{", 0x3C "<", 0x20 a space, where the length of a header stands.
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header = text.ljust(length)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert list(Checkpoint.open(folder).tensors("unet")) == ["a"]


def test_a_name_that_is_too_long_is_no_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        Checkpoint.open(Path("x" * 5000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("pattern", ["unet/config.json", "unet/*.safetensors", "tokenizer/*.json"])
def test_a_pipe_in_a_checkpoint_is_refused_and_not_waited_for(folder: Path, pattern: str) -> None:
    path = next(iter(folder.glob(pattern)))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="cannot be read: is not a file"):
        read_all(folder)

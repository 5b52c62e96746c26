"""Checkpoints by the name of a repository on the Hugging Face hub, without any network."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tests.hub import snapshot

from latentrt.bundle.errors import CheckpointError
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.hub import cache_folder, find_snapshot, is_hub_name, wanted_files
from latentrt.weights.opening import open_source

VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of one's own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def cached(checkpoint: Callable[[str], Path], cache: Path) -> Path:
    """A repository in the cache, named `owner/name`."""
    folder = snapshot(checkpoint("heads"), cache)
    refs = cache / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text(folder.name)
    return folder


class Hub:
    """The hub as its library gives it: a folder's files, and what is asked of them."""

    def __init__(self, source: Path, cache: Path) -> None:
        self.source, self.cache = source, cache
        self.asked: list[str] | None = None

    def list_repo_files(self, name: str) -> list[str]:
        assert name == "owner/name"
        files = (p for p in self.source.rglob("*") if p.is_file())
        return sorted(p.relative_to(self.source).as_posix() for p in files)

    def snapshot_download(self, name: str, *, allow_patterns: list[str]) -> str:
        self.asked = allow_patterns
        for file in allow_patterns:
            target = self.cache / "downloaded" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.source / file, target)
        return str(self.cache / "downloaded")


@pytest.fixture
def hub(
    checkpoint: Callable[[str], Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Hub:
    """The hub with one repository, of which a test has a copy to change."""
    found = Hub(Path(shutil.copytree(checkpoint("heads"), tmp_path / "remote")), cache)
    for name in ("list_repo_files", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(found, name))
    return found


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "~/h"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"},
        {"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/old"},
        {"HF_HUB_CACHE": "~/c"},
        {"HF_HUB_CACHE": "$XDG_CACHE_HOME/c", "XDG_CACHE_HOME": "/x"},
    ],
    ids=str,
)
def test_the_cache_is_where_the_hubs_library_has_it(
    variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    constants = runpy.run_path(str(Path(huggingface_hub.__file__).parent / "constants.py"))
    assert str(cache_folder()) == constants["HF_HUB_CACHE"]


def test_a_snapshot_is_the_one_that_the_hubs_library_finds(cached: Path, cache: Path) -> None:
    expected = huggingface_hub.snapshot_download(
        "owner/name", cache_dir=cache, local_files_only=True
    )
    assert str(find_snapshot("owner/name")) == expected == str(cached)


def test_a_repository_in_the_cache_is_opened_without_the_library(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    opened = open_source("owner/name")
    assert isinstance(opened, Checkpoint)
    assert opened.path == cached
    assert (cached / f"{UNET}.safetensors").is_symlink()
    assert len(opened.tensors("unet")) > 0


def test_a_folder_of_that_name_comes_first(
    cached: Path, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint("heads"), tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    opened = open_source("owner/name")
    assert isinstance(opened, Checkpoint)
    assert opened.path == Path("owner/name")


@pytest.mark.parametrize("lost", ["the blob", "the link", "the folder"])
def test_a_cache_that_lacks_a_file_is_said_with_both_ways_to_get_it(
    lost: str, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    link = cached / f"{UNET}.safetensors"
    if lost == "the blob":
        link.resolve().unlink()
    elif lost == "the link":
        link.unlink()
    else:
        shutil.rmtree(cached / "unet")
    with pytest.raises(CheckpointError) as caught:
        open_source("owner/name")
    said = str(caught.value)
    assert "cache" in said
    assert "unet" in said
    assert "hf download owner/name" in said
    assert "latentrt[hub]" in said


def test_a_repository_that_is_not_in_the_cache_is_said_with_both_ways(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError) as caught:
        open_source("owner/name")
    assert "no such folder or file" in str(caught.value)
    assert "hf download owner/name" in str(caught.value)
    assert "latentrt[hub]" in str(caught.value)


@pytest.mark.parametrize("commit", ["../../elsewhere", "", "\xe9"])
def test_a_reference_that_is_no_commit_is_not_followed(
    commit: str, cached: Path, cache: Path
) -> None:
    (cache / "elsewhere").mkdir()
    (cache / "models--owner--name" / "refs" / "main").write_text(commit, "latin-1")
    assert find_snapshot("owner/name") is None


def test_what_the_cache_lacks_is_downloaded(hub: Hub) -> None:
    (hub.source / f"{UNET}.bin").write_bytes(b"pickle")
    (hub.source / f"{UNET}.fp16.safetensors").write_bytes(b"half")
    (hub.source / "v1-5-pruned.safetensors").write_bytes(b"whole")
    (hub.source / "safety_checker").mkdir()
    (hub.source / "safety_checker" / "model.safetensors").write_bytes(b"checker")
    (hub.source / "README.md").write_text("fox")
    opened = open_source("owner/name")
    assert isinstance(opened, Checkpoint)
    assert opened.path == hub.cache / "downloaded"
    assert set(hub.asked or ()) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        f"{UNET}.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_a_variant_is_downloaded_where_a_part_has_it(hub: Hub) -> None:
    shutil.move(hub.source / f"{UNET}.safetensors", hub.source / f"{UNET}.fp16.safetensors")
    open_source("owner/name", "fp16")
    assert f"{UNET}.fp16.safetensors" in (hub.asked or ())
    assert "vae/diffusion_pytorch_model.safetensors" in (hub.asked or ())


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_of_one_variant_are_downloaded(variant: str | None) -> None:
    middle = "" if variant is None else f".{variant}"
    other = ".fp16" if variant is None else ""
    index = f"{UNET}.safetensors.index{middle}.json"
    shards = [f"{UNET}{middle}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    others = [f"{UNET}{other}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    others.append(f"{UNET}.safetensors.index{other}.json")
    names = [*shards, *others, index, "unet/config.json", "unet/below/config.json"]
    assert set(wanted_files(names, variant)) == {index, *shards, "unet/config.json"}


def test_what_the_hub_says_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> list[str]:
        raise OSError("401 Client Error.\nAccess is restricted.")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    with pytest.raises(CheckpointError, match="cannot be downloaded: 401 Client Error"):
        open_source("owner/name")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stabilityai/sd-turbo", True),
        ("a/b.c_d", True),
        ("owner", False),
        ("/owner/name", False),
        ("./name", False),
        ("../name", False),
        ("a/b/c", False),
        ("owner/..", False),
        ("owner\\name", False),
        ("", False),
    ],
)
def test_a_name_on_the_hub_is_an_owner_and_a_name(name: str, expected: bool) -> None:
    assert is_hub_name(name) is expected


def test_a_missing_path_is_no_name_on_the_hub(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        open_source("./missing")


def test_a_null_part_needs_no_files(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    index: dict[str, Any] = json.loads((cached / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    index["text_encoder_2"] = [None, None]
    (cached / "model_index.json").unlink()
    (cached / "model_index.json").write_text(json.dumps(index))
    assert open_source("owner/name").name == "name"

"""Diffusers folders in the shapes that writers give them, and what is not one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from latentrt.bundle.errors import CheckpointError
from latentrt.weights.checkpoint import HARMLESS, Checkpoint, canonical_name, listed_class

UNET = "diffusion_pytorch_model"


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of one's own, to damage."""
    return Path(shutil.copytree(checkpoint("heads"), tmp_path / "it"))


def stored(path: Path) -> dict[str, torch.Tensor]:
    """What the safetensors library reads."""
    return safetensors.torch.load_file(path)


def unet_of(folder: Path) -> dict[str, torch.Tensor]:
    return stored(folder / "unet" / f"{UNET}.safetensors")


def check_equal(found: Mapping[str, Any], expected: Mapping[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    assert len(found) == len(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), strict=True)


@pytest.fixture
def folder_xl(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """One of SDXL."""
    return Path(shutil.copytree(checkpoint("xl"), tmp_path / "it"))


def refused(path: Path, problem: str, call: Callable[[], object]) -> None:
    """Check that a call is refused because of that path and problem."""
    with pytest.raises(CheckpointError) as caught:
        call()
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in caught.value.problem


# Names.


def with_prefix(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


@pytest.mark.parametrize("prefixed", [False, True])
def test_a_text_encoders_names_bear_the_prefix_however_it_was_stored(
    folder: Path, prefixed: bool
) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    bare = {name.removeprefix("text_model."): t for name, t in stored(path).items()}
    canonical = {f"text_model.{name}": t for name, t in bare.items()}
    safetensors.torch.save_file(canonical if prefixed else bare, path)
    found = Checkpoint.open(folder).tensors("text_encoder")
    check_equal(found, canonical)
    said = "" if prefixed else "text encoder without the prefix 'text_model.'"
    assert found.renamed == said


@pytest.mark.parametrize("prefixed", [False, True])
def test_a_second_text_encoders_projection_is_beside_what_bears_the_prefix(
    folder_xl: Path, prefixed: bool
) -> None:
    # transformers 5 writes the prefix here, where it leaves it out in a CLIPTextModel.
    path = folder_xl / "text_encoder_2" / "model.safetensors"
    canonical = stored(path)
    assert canonical.pop("text_projection.weight").shape == (24, 40)
    assert all(name.startswith("text_model.") for name in canonical)
    projection = {"text_projection.weight": torch.ones(24, 40)}
    bare = {name.removeprefix("text_model."): t for name, t in canonical.items()}
    safetensors.torch.save_file({**projection, **(canonical if prefixed else bare)}, path)
    check_equal(Checkpoint.open(folder_xl).tensors("text_encoder_2"), {**projection, **canonical})


def test_only_a_text_encoders_names_are_prefixed(folder: Path) -> None:
    # A VAE's encoder begins with `encoder.` too.
    vae = folder / "vae" / f"{UNET}.safetensors"
    found = Checkpoint.open(folder).tensors("vae")
    check_equal(found, stored(vae))
    assert found.renamed == ""


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_a_vae_with_old_attention_names_is_read_as_diffusers_reads_it(folder: Path) -> None:
    path = folder / "vae" / f"{UNET}.safetensors"
    old = {}
    for name, tensor in stored(path).items():
        before, _, last = name.rpartition(".")
        for new, former in OLD.items():
            if before.endswith(f"attentions.0.{new}"):
                name = f"{before.removesuffix(new)}{former}.{last}"
        old[name] = tensor
    # Four layers, weight and bias, in the encoder and the decoder.
    assert sum(name.split(".")[-2] in OLD.values() for name in old) == 16
    safetensors.torch.save_file(old, path)
    diffusers: Any = AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False)
    found = Checkpoint.open(folder).tensors("vae")
    check_equal(found, diffusers.state_dict())
    assert found.renamed == "VAE with old attention names"


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("decoder.mid_block.attentions.0.query_norm.weight", "vae"),
        ("decoder.mid_block.attentions.0.to_q.weight", "vae"),
        ("decoder.query.weight", "vae"),
        ("down_blocks.0.attentions.0.query.weight", "unet"),
        ("encoder.layers.0.mlp.fc1.weight", "vae"),
        ("text_projection.weight", "text_encoder"),
        ("text_projection.weight", "text_encoder_2"),
        ("logit_scale", "text_encoder"),
    ],
)
def test_other_names_stay_as_they_are(name: str, component: str) -> None:
    assert canonical_name(name, component) == (name, "")


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_position_ids_are_known_to_be_harmless_under_either_name(
    prefix: str, component: str
) -> None:
    name, _ = canonical_name(f"{prefix}embeddings.position_ids", component)
    assert name in HARMLESS


def test_a_tensor_under_both_its_names_is_refused(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {with_prefix(name): t for name, t in stored(path).items()}
    tensors["encoder.layers.0.mlp.fc1.bias"] = torch.zeros(64)
    safetensors.torch.save_file(tensors, path)
    opened = Checkpoint.open(folder)
    refused(path, "fc1.bias' occurs twice", lambda: opened.tensors("text_encoder"))


# Files.


def test_tensors_are_what_the_library_reads(folder: Path) -> None:
    found = Checkpoint.open(folder).tensors("unet")
    expected = unet_of(folder)
    check_equal(found, expected)
    entry = found.entry("conv_in.weight")
    assert entry.shape == tuple(expected["conv_in.weight"].shape)
    assert entry.dtype == np.float32


def test_the_place_of_a_tensor_is_its_bytes_in_the_file_that_holds_it(folder: Path) -> None:
    expected = stored(folder / "text_encoder" / "model.safetensors")
    shard(folder, "text_encoder", None)
    found = Checkpoint.open(folder).tensors("text_encoder")
    files = set()
    for name, tensor in expected.items():
        place = found.place(with_prefix(name))
        files.add(place.path)
        assert place.entry == found.entry(with_prefix(name))
        stored_bytes = place.path.read_bytes()[place.entry.begin : place.entry.end]
        assert stored_bytes == tensor.numpy().tobytes()
    assert len(files) > 2


def shard(folder: Path, component: str, variant: str | None) -> None:
    """Write a component in shards, by the library it belongs to."""
    kind: Any = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}[component]
    model = kind.from_pretrained(folder / component, low_cpu_mem_usage=False)
    shutil.rmtree(folder / component)
    size = {"unet": "200KB", "text_encoder": "50KB"}[component]
    model.save_pretrained(folder / component, max_shard_size=size, variant=variant)
    assert len(list((folder / component).glob("*.safetensors"))) > 2


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_shards_written_by_the_library_are_one_component(
    folder: Path, component: str, variant: str | None
) -> None:
    opened = Checkpoint.open(folder)
    whole = opened.tensors(component)
    expected = {name: torch.from_numpy(whole[name].copy()) for name in whole}
    shard(folder, component, variant)
    check_equal(Checkpoint.open(folder, variant).tensors(component), expected)


def test_full_precision_is_preferred_to_a_variant(folder: Path) -> None:
    expected = unet_of(folder)
    half = {name: t.half() for name, t in expected.items()}
    safetensors.torch.save_file(half, folder / "unet" / f"{UNET}.fp16.safetensors")
    check_equal(Checkpoint.open(folder).tensors("unet"), expected)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "below/secret.safetensors",
        "..\\secret.safetensors",
        "C:secret.safetensors",
        "secret.bin",
        17,
        "secret\0.safetensors",
    ],
)
def test_a_shard_that_is_not_beside_its_index_is_refused(folder: Path, name: object) -> None:
    shutil.copy(folder / "unet" / f"{UNET}.safetensors", folder / "secret.safetensors")
    (folder / "unet" / f"{UNET}.safetensors").unlink()
    index = folder / "unet" / f"{UNET}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": name}}))
    opened = Checkpoint.open(folder)
    problem = f"names a shard {str(name)!r} that is not beside it"
    refused(index, problem, lambda: opened.tensors("unet"))


@pytest.mark.parametrize(
    "content",
    [{}, {"weight_map": None}, {"weight_map": ["a"]}],
    ids=["nothing", "null", "a list"],
)
def test_an_index_without_a_weight_map_is_refused(folder: Path, content: dict[str, Any]) -> None:
    (folder / "unet" / f"{UNET}.safetensors").unlink()
    index = folder / "unet" / f"{UNET}.safetensors.index.json"
    index.write_text(json.dumps(content))
    opened = Checkpoint.open(folder)
    refused(index, "has no weight_map", lambda: opened.tensors("unet"))


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard(folder, "unet", None)
    missing = min((folder / "unet").glob("*.safetensors"))
    missing.unlink()
    opened = Checkpoint.open(folder)
    refused(missing, "cannot be read: No such file", lambda: opened.tensors("unet"))


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / "unet" / f"{UNET}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    opened = Checkpoint.open(folder)
    refused(path, "is truncated", lambda: opened.tensors("unet"))


def test_a_missing_file_is_named(folder: Path) -> None:
    path = folder / "unet" / f"{UNET}.safetensors"
    path.unlink()
    refused(path, "is missing", lambda: Checkpoint.open(folder).tensors("unet"))


def test_a_missing_component_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    opened = Checkpoint.open(folder)
    refused(folder / "vae", "is missing", lambda: opened.tensors("vae"))
    refused(folder / "vae" / "config.json", "is missing", lambda: opened.config("vae"))


# Pickles.


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth"])
def test_pickled_weights_are_refused_with_how_to_convert_them(folder: Path, suffix: str) -> None:
    (folder / "unet" / f"{UNET}.safetensors").unlink()
    pickled = folder / "unet" / f"{UNET}{suffix}"
    torch.save({"conv_in.weight": torch.zeros(1)}, pickled)
    opened = Checkpoint.open(folder)
    refused(pickled, "runs code when it is loaded", lambda: opened.tensors("unet"))
    refused(pickled, "safetensors.torch.save_file", lambda: opened.tensors("unet"))


def test_pickled_weights_beside_safetensors_are_not_touched(folder: Path) -> None:
    (folder / "unet" / f"{UNET}.bin").write_bytes(b"not even a pickle")
    check_equal(Checkpoint.open(folder).tensors("unet"), unet_of(folder))


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth"])
def test_a_pickled_file_is_refused_with_how_to_convert_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v1-5{suffix}"
    path.write_bytes(b"\x80\x04.")
    refused(path, "safetensors.torch.save_file", lambda: Checkpoint.open(path))


def test_a_folder_with_a_pickled_file_is_refused_with_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "v1-5.ckpt").write_bytes(b"\x80\x04.")
    path = tmp_path / "v1-5.ckpt"
    refused(path, "safetensors.torch.save_file", lambda: Checkpoint.open(tmp_path))


# What is not a checkpoint.


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none"
    refused(path, "no such checkpoint folder", lambda: Checkpoint.open(path))


def test_a_single_file_is_not_a_folder(folder: Path) -> None:
    path = folder / "unet" / f"{UNET}.safetensors"
    refused(path, "a diffusers folder is expected", lambda: Checkpoint.open(path))


def test_a_folder_without_model_index_is_not_a_checkpoint(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    refused(folder, "it has no model_index.json", lambda: Checkpoint.open(folder))


MALFORMED = {
    "empty": (b"", "is not readable JSON"),
    "cut short": (b'{"a": ', "is not readable JSON"),
    "not text": (b"\xff\xfe\xfd", "is not readable JSON"),
    "nested without end": (b"[" * 100_000, "is not readable JSON"),
    "a list": (b"[]", "is not a JSON object"),
    "a string": (b'"x"', "is not a JSON object"),
    "null": (b"null", "is not a JSON object"),
}


@pytest.mark.parametrize("damage", MALFORMED)
def test_a_malformed_model_index_is_named(folder: Path, damage: str) -> None:
    content, problem = MALFORMED[damage]
    (folder / "model_index.json").write_bytes(content)
    refused(folder / "model_index.json", problem, lambda: Checkpoint.open(folder))


@pytest.mark.parametrize("damage", MALFORMED)
@pytest.mark.parametrize(
    ("component", "file"),
    [
        ("unet", "config.json"),
        ("scheduler", "scheduler_config.json"),
        ("tokenizer", "tokenizer_config.json"),
    ],
)
def test_a_malformed_config_is_named(folder: Path, component: str, file: str, damage: str) -> None:
    content, problem = MALFORMED[damage]
    (folder / component / file).write_bytes(content)
    opened = Checkpoint.open(folder)
    refused(folder / component / file, problem, lambda: opened.config(component))


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_config_is_the_files(folder: Path, component: str) -> None:
    expected = json.loads((folder / component / "config.json").read_text())
    assert Checkpoint.open(folder).config(component) == expected


@pytest.mark.parametrize(
    ("component", "file"),
    [("text_encoder_2", "config.json"), ("tokenizer_2", "tokenizer_config.json")],
)
def test_a_second_components_config_is_its_own(folder_xl: Path, component: str, file: str) -> None:
    expected = json.loads((folder_xl / component / file).read_text())
    first = component.removesuffix("_2")
    opened = Checkpoint.open(folder_xl)
    assert opened.config(component) == expected != opened.config(first)


def test_a_checkpoint_is_called_what_its_folder_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Checkpoint.open(folder).name == "it"
    monkeypatch.chdir(folder)
    assert Checkpoint.open(Path(".")).name == "it"


# The tokenizer.


def test_a_tokenizer_is_its_files_byte_for_byte(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").write_text('{"a": 0}')
    (folder / "tokenizer" / "notes.txt").write_text("not a tokenizer's")
    found = Checkpoint.open(folder).tokenizer()
    names = {"tokenizer.json", "tokenizer_config.json", "vocab.json"}
    assert found == {n: (folder / "tokenizer" / n).read_bytes() for n in names}


def test_a_second_tokenizers_files_are_its_own(folder_xl: Path) -> None:
    found = Checkpoint.open(folder_xl).tokenizer("tokenizer_2")
    where = folder_xl / "tokenizer_2"
    assert found == {
        n: (where / n).read_bytes() for n in ("tokenizer.json", "tokenizer_config.json")
    }
    assert found != Checkpoint.open(folder_xl).tokenizer("tokenizer")


@pytest.mark.parametrize(
    "files", [(), ("vocab.json",), ("merges.txt",), ("tokenizer_config.json",)]
)
def test_a_tokenizer_without_its_files_is_named(folder: Path, files: tuple[str, ...]) -> None:
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    for name in files:
        (folder / "tokenizer" / name).write_text("{}")
    opened = Checkpoint.open(folder)
    problem = "has neither tokenizer.json nor vocab.json and merges.txt"
    refused(folder / "tokenizer", problem, opened.tokenizer)


def test_a_vocabulary_and_merges_are_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).write_text("{}")
    assert "vocab.json" in Checkpoint.open(folder).tokenizer()


def test_a_class_may_be_listed_by_its_module() -> None:
    # As diffusers writes one that its library does not export itself.
    index = {"text_encoder": ["transformers.models.clip.modeling_clip", "CLIPTextModel"]}
    assert listed_class(index, "text_encoder") == "CLIPTextModel"
    with pytest.raises(ValueError, match="classes of transformers are supported"):
        listed_class({"text_encoder": ["transformersx", "CLIPTextModel"]}, "text_encoder")

"""Opening a bundle: what is whole opens, what is not is refused by name."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentrt.bundle import bundle as module
from latentrt.bundle.bundle import Bundle, file_sha256
from latentrt.bundle.errors import BundleError

WEIGHTS = "weights/unet.safetensors"


@pytest.fixture
def folder(bundle: Callable[[str], Path], tmp_path: Path) -> Path:
    """A bundle of one's own, to damage."""
    return Path(shutil.copytree(bundle("heads"), tmp_path / "it"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest's JSON in place."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def flip(path: Path, position: int) -> None:
    """Change one bit of a file, its size staying as it is."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def refused(folder: Path, path: Path, problem: str, **arguments: bool) -> None:
    """Check that a bundle is refused because of that file and problem."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder, **arguments)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in caught.value.problem


@pytest.mark.parametrize("verify", [False, True])
def test_an_untouched_copy_opens(folder: Path, verify: bool) -> None:
    opened = Bundle.open(str(folder), verify=verify)
    assert opened.path == folder
    assert set(opened.manifest.components) == {
        "text_encoder",
        "unet",
        "vae_decoder",
        "vae_encoder",
    }
    assert opened.graph("unet").is_file()
    assert opened.weights("unet") == folder / WEIGHTS
    assert opened.golden()["run/guidance_scale"].shape == (1,)


def test_the_manifest_lists_every_file_with_its_size_and_sha256(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert manifest["files"] == files


def test_file_sha256_tells_every_byte_read(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000  # 10 MB: more than a block
    (tmp_path / "x").write_bytes(content)
    told: list[int] = []
    assert file_sha256(tmp_path / "x", told.append) == hashlib.sha256(content).hexdigest()
    assert sum(told) == len(content)
    assert len(told) > 1


def test_a_bundle_opens_through_a_link_to_it(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder, target_is_directory=True)
    assert Bundle.open(folder.parent / "link").graph("unet") == folder / "unet.onnx"


def test_a_link_from_file_to_file_inside_is_followed(folder: Path) -> None:
    (folder / "unet.onnx").rename(folder / "elsewhere")
    (folder / "unet.onnx").symlink_to("elsewhere")
    Bundle.open(folder, verify=True)


def test_a_file_that_is_not_listed_does_not_count(folder: Path) -> None:
    (folder / "extra.onnx").write_text("x")
    opened = Bundle.open(folder, verify=True)
    with pytest.raises(BundleError, match=r"has no extra\.onnx"):
        opened.listed("extra.onnx")


# Files that are not what they were.


@pytest.mark.parametrize(
    "name", ["unet.onnx", WEIGHTS, "golden.safetensors", "tokenizer/tokenizer.json"]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, folder / name, "is listed in the manifest but missing")


def test_a_link_to_nothing_is_a_missing_file(folder: Path) -> None:
    (folder / "unet.onnx").unlink()
    (folder / "unet.onnx").symlink_to("nothing")
    refused(folder, folder / "unet.onnx", "missing")


def test_a_link_to_itself_is_a_missing_file(folder: Path) -> None:
    (folder / "unet.onnx").unlink()
    (folder / "unet.onnx").symlink_to("unet.onnx")
    refused(folder, folder / "unet.onnx", "missing")


def test_a_folder_in_place_of_a_file_is_named(folder: Path) -> None:
    size = (folder / "tokenizer").stat().st_size  # what a careless check would compare
    edit(folder, lambda m: m["files"].update(tokenizer={"size": size, "sha256": "0" * 64}))
    refused(folder, folder / "tokenizer", "is not a file")


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(module, "file_sha256", denied)
    with pytest.raises(BundleError, match="cannot be read: Permission denied"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["unet.onnx", WEIGHTS])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_changed_size_is_named_with_both_sizes(folder: Path, name: str, change: int) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes((content + b"\0")[: len(content) + change])
    size = len(content)
    refused(folder, path, f"has {size + change} bytes, the manifest says {size}")


@pytest.mark.parametrize("position", [0, 1000, -1])
@pytest.mark.parametrize("name", ["unet.onnx", "tokenizer/tokenizer.json", "golden.safetensors"])
def test_a_flipped_bit_in_a_small_file_is_found_at_opening(
    folder: Path, name: str, position: int
) -> None:
    flip(folder / name, position)
    refused(folder, folder / name, "has changed since export: its SHA-256 differs")


def test_a_flipped_bit_in_a_large_file_is_found_by_verify_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / WEIGHTS
    size = path.stat().st_size
    flip(path, size // 2)
    monkeypatch.setattr(module, "SMALL", size - 1)
    Bundle.open(folder)
    refused(folder, path, "SHA-256 differs", verify=True)
    monkeypatch.setattr(module, "SMALL", size)
    refused(folder, path, "SHA-256 differs")


def test_a_large_file_is_not_read_at_opening(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def recording(path: Path) -> str:
        read.append(path.relative_to(folder).as_posix())
        return file_sha256(path)

    monkeypatch.setattr(module, "file_sha256", recording)
    monkeypatch.setattr(module, "SMALL", (folder / WEIGHTS).stat().st_size - 1)
    Bundle.open(folder)
    assert WEIGHTS not in read
    assert "weights/vae.safetensors" in read


# Paths that lead outside.

ESCAPES = [
    "../x",
    "weights/../../x",
    "/etc/hostname",
    "..",
    "..\\x",
    "weights\\x",
    "\\\\host\\share",
    "C:/x",
    "C:x",
    "file:x",
    "",
    ".",
    "weights/\0",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_a_listed_path_that_leads_outside_is_refused(folder: Path, path: str) -> None:
    (folder.parent / "x").write_text("secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    edit(folder, lambda m: m["files"].update({path: {"size": 6, "sha256": digest}}))
    refused(folder, folder / "manifest.json", f"path {path!r} leads outside the bundle")


@pytest.mark.parametrize("field", ["graph", "weights"])
@pytest.mark.parametrize("path", ESCAPES)
def test_a_component_that_leads_outside_is_refused(folder: Path, path: str, field: str) -> None:
    edit(folder, lambda m: m["components"]["unet"].update({field: path}))
    refused(folder, folder / "manifest.json", f"path {path!r} leads outside the bundle")


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.json", WEIGHTS])
def test_a_link_that_leads_outside_is_refused_though_the_content_is_right(
    folder: Path, name: str
) -> None:
    outside = folder.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    refused(folder, folder / name, "leads outside the bundle")


def test_a_folder_linked_from_outside_is_refused(folder: Path) -> None:
    (folder / "weights").rename(folder.parent / "outside")
    (folder / "weights").symlink_to(folder.parent / "outside", target_is_directory=True)
    with pytest.raises(BundleError, match=r"weights/\w+\.safetensors: leads outside the bundle"):
        Bundle.open(folder)


@pytest.mark.parametrize("field", ["graph", "weights"])
def test_a_component_whose_file_is_not_listed_is_refused(folder: Path, field: str) -> None:
    (folder / "other").write_text("x")
    edit(folder, lambda m: m["components"]["unet"].update({field: "other"}))
    refused(folder, folder, "uses other, which its manifest does not list")


# Manifests that are not one.

MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "not text": b"\xff\xfe\xfd",
    "null": b"null",
    "a list": b"[]",
    "a string": b'"schema"',
    "a number": b"1",
    "an empty object": b"{}",
    "nested without end": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", MALFORMED)
def test_a_malformed_manifest_is_refused(folder: Path, damage: str) -> None:
    (folder / "manifest.json").write_bytes(MALFORMED[damage])
    refused(folder, folder / "manifest.json", "")


@pytest.mark.parametrize("schema", [0, 2, 4, "3", None])
def test_another_schema_version_is_refused_with_both_versions(folder: Path, schema: object) -> None:
    edit(folder, lambda m: m.update(schema=schema))
    path = folder / "manifest.json"
    problem = f"schema {schema}; this version reads schema 3: export the checkpoint again"
    refused(folder, path, problem)


FIELDS = (
    "schema",
    "family",
    "source",
    "dtype",
    "latent_channels",
    "vae_factor",
    "vae_scaling",
    "vae_shift",
    "sample_size",
    "prediction_type",
    "force_zeros_for_empty_prompt",
    "latents_mean",
    "latents_std",
    "inferred",
    "versions",
    "components",
    "storage",
    "islands",
    "files",
)


def test_the_fields_of_a_manifest_are_these(folder: Path) -> None:
    assert tuple(sorted(json.loads((folder / "manifest.json").read_text()))) == tuple(
        sorted(FIELDS)
    )


@pytest.mark.parametrize("field", FIELDS)
def test_a_manifest_without_a_field_is_refused_by_its_name(folder: Path, field: str) -> None:
    edit(folder, lambda m: m.pop(field))
    refused(folder, folder / "manifest.json", f"is malformed: '{field}'")


@pytest.mark.parametrize(
    "field", ["graph", "weights", "fingerprint", "inputs", "outputs", "config"]
)
def test_a_component_without_a_field_is_refused_by_its_name(folder: Path, field: str) -> None:
    edit(folder, lambda m: m["components"]["unet"].pop(field))
    refused(folder, folder / "manifest.json", f"is malformed: '{field}'")


Change = Callable[[dict[str, Any]], object]


def set_spec(field: str, value: object) -> Change:
    return lambda m: m["components"]["unet"]["inputs"][0].update({field: value})


WRONG: dict[str, Change] = {
    "files is a list": lambda m: m.update(files=[]),
    "files is null": lambda m: m.update(files=None),
    "a file is a number": lambda m: m["files"].update({"unet.onnx": 5}),
    "a size is text": lambda m: m["files"]["unet.onnx"].update(size="large"),
    "a size is infinite": lambda m: m["files"]["unet.onnx"].update(size=float("inf")),
    "a size is NaN": lambda m: m["files"]["unet.onnx"].update(size=float("nan")),
    "components is a list": lambda m: m.update(components=[]),
    "a component is text": lambda m: m["components"].update(unet="unet.onnx"),
    "a config is text": lambda m: m["components"]["unet"].update(config="x"),
    "inputs is a number": lambda m: m["components"]["unet"].update(inputs=3),
    "a dimension is not a symbol": set_spec("dims", ["Batch size"]),
    "a dimension is infinite": set_spec("dims", [float("inf")]),
    "a dimension is a list": set_spec("dims", [[1]]),
    "an unknown dtype": set_spec("dtype", "float31"),
    "one sample size": lambda m: m.update(sample_size=8),
    "three sample sizes": lambda m: m.update(sample_size=[8, 8, 8]),
    "a factor is text": lambda m: m.update(vae_factor="eight"),
    "a factor is infinite": lambda m: m.update(vae_factor=float("inf")),
    "a choice is a number": lambda m: m.update(force_zeros_for_empty_prompt=1),
    "a mean is a number": lambda m: m.update(latents_mean=0.5),
    "a mean is of three channels": lambda m: m.update(latents_mean=[0.0] * 3),
    "a deviation is text": lambda m: m.update(latents_std=["a", "b", "c", "d"]),
    "storage is a number": lambda m: m.update(storage=0.1),
    "what storing cost is text": lambda m: m["storage"].update(unet="little"),
    "storage of no component": lambda m: m["storage"].update(refiner=0.1),
    "islands is a list": lambda m: m.update(islands=["node"]),
    "an island is text": lambda m: m["islands"].update(unet="node"),
    "an island in no component": lambda m: m["islands"].update(refiner=["node"]),
    "versions is a list": lambda m: m.update(versions=["1"]),
    "inferred is a number": lambda m: m.update(inferred=1),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_manifest_with_a_field_of_another_kind_is_refused(folder: Path, wrong: str) -> None:
    edit(folder, WRONG[wrong])
    refused(folder, folder / "manifest.json", "is malformed: ")


def test_a_manifest_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    refused(folder, folder / "manifest.json", "cannot be read")


# Places that are not a bundle.


def test_no_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none", tmp_path / "none", "no such bundle folder")


def test_a_file_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", tmp_path / "file", "no such bundle folder")


def test_a_folder_without_a_manifest_is_not_a_bundle(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("heads")
    refused(folder, folder, "is not a bundle: it has no manifest.json")


# What a bundle gives.


def test_the_scheduler_config_is_the_checkpoints(
    folder: Path, checkpoint: Callable[[str], Path]
) -> None:
    path = checkpoint("heads") / "scheduler" / "scheduler_config.json"
    assert Bundle.open(folder).scheduler_config() == json.loads(path.read_text())


def test_a_vaes_statistics_are_numbers_by_channel(folder: Path) -> None:
    assert Bundle.open(folder).manifest.latents_mean is None
    edit(folder, lambda m: m.update(latents_mean=[1, -2.5, 0, 3], latents_std=[1, 2, 3, 4]))
    manifest = Bundle.open(folder).manifest
    assert (manifest.latents_mean, manifest.latents_std) == ((1, -2.5, 0, 3), (1, 2, 3, 4))
    assert manifest.to_json()["latents_mean"] == [1, -2.5, 0, 3]


@pytest.mark.parametrize(
    ("family", "forces"),
    [("stable-diffusion", True), ("stable-diffusion-xl", False), ("latent-consistency", False)],
)
def test_only_stable_diffusions_pipeline_forces_the_scheduler(
    folder: Path, family: str, forces: bool
) -> None:
    # `steps_offset` and `clip_sample`, in the constructor of diffusers' class of that name.
    edit(folder, lambda m: m.update(family=family))
    assert Bundle.open(folder).manifest.forces_scheduler is forces


def test_a_bundle_whose_scheduler_config_is_not_listed_says_so(folder: Path) -> None:
    edit(folder, lambda m: m["files"].pop("scheduler/scheduler_config.json"))
    with pytest.raises(BundleError, match=r"has no scheduler/scheduler_config\.json"):
        Bundle.open(folder).scheduler_config()


def test_a_bundle_without_goldens_says_how_that_came(folder: Path) -> None:
    edit(folder, lambda m: m["files"].pop("golden.safetensors"))
    opened = Bundle.open(folder)
    assert not opened.manifest.has_goldens
    with pytest.raises(BundleError, match="has no goldens: it was exported with --no-golden"):
        opened.golden()

"""Opening a bundle: what is whole opens, what is not is refused by name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.hub import snapshot

from latentrt.bundle import bundle as module
from latentrt.bundle.bundle import Bundle, file_sha256
from latentrt.bundle.errors import BundleError, WeightsError
from latentrt.bundle.tensors import TensorFile

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


# Links to files that are right, wherever those are.


def test_a_snapshot_of_a_hubs_cache_opens(folder: Path, tmp_path: Path) -> None:
    snap = snapshot(folder, tmp_path / "hub")
    opened = Bundle.open(snap, verify=True)
    assert opened.manifest == Bundle.open(folder).manifest
    assert opened.golden()["run/guidance_scale"].shape == (1,)
    assert opened.scheduler_config() == Bundle.open(folder).scheduler_config()


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.json", WEIGHTS, "weights", "manifest.json"])
def test_a_link_that_leads_outside_opens_if_the_content_is_right(folder: Path, name: str) -> None:
    outside = folder.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside, target_is_directory=outside.is_dir())
    Bundle.open(folder, verify=True)


def test_a_link_that_leads_outside_to_something_else_is_refused(folder: Path) -> None:
    (folder.parent / "outside").write_bytes(b"x" * (folder / "unet.onnx").stat().st_size)
    (folder / "unet.onnx").unlink()
    (folder / "unet.onnx").symlink_to(folder.parent / "outside")
    refused(folder, folder / "unet.onnx", "has changed since export: its SHA-256 differs")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["manifest.json", "unet.onnx", WEIGHTS])
@pytest.mark.parametrize("target", ["pipe", "/dev/zero"])
def test_a_link_to_a_pipe_or_device_is_refused_and_not_waited_for(
    folder: Path, name: str, target: str
) -> None:
    os.mkfifo(folder.parent / "pipe")
    (folder / name).unlink()
    (folder / name).symlink_to(folder.parent / target)
    edit_size = 0 if name == "manifest.json" else (folder / name).stat().st_size
    if name != "manifest.json":
        edit(folder, lambda m: m["files"][name].update(size=edit_size))
    refused(folder, folder / name, "is not a file")


def test_a_name_that_is_too_long_is_no_bundle() -> None:
    with pytest.raises(BundleError, match="no such bundle folder"):
        Bundle.open("x" * 300)


def test_tensors_are_not_awaited_from_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="pipe: cannot be read: is not a file"):
        TensorFile(tmp_path / "pipe")


@pytest.mark.parametrize("field", ["graph", "weights"])
def test_a_component_whose_file_is_not_listed_is_refused(folder: Path, field: str) -> None:
    (folder / "other").write_text("x")
    edit(folder, lambda m: m["components"]["unet"].update({field: "other"}))
    refused(folder, folder, "uses other, which its manifest does not list")


# Manifests that are not one.

MALFORMED: dict[str, bytes] = {
    "objects without end": b'{"a":' * 100_000,
    "a number without end": b'{"schema": ' + b"9" * 5000 + b"}",
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


@pytest.mark.parametrize(
    ("schema", "remedy"),
    [
        (0, "export the checkpoint again"),
        (2, "export the checkpoint again"),
        (4, "upgrade latentrt"),
    ],
)
def test_another_schema_version_is_refused_with_both_versions_and_what_to_do(
    folder: Path, schema: int, remedy: str
) -> None:
    edit(folder, lambda m: m.update(schema=schema))
    problem = f"schema {schema}; this version reads schema 3: {remedy}"
    refused(folder, folder / "manifest.json", problem)


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
        sorted((*FIELDS, "latent_rgb"))  # which older versions did not write
    )


@pytest.mark.parametrize("field", FIELDS)
def test_a_manifest_without_a_field_is_refused_by_its_name(folder: Path, field: str) -> None:
    edit(folder, lambda m: m.pop(field))
    refused(folder, folder / "manifest.json", f"is malformed: {field} is missing")


@pytest.mark.parametrize(
    "field", ["graph", "weights", "fingerprint", "inputs", "outputs", "config"]
)
def test_a_component_without_a_field_is_refused_by_its_name(folder: Path, field: str) -> None:
    edit(folder, lambda m: m["components"]["unet"].pop(field))
    problem = f"is malformed: components.unet.{field} is missing"
    refused(folder, folder / "manifest.json", problem)


Change = Callable[[dict[str, Any]], object]


def set_spec(field: str, value: object) -> Change:
    return lambda m: m["components"]["unet"]["inputs"][0].update({field: value})


def put(path: str, value: object) -> Change:
    """Change what is at a path such as "files/unet.onnx/size" with a bar for a slash in a name."""

    def change(manifest: dict[str, Any]) -> None:
        *above, last = (key.replace("|", "/") for key in path.split("/"))
        place: Any = manifest
        for key in above:
            place = place[int(key) if isinstance(place, list) else key]
        place[last] = value

    return change


# What is said of the field, and the change that makes it wrong.
WRONG: list[tuple[str, Change]] = [
    ("schema: expected a whole number", put("schema", "3")),
    ("schema: expected a whole number", put("schema", None)),
    ("schema: expected a whole number", put("schema", True)),
    ("family: expected one of", put("family", "stable-cascade")),
    ("family: expected one of", put("family", ["stable-diffusion"])),
    ("source: expected text, got 5", put("source", 5)),
    ("source: expected text", put("source", "\ud83d")),
    ("dtype: expected one of float32, float16, bfloat16", put("dtype", "float64")),
    ("latent_channels: expected a whole number from 1", put("latent_channels", 0)),
    ("latent_channels: expected a whole number from 1", put("latent_channels", 4.0)),
    ("latent_channels: expected a whole number from 1", put("latent_channels", 1 << 40)),
    ("latents is (batch, 4, height, width), which is not of", put("latent_channels", 16)),
    ("images is (batch, 3, height*8, width*8), which is not of", put("vae_factor", 4)),
    ("vae_factor: expected a whole number from 1 to 65536, got 0", put("vae_factor", 0)),
    ("vae_factor: expected a whole number", put("vae_factor", -8)),
    ("vae_factor: expected a whole number", put("vae_factor", "eight")),
    ("vae_factor: expected a whole number", put("vae_factor", float("inf"))),
    ("vae_scaling: expected a number other than 0", put("vae_scaling", 0)),
    ("vae_scaling: expected a finite number", put("vae_scaling", float("nan"))),
    ("vae_scaling: expected a finite number", put("vae_scaling", 10**400)),
    ("vae_scaling: expected a number", put("vae_scaling", True)),
    ("vae_shift: expected a finite number", put("vae_shift", float("-inf"))),
    ("sample_size: expected a list", put("sample_size", 8)),
    ("sample_size: expected a height and a width", put("sample_size", [8])),
    ("sample_size: expected a height and a width", put("sample_size", [8, 8, 8])),
    ("sample_size[1]: expected a whole number", put("sample_size", [8, -8])),
    ("prediction_type: expected text", put("prediction_type", None)),
    ("prompt: expected true or false, got 1", put("force_zeros_for_empty_prompt", 1)),
    ("latents_mean: expected a list", put("latents_mean", 0.5)),
    ("latents_mean: expected 4 numbers", put("latents_mean", [0.0] * 3)),
    ("latents_std[0]: expected a number", put("latents_std", ["a", "b", "c", "d"])),
    ("latents_std[3]: expected a number other than 0", put("latents_std", [1, 1, 1, 0])),
    ("storage: expected an object", put("storage", 0.1)),
    ("storage.unet: expected a number", put("storage", {"unet": "little"})),
    ("storage: expected names among", put("storage", {"refiner": 0.1})),
    ("islands: expected an object", put("islands", ["node"])),
    ("islands.unet: expected a list", put("islands", {"unet": "node"})),
    ("islands.unet[0]: expected text", put("islands", {"unet": [1]})),
    ("islands: expected names among", put("islands", {"refiner": ["node"]})),
    ("versions: expected an object", put("versions", ["1"])),
    ("versions.torch: expected text", put("versions/torch", 2.13)),
    ("inferred: expected a list", put("inferred", 1)),
    ("files: expected an object", put("files", [])),
    ("files: expected an object", put("files", None)),
    ("files.unet.onnx: expected an object", put("files/unet.onnx", 5)),
    ("files.unet.onnx.size: expected a whole number", put("files/unet.onnx/size", "large")),
    ("files.unet.onnx.size: expected a whole number", put("files/unet.onnx/size", -1)),
    ("files.unet.onnx.size: expected a whole number", put("files/unet.onnx/size", float("inf"))),
    ("files.unet.onnx.size: expected a whole number", put("files/unet.onnx/size", float("nan"))),
    ("files.unet.onnx.sha256: expected 64 hex", put("files/unet.onnx/sha256", "abc")),
    ("files.unet.onnx.sha256 is missing", put("files/unet.onnx", {"size": 1})),
    ("path '\\ud83d': expected text", put("files/\ud83d", {"size": 0, "sha256": "0" * 64})),
    ("components: expected an object", put("components", [])),
    ("components.text_encoder is missing", lambda m: m["components"].pop("text_encoder")),
    ("components.unet is missing", lambda m: m["components"].pop("unet")),
    ("components.vae_decoder is missing", lambda m: m["components"].pop("vae_decoder")),
    ("components.unet: expected an object", put("components/unet", "unet.onnx")),
    (
        "components.refiner: expected a component among",
        lambda m: m["components"].update(refiner=m["components"]["unet"]),
    ),
    ("components.unet.graph: expected text", put("components/unet/graph", 1)),
    ("components.unet.config: expected an object", put("components/unet/config", "x")),
    ("components.unet.inputs: expected a list", put("components/unet/inputs", 3)),
    ("components.unet.inputs: sample is missing", put("components/unet/inputs", [])),
    ("components.unet.inputs: sample is missing", set_spec("name", "samples")),
    (
        "components.unet.inputs: sample occurs twice",
        lambda m: m["components"]["unet"]["inputs"].append(m["components"]["unet"]["inputs"][0]),
    ),
    (
        "components.unet.inputs: there is no input 'mask'",
        lambda m: m["components"]["unet"]["inputs"].append(
            {"name": "mask", "dims": ["batch", 1], "dtype": "float32"}
        ),
    ),
    (
        "components.unet.inputs: time_ids has no fixed width",
        lambda m: m["components"]["unet"]["inputs"].append(
            {"name": "time_ids", "dims": ["batch", "height"], "dtype": "float32"}
        ),
    ),
    (
        "components.text_encoder_2 is missing",
        lambda m: m["components"]["unet"]["inputs"].append(
            {"name": "text_embeds", "dims": ["batch", 24], "dtype": "float32"}
        ),
    ),
    ("components.unet.outputs: model_output is missing", put("components/unet/outputs", [])),
    ("dims[0]: expected a number or a symbol", set_spec("dims", ["Batch size"])),
    ("dims[1]: expected a number or a symbol", set_spec("dims", ["batch", "height/0"])),
    ("dims[0]: expected a whole number", set_spec("dims", [float("inf")])),
    ("dims[0]: expected a whole number", set_spec("dims", [[1]])),
    ("dims[1]: expected a whole number", set_spec("dims", ["batch", -4])),
    ("sample has no axis 'batch' first", set_spec("dims", [])),
    ("sample has an axis 'depth'", set_spec("dims", ["batch", 4, "depth"])),
    ("dtype: expected one of float32, float16", set_spec("dtype", "float31")),
    ("dtype: expected one of float32, float16", set_spec("dtype", "object")),
    ("num_hidden_layers is missing", put("components/text_encoder/config", {"eos_token_id": 1})),
    (
        "config.eos_token_id: expected a whole",
        put("components/text_encoder/config/eos_token_id", None),
    ),
    ("hidden_states.3 is missing", put("components/text_encoder/config/num_hidden_layers", 9)),
]


@pytest.mark.parametrize(("problem", "change"), WRONG, ids=[name for name, _ in WRONG])
def test_a_manifest_with_a_wrong_field_is_refused_by_its_name(
    folder: Path, problem: str, change: Change
) -> None:
    edit(folder, change)
    refused(folder, folder / "manifest.json", "is malformed: ")
    refused(folder, folder / "manifest.json", problem)


def test_a_key_given_twice_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"vae_factor": 8', '"vae_factor": 8, "vae_factor": 4'))
    refused(folder, path, "is malformed: 'vae_factor' occurs twice")


def test_a_manifest_that_is_too_large_is_not_read(folder: Path) -> None:
    with open(folder / "manifest.json", "r+b") as file:
        file.truncate(65 << 20)  # without using the disk
    refused(folder, folder / "manifest.json", "cannot be read: has 68157440 bytes")


def test_a_manifest_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    refused(folder, folder / "manifest.json", "cannot be read")


# Places that are not a bundle.


def test_a_missing_bundle_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none", tmp_path / "none", "no such bundle folder")


def test_a_file_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", tmp_path / "file", "no such bundle folder")


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path, "is not a bundle: it has no manifest.json")


def test_a_checkpoint_is_not_a_bundle(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("heads")
    refused(folder, folder, f"is a checkpoint, not a bundle; make one: latentrt export {folder}")


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


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b'"DDIM"', b"{", b"\xff", b"", b'{"a":1,"a":2}']
)
def test_a_scheduler_config_that_is_no_object_is_refused_by_name(
    folder: Path, content: bytes
) -> None:
    name = "scheduler/scheduler_config.json"
    (folder / name).write_bytes(content)
    record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(folder, lambda m: m["files"].update({name: record}))
    with pytest.raises(BundleError, match=r"scheduler_config\.json: is malformed"):
        Bundle.open(folder).scheduler_config()


def test_a_bundle_whose_scheduler_config_is_not_listed_says_so(folder: Path) -> None:
    edit(folder, lambda m: m["files"].pop("scheduler/scheduler_config.json"))
    with pytest.raises(BundleError, match=r"has no scheduler/scheduler_config\.json"):
        Bundle.open(folder).scheduler_config()


def test_a_bundle_without_goldens_says_why(folder: Path) -> None:
    edit(folder, lambda m: m["files"].pop("golden.safetensors"))
    opened = Bundle.open(folder)
    assert not opened.manifest.has_goldens
    with pytest.raises(BundleError, match="has no goldens: it was exported with --no-golden"):
        opened.golden()

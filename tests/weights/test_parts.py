"""Fingerprints of a checkpoint's parts: what changes a picture changes them, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentrt.bundle.bundle import Bundle
from latentrt.export.modules import described
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.families import family_of
from latentrt.weights.parts import open_parts

Folders = Callable[[str], Path]


@pytest.fixture
def folder(checkpoint: Folders, tmp_path: Path) -> Path:
    """A checkpoint to change."""
    return Path(shutil.copytree(checkpoint("heads"), tmp_path / "it"))


def change_config(folder: Path, component: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / component / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def fingerprints(folder: Path) -> dict[str, str]:
    source = Checkpoint.open(folder)
    parts = open_parts(source, family_of(source), described)
    return {name: part.fingerprint for name, part in parts.items()}


# Fields that change no shape: the tensors fit, and the picture would be another.
DECISIVE: dict[str, tuple[str, str, Any]] = {
    "heads": ("unet", "attention_head_dim", 2),
    "norm_eps": ("unet", "norm_eps", 1e-6),
    "norm_num_groups": ("unet", "norm_num_groups", 4),
    "freq_shift": ("unet", "freq_shift", 1),
    "act_fn": ("unet", "act_fn", "gelu"),
    "hidden_act": ("text_encoder", "hidden_act", "gelu"),
    "text heads": ("text_encoder", "num_attention_heads", 2),
    "vae groups": ("vae", "norm_num_groups", 4),
}


@pytest.mark.parametrize("field", DECISIVE)
def test_a_field_that_changes_values_but_no_shape_changes_the_fingerprint(
    checkpoint: Folders, folder: Path, field: str
) -> None:
    component, key, value = DECISIVE[field]
    change_config(folder, component, lambda c: c.update({key: value}))
    before, after = fingerprints(checkpoint("heads")), fingerprints(folder)
    assert {name for name in before if before[name] != after[name]} == {component}


def test_fields_that_decide_nothing_leave_the_fingerprint_that_a_manifest_has(
    bundle: Folders, folder: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        config.update(_diffusers_version="0.0.1", _name_or_path="elsewhere", sample_size=16)
        del config["freq_shift"]  # whose default is what it was

    change_config(folder, "unet", change)
    found = fingerprints(folder)
    components = Bundle.open(bundle("heads")).manifest.components
    written = {Path(c.weights).stem: c.fingerprint for c in components.values()}
    assert found == written

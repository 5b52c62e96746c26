"""Single files, checked as an export checks them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.original import sparse, whole

from latentrt.bundle.errors import CheckpointError
from latentrt.export.check import check


def test_a_single_file_passes_every_check_of_an_export(tmp_path: Path) -> None:
    path = sparse(tmp_path / "fox.safetensors", whole("sd15"))
    checked = check(path, tmp_path)
    assert checked.family.name == "stable-diffusion"
    assert checked.prediction_type == "epsilon"
    assert checked.sample_size == (64, 64)
    assert checked.scheduler["_class_name"] == "PNDMScheduler"
    # "a fox" in CLIP's vocabulary, as its own tokenizer in open_clip gives it.
    assert checked.tokenizers["text_encoder"]("a fox")[0, :4].tolist() == [49406, 320, 3240, 49407]
    assert any(note.startswith("architecture: sd15") for note in checked.notes)


def test_an_unknown_prediction_type_is_not_guessed(tmp_path: Path) -> None:
    path = sparse(tmp_path / "fox.safetensors", whole("sd2-base"))
    with pytest.raises(CheckpointError, match="its prediction type is not in the file"):
        check(path, tmp_path)

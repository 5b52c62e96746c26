"""Tags of LoRAs in a prompt, as web UIs read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentrt.bundle.errors import InputError
from latentrt.weights.lora.tags import LoraTag, lora_tags


@pytest.mark.parametrize(
    ("prompt", "text", "tags"),
    [
        ("a fox", "a fox", ()),
        ("a fox, <lora:ink:0.8>", "a fox,", (LoraTag("ink", 0.8, 0.8),)),
        ("<lora:ink>a fox", "a fox", (LoraTag("ink"),)),
        # The first number is the text encoders', the second the U-Net's.
        ("a <lora:ink:0.5:-1> fox", "a  fox", (LoraTag("ink", 0.5, -1.0),)),
        ("<lora:a:1><lora:b c:2> x", "x", (LoraTag("a", 1, 1), LoraTag("b c", 2, 2))),
        ("a <lora fox> and <hypernet:x:1>", "a <lora fox> and <hypernet:x:1>", ()),
    ],
)
def test_tags_are_taken_out_of_a_prompt(prompt: str, text: str, tags: tuple[LoraTag, ...]) -> None:
    assert lora_tags(prompt) == (text, tags)


@pytest.mark.parametrize("tag", ["<lora:ink:strong>", "<lora:ink:>", "<lora:ink:1:2:3>"])
def test_a_scale_that_is_no_number_names_the_tag(tag: str) -> None:
    with pytest.raises(InputError, match=tag):
        lora_tags(f"a fox {tag}")


@pytest.mark.parametrize("name", ["none", "../outside", "folder/ink"])
def test_a_file_that_is_not_in_the_folder_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "loras" / "folder").mkdir(parents=True)
    for path in ("outside.safetensors", "loras/folder/ink.safetensors"):
        (tmp_path / path).touch()
    with pytest.raises(InputError, match=name):
        LoraTag(name).open(tmp_path / "loras")


@given(st.text())
def test_a_prompt_without_a_tag_stays_as_it_is(prompt: str) -> None:
    if "<lora:" not in prompt:
        assert lora_tags(prompt) == (prompt, ())

"""Any change of a bundle's JSON is refused by an error of ours, or makes no difference."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz import errors_of_ours, fuzz

from latentrt.runtime.pipeline import Pipeline

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.sampled_from([0, -1, 1, 2, 8, 2**31, 2**63, 10**400])
    | st.floats()
    | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from(["batch", "height/0", "width*9999999999", "float64", "../x", "weights", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one's own, to damage."""
    return Path(shutil.copytree(bundle("heads"), tmp_path_factory.mktemp("mutated") / "it"))


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, but for what only PyTorch reads of a config."""
    if not isinstance(value, dict | list):
        return
    for key, below in value.items() if isinstance(value, dict) else enumerate(value):
        yield (key,)
        if key != "config" or "eos_token_id" in below:
            yield from ((key, *path) for path in paths(below))


def change(value: Any, path: tuple[Any, ...], *new: Any) -> None:
    """Replace what is at a path, or drop it."""
    *above, key = path
    for step in above:
        value = value[step]
    if new:
        (value[key],) = new
    else:
        del value[key]


def mutate(value: Any, data: st.DataObject) -> Any:
    """Drop or replace one value, anywhere in a document; its top stays an object."""
    path = data.draw(st.sampled_from(list(paths(value))))
    change(value, path, *data.draw(st.lists(_VALUES, max_size=1)))
    return value


def opens_or_is_refused(folder: Path) -> None:
    with errors_of_ours():
        Pipeline.open(folder, engine="onnxruntime").close()


def test_a_manifest_that_lacks_anything_opens_or_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    original = path.read_bytes()
    try:
        for place in paths(json.loads(original)):
            value = json.loads(original)
            change(value, place)
            path.write_text(json.dumps(value))
            opens_or_is_refused(folder)
    finally:
        path.write_bytes(original)


@fuzz(100)
@given(data=st.data())
def test_a_manifest_with_anything_in_it_opens_or_is_refused(
    folder: Path, data: st.DataObject
) -> None:
    path = folder / "manifest.json"
    original = path.read_bytes()
    try:
        path.write_text(json.dumps(mutate(json.loads(original), data)))
        opens_or_is_refused(folder)
    finally:
        path.write_bytes(original)


@fuzz(40)
@given(data=st.data())
@pytest.mark.parametrize(
    "name", ["scheduler/scheduler_config.json", "tokenizer/special_tokens.json"]
)
def test_a_small_file_with_anything_in_it_opens_or_is_refused(
    folder: Path, name: str, data: st.DataObject
) -> None:
    # With its right hash, as another exporter may have written it.
    path, manifest = folder / name, folder / "manifest.json"
    originals = {p: p.read_bytes() for p in (path, manifest)}
    try:
        value: Any = json.loads(originals[path])
        value = mutate(value, data) if data.draw(st.booleans()) else data.draw(_VALUES)
        content = json.dumps(value).encode()
        path.write_bytes(content)
        listed = json.loads(originals[manifest])
        record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        listed["files"][name] = record
        manifest.write_text(json.dumps(listed))
        opens_or_is_refused(folder)
    finally:
        for original, content in originals.items():
            original.write_bytes(content)

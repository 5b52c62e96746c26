"""Any change of a bundle's JSON is refused by an error of ours, or makes no difference."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentrt.bundle.errors import InternalError, LatentrtError
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


def mutate(value: Any, data: st.DataObject) -> Any:
    """Drop or replace one value, anywhere in a document; its top stays an object."""
    place, depth = value, data.draw(st.integers(0, 5))
    while True:
        keys: Any = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        below = place[key]
        if depth == 0 or not isinstance(below, dict | list) or not below:
            break
        place, depth = below, depth - 1
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(_VALUES)
    return value


def opens_or_is_refused(folder: Path) -> None:
    try:
        Pipeline.open(folder, engine="onnxruntime").close()
    except InternalError:  # what nobody foresaw
        raise
    except LatentrtError:
        pass


@settings(max_examples=150)
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


@settings(max_examples=40)
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

"""A bundle whose files are links draws with every engine what it draws without."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.hub import snapshot

from latentrt.bundle.bundle import Bundle
from latentrt.engines.engine import Blueprint
from latentrt.engines.openvino.options import OpenVinoOptions
from latentrt.engines.registry import backend
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.request import Request
from latentrt.runtime.sampling import Sampling


def draw(folder: Path, engine: str, cache: Path) -> NDArray[np.uint8]:
    """The picture of one request."""
    with Pipeline.open(folder, engine=engine, options={"threads": 1}, cache=cache) as pipeline:
        request = Request("a red circle", seed=3, sampling=Sampling(steps=2))
        return np.asarray(pipeline(request).images[0])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_linked_bundles_draw_what_the_bundle_draws(
    bundle: Callable[[str], Path], tmp_path: Path, engine: str
) -> None:
    plain, place = bundle("heads"), tmp_path / "Bündel"
    place.mkdir()
    expected = draw(plain, engine, tmp_path / "cache")
    hub, entries, whole = snapshot(plain, place / "hub"), place / "entries", place / "whole"
    entries.mkdir()
    for path in plain.iterdir():
        (entries / path.name).symlink_to(path, target_is_directory=path.is_dir())
    whole.symlink_to(plain, target_is_directory=True)
    for folder in (hub, entries):
        assert np.array_equal(draw(folder, engine, place / f"{folder.parent.name} cache"), expected)
    for folder in (hub, entries, whole):  # with the engines of the plain one
        assert np.array_equal(draw(folder, engine, tmp_path / "cache"), expected)


def test_openvino_copies_linked_weights_where_it_can_make_no_hard_link(
    bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    outputs: list[NDArray[np.float32]] = []
    embeds = np.random.default_rng(0).standard_normal((1, 77, 32), dtype=np.float32)
    for folder in (bundle("heads"), snapshot(bundle("heads"), tmp_path)):
        opened = Bundle.open(folder)
        blueprint = Blueprint.of(opened, "text_encoder", {"batch": 1, "sequence": 77})
        engine = backend("openvino").compile(blueprint, OpenVinoOptions(threads=1))
        outputs.append(engine({"inputs_embeds": embeds})["last_hidden_state"])
        monkeypatch.setattr(os, "link", refuse)
    assert np.array_equal(outputs[0], outputs[1])

"""`latentrt inspect` of a bundle in 16 bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from latentrt.cli.inspect import describe, print_description

Bundles = Callable[[str], Path]


def test_inspect_shows_what_storing_the_weights_cost_and_which_nodes_are_in_float32(
    bundle: Bundles, capsys: pytest.CaptureFixture[str]
) -> None:
    source = bundle("xl-fp16")
    described = describe(source, verify=False)
    manifest = json.loads((source / "manifest.json").read_text())
    assert described["dtype"] == "float16"
    assert described["storage"] == manifest["storage"]
    assert set(manifest["storage"]) == set(described["components"])
    assert {c["islands"] for c in described["components"].values()} == {0}
    print_description(described)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["unet", str(manifest["storage"]["unet"])] in printed


def test_inspect_counts_the_nodes_of_an_island(bundle: Bundles, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle("xl-fp16"), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["islands"] = {"unet": ["one", "another"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    components = describe(folder, verify=False)["components"]
    assert components["unet"]["islands"] == 2
    assert components["vae_decoder"]["islands"] == 0

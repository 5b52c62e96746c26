"""README and docs/: their links lead somewhere, and their code and commands work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from latentrt.bundle.tensors import save_tensors
from latentrt.cli.app import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{page}.md" for page in ("engines", "guide", "tasks")),
]


def blocks(language: str) -> list[str]:
    """Every fenced block in this language of the pages for users."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [text for path in WITH_CODE for text in pattern.findall(path.read_text())]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_of_the_repository(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    inner = [target for target in targets if not target.startswith("http")]
    assert [t for t in inner if not (path.parent / t).exists()] == []


@pytest.mark.parametrize("code", blocks("python"))
def test_python_of_the_documents_runs(
    code: str,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    for name in ("my-model", "my-refiner", "build/shapes"):
        (tmp_path / name).symlink_to(bundle("heads"))
    for name in ("lighthouse", "harbour"):
        Image.new("RGB", (64, 64)).save(f"{name}.png")
    Image.new("L", (64, 64), 255).save("boat.png")
    save_tensors(tmp_path / "clay.safetensors", {"emb_params": np.ones((2, 32), np.float32)})
    exec(compile(code, "document", "exec"), {})


def test_commands_of_the_documents_have_their_options() -> None:
    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    lines = [line for text in blocks("") for line in text.splitlines()]
    called = [
        shlex.split(line, comments=True)[1:] for line in lines if line.startswith("latentrt ")
    ]
    assert called
    unknown = [
        (command, word)
        for command, *words in called
        for word in words
        if word.startswith("-") and word != "-"
        if word not in {o for p in commands[command].params for o in p.opts}
    ]
    assert unknown == []

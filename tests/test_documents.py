"""The Python of the README and of docs/ runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
WITH_CODE = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{page}.md" for page in ("engines", "guide", "image-to-image")),
]


def blocks(language: str) -> list[str]:
    """Every fenced block in this language of the pages for users."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [text for path in WITH_CODE for text in pattern.findall(path.read_text())]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_of_the_documents_runs(
    code: str,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    for name in ("my-model", "build/shapes"):
        (tmp_path / name).symlink_to(bundle("heads"))
    Image.new("RGB", (64, 64)).save("lighthouse.png")
    exec(compile(code, "document", "exec"), {})

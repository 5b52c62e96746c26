"""Where the cache is, by the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from platformdirs import user_cache_dir

from latentrt.bundle.cache_folder import cache_folder


def test_the_variable_names_the_folder_whatever_the_process_then_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTRT_CACHE", "relative")
    assert cache_folder() == tmp_path / "relative"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, ""])
def test_without_it_the_folder_is_the_users_own(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("LATENTRT_CACHE", raising=False)
    else:
        monkeypatch.setenv("LATENTRT_CACHE", value)
    assert cache_folder() == Path(user_cache_dir("latentrt"))

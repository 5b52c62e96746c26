"""Where the cache is, by the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from platformdirs import user_cache_dir

from latentrt.bundle.cache_folder import cache_folder
from latentrt.bundle.errors import InputError
from latentrt.engines.cache.cache import Cache


def test_the_variable_names_the_folder_whatever_the_process_then_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTRT_CACHE", "relative")
    assert cache_folder() == tmp_path / "relative"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("~", "home"),
        ("~/cache", "home/cache"),
        ("  ~/cache \n", "home/cache"),
        ("relative/../cache", "here/cache"),
        (" spaces inside ", "here/spaces inside"),
        ("./~", "here/~"),
    ],
)
def test_home_folders_are_expanded_and_spaces_around_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, folder: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("LATENTRT_CACHE", value)
    assert cache_folder() == tmp_path / folder
    if value == value.strip():
        assert Cache(value).path == tmp_path / folder


@pytest.mark.skipif(os.name == "nt", reason="needs the password database")
def test_the_home_folder_of_another_user_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    user = pwd.getpwall()[-1]
    monkeypatch.setenv("LATENTRT_CACHE", f"~{user.pw_name}/cache")
    assert cache_folder() == Path(os.path.normpath(user.pw_dir)) / "cache"
    monkeypatch.setenv("LATENTRT_CACHE", "~nobody-of-that-name/cache")
    with pytest.raises(InputError, match=r"cache: .*\(\$LATENTRT_CACHE\).*, got ~nobody-of-that"):
        cache_folder()


# Of a user whom nothing is known of, as `docker run --user` has it.
NOBODY = """
import os
from latentrt.bundle.cache_folder import cache_folder
from latentrt.bundle.errors import InputError
import platformdirs

os.setuid(12345)
os.environ.pop("HOME", None)
os.environ.pop("XDG_CACHE_HOME", None)
for value in ("", "~/cache", "/cache"):
    os.environ["LATENTRT_CACHE"] = value
    try:
        print(cache_folder())
    except InputError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root")
def test_without_any_home_folder_the_variable_is_named() -> None:
    command = [sys.executable, "-c", NOBODY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    for line in (first, second):
        assert line.startswith("cache: expected a folder ($LATENTRT_CACHE) that needs no home")
    assert third == "/cache"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_the_variable_the_cache_is_in_the_users_folder(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("LATENTRT_CACHE", raising=False)
    else:
        monkeypatch.setenv("LATENTRT_CACHE", value)
    assert cache_folder() == Path(user_cache_dir("latentrt"))

"""Timings of builds: whole whatever happens, and no reason for a build to fail."""

from __future__ import annotations

import threading
from pathlib import Path

from latentrt.engines.tensorrt.timing_cache import keep, recall


def test_of_builds_that_end_at_once_one_leaves_its_timings_whole(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "timings" / "a.cache"
    contents = [bytes([n]) * 100_000 for n in range(8)]
    begin = threading.Barrier(len(contents))
    failed: list[BaseException] = []

    def build(content: bytes) -> None:
        begin.wait(timeout=60)
        try:
            for _ in range(3):
                keep(path, content)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=build, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failed
    assert recall(path) in contents
    assert [p.name for p in path.parent.iterdir()] == ["a.cache"]


def test_timings_that_cannot_be_kept_or_read_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    keep(tmp_path / "file" / "a.cache", b"timings")
    assert recall(tmp_path / "file" / "a.cache") == b""

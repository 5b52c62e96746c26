"""How many cores this process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentrt.engines import processor


@pytest.mark.parametrize(
    ("siblings", "usable", "cores"),
    [
        ({0: "0", 1: "1"}, {0, 1}, 2),
        ({0: "0-1", 1: "0-1"}, {0, 1}, 1),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0, 1, 2, 3}, 2),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0, 2}, 1),
        ({}, {0, 1, 2}, 3),  # nothing tells
    ],
)
def test_two_threads_of_a_core_are_one(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    siblings: dict[int, str],
    usable: set[int],
    cores: int,
) -> None:
    for cpu, same in siblings.items():
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(same + "\n")
    monkeypatch.setattr(processor, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: usable, raising=False)
    assert processor.usable_cores() == cores
    assert processor.cpu_identity()["cores"] == str(cores)

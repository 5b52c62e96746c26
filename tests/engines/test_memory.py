"""How much memory there is: of the machine, and of control groups of either version."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from latentrt.engines.memory import available_memory, drop_pages

GB = 2**30


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n"


def test_the_machine_says_what_is_available(tmp_path: Path) -> None:
    assert available_memory(written(tmp_path, {"proc/meminfo": MEMINFO})) == 16 * GB


def test_a_group_of_the_second_version_limits_it_by_what_is_left(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/memory.max": f"{8 * GB}\n",
        "sys/fs/cgroup/a/memory.current": f"{3 * GB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon 7\ninactive_file {1 * GB}\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": f"{2 * GB}\n",
        "sys/fs/cgroup/a/b/memory.stat": "anon 7\n",
    }
    # 8 less 3, of which 1 are pages of files that can be dropped.
    assert available_memory(written(tmp_path, files)) == 6 * GB


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{4 * GB}\n",
        "sys/fs/cgroup/memory.current": f"{1 * GB}\n",
        "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
    }
    assert available_memory(written(tmp_path, files)) == 3 * GB


def test_a_group_of_the_first_version_limits_it_too(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/x"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "11:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n",
        f"{group}/memory.limit_in_bytes": f"{2 * GB}\n",
        f"{group}/memory.usage_in_bytes": f"{1 * GB}\n",
        f"{group}/memory.stat": "total_inactive_file 0\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
    }
    assert available_memory(written(tmp_path, files)) == 1 * GB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{1 * GB}\n",
        "sys/fs/cgroup/memory.current": f"{2 * GB}\n",
        "sys/fs/cgroup/memory.stat": "",
    }
    assert available_memory(written(tmp_path, files)) == 0


def test_without_any_source_available_memory_is_unknown(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    sizes, ours = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            ours = rest.endswith(str(path))
        elif ours and name == "Rss:":
            sizes.append(int(rest.split()[0]) * 1024)
    assert sizes
    return sum(sizes)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's maps")
def test_dropped_pages_of_a_mapped_file_leave_memory_and_read_the_same(tmp_path: Path) -> None:
    path, content = tmp_path / "two words.bin", bytes(range(256)) * 4096
    path.write_bytes(content)
    (tmp_path / "link").symlink_to(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:] == content
        assert resident(path) == len(content)
        drop_pages(tmp_path / "link")
        assert resident(path) == 0
        assert mapped[:] == content


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's maps")
def test_pages_that_may_have_been_written_to_are_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(8192))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:4] = b"mine"
        drop_pages(path)
        assert mapped[:4] == b"mine"

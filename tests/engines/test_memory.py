"""How much memory there is: of the machine, and of control groups of either version."""

from __future__ import annotations

from pathlib import Path

from latentrt.engines.memory import available_memory

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


def test_where_nothing_tells_it_is_unknown(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None

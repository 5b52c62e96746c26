"""How much memory a process may still take, and giving back what it has freed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_ROOT: Final = Path("/")
_UNLIMITED: Final = 2**60
"""Control groups of the first version state a number near 2**63 where there is no limit."""


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes that are free or can be freed, within the control group's limit; None if unknown.

    `root` is where `proc` and `sys` are.
    """
    found = [*_of_machine(root), *_of_groups(root)]
    return max(min(found), 0) if found else None


def give_back() -> None:
    """Have freed memory go back to the machine, where the C library keeps it."""
    gc.collect()
    trim = getattr(ctypes.pythonapi, "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def drop_pages(path: Path) -> None:
    """Take the pages of a mapped file out of this process's memory until they are read again.

    They stay in the machine's file cache for as long as there is room. Elsewhere than on Linux it
    does nothing.
    """
    if not hasattr(ctypes.pythonapi, "madvise"):
        return
    named = str(path.resolve())
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
        for line in lines:
            place, access, *rest = line.split(maxsplit=5)
            # What may be written to could have changed.
            if access.startswith("r--") and rest[-1] == named:
                first, last = (int(end, 16) for end in place.split("-"))
                size = ctypes.c_size_t(last - first)
                ctypes.pythonapi.madvise(ctypes.c_void_p(first), size, mmap.MADV_DONTNEED)


def _of_machine(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/meminfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                yield int(value.split()[0]) * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """What every group that this process is in has left; a parent's limit counts too."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        group = PurePosixPath(path or "/")
        for each in (group, *group.parents):
            inner = str(each).lstrip("/")
            if not kinds:
                names = ("memory.max", "memory.current", "inactive_file")
                yield from _left(root / "sys/fs/cgroup" / inner, names)
            elif "memory" in kinds.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                yield from _left(root / "sys/fs/cgroup/memory" / inner, names)


def _left(folder: Path, names: tuple[str, str, str]) -> Iterator[int]:
    """A group's limit less what is used of it, but for pages of files that can be dropped."""
    limit, used, droppable = names
    with contextlib.suppress(OSError, ValueError):
        most = int((folder / limit).read_text("utf-8"))  # "max" is no number
        taken = int((folder / used).read_text("utf-8"))
        stated = (folder / "memory.stat").read_text("utf-8").splitlines()
        files = sum(int(line.split()[1]) for line in stated if line.split()[:1] == [droppable])
        if most < _UNLIMITED:
            yield most - max(taken - files, 0)

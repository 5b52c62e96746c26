"""The CPU of this machine: its name, and how many cores this process may use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Final

_TOPOLOGY: Final = Path("/sys/devices/system/cpu")


def cpu_identity() -> dict[str, str]:
    """The CPU's name, the digest of its instruction sets, and how many CPUs may be used."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    flags = " ".join(sorted(facts.get("flags", facts.get("Features", "")).split()))
    return {
        "device": facts.get("model name") or platform.processor() or platform.machine(),
        "instruction sets": hashlib.sha256(flags.encode()).hexdigest()[:16],
        "cpus": str(len(_usable_cpus())),
        "cores": str(usable_cores()),
    }


def usable_cores() -> int:
    """How many cores have a CPU that this process may use; CPUs, where nothing tells of cores."""
    return len({_core_of(cpu) for cpu in _usable_cpus()})


def _usable_cpus() -> Collection[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else range(os.cpu_count() or 1)


def _core_of(cpu: int) -> str:
    """The CPUs of the same core, or the CPU itself."""
    try:
        return (_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text("utf-8")
    except OSError:
        return str(cpu)

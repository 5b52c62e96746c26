"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

STAT: Final = Path("/proc/stat")
_PACKAGES: Final = (
    "latentrt",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13-bindings",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "torch",
    "diffusers",
    "transformers",
)
"""Distributions: ONNX Runtime and TensorRT come in several."""
_FLAGS: Final = (
    *("avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16", "svei8mm", "sme"),
)
"""Of x86 and of ARM, as Linux spells them."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor, the flags that decide its speed, the cores to be had, and versions."""

    processor: str
    flags: tuple[str, ...]
    cores: int
    system: str
    python: str
    packages: dict[str, str]

    @staticmethod
    def here() -> Machine:
        """This one."""
        info = _cpu_info()
        flags = set(info.get("flags", info.get("Features", "")).split())  # x86, ARM
        return Machine(
            processor=info.get("model name", platform.processor() or "unknown"),
            flags=tuple(f for f in _FLAGS if f in flags),
            cores=_cores(),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            packages={name: v for name in _PACKAGES if (v := _version(name))},
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def load() -> list[float]:
    """The machine's load over 1, 5 and 15 minutes, where it is known: what others were doing."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else []


def busy(seconds: float = 2.0) -> float | None:
    """The share of the machine's cores that others use, measured for `seconds` of sleep.

    In [0, 1], of all cores, not only of those to be had; None where there is no /proc/stat.
    """
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None:
        return None
    idle, every = (late - early for early, late in zip(before, after, strict=True))
    return 1.0 - idle / every if every else None


def _ticks() -> tuple[int, int] | None:
    """Of all cores since the start of the machine: ticks without work, and all."""
    if not STAT.is_file():
        return None
    # user nice system idle iowait irq softirq steal; guests', which follow, are in user and nice.
    counts = [int(word) for word in STAT.read_text(encoding="utf-8").split("\n")[0].split()[1:9]]
    return counts[3] + counts[4], sum(counts)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}

"""Whether the CPU here has bf16, without which nothing that is computed in it can be held.

It is read from the processor's flags, not asked of the code under test.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import pytest

_FLAGS: Final = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is what Arm's processors call it


def _flags() -> set[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return set(value.split())
    return set()


HAS_BF16: Final = bool(_FLAGS & _flags())
needs_bf16: Final = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
PRECISIONS: Final = ("fp32", pytest.param("bf16", marks=needs_bf16))
"""What OpenVINO computes in on a CPU, for tests that compute."""

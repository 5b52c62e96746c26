"""The memory of a process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process after an evaluation; None where they are not known.

    `peak` is the most there ever was, with the pages of the bundle's files that were mapped; `own`
    is what it holds without those.
    """

    peak: int | None
    own: int | None

    @staticmethod
    def here() -> Memory:
        """This process's, where there is a /proc."""
        path = Path("/proc/self/status")
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        found = dict(re.findall(r"(VmHWM|RssAnon):\s+(\d+) kB", text))
        peak, own = (int(found[k]) * 1024 if k in found else None for k in ("VmHWM", "RssAnon"))
        return Memory(peak, own)

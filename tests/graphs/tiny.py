"""Trace the graphs of the tests' tiny checkpoints; `make graphs` does this last."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import CONFIGURATIONS, ROOT, TRACED, make_checkpoint


def main() -> None:
    wanted = [*CONFIGURATIONS, "ssd", "refiner"]  # other tasks have the graphs of these
    with tempfile.TemporaryDirectory() as name:
        folders = [make_checkpoint(Path(name) / each, each) for each in wanted]
        script = ROOT / "export" / "scripts" / "make_graphs.py"
        subprocess.run([sys.executable, script, "--out", TRACED, *folders], check=True)


if __name__ == "__main__":
    main()

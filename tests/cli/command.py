"""The command line in a process of its own, started as the installed script starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

LATENTRT = [
    sys.executable,
    "-c",
    "import sys\nfrom latentrt.cli.main import main\nsys.exit(main())",
]


def command(*arguments: object) -> list[str | bytes]:
    """The words of a command; bytes stay as they are."""
    return [*LATENTRT, *(a if isinstance(a, bytes) else str(a) for a in arguments)]


def latentrt(
    *arguments: object, environment: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a command and keep what it prints."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(command(*arguments), env=variables, check=False, **given)

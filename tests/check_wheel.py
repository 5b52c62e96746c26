"""Install the wheel alone in a fresh environment and run it there: `make check` does this last.

What it holds: the wheel contains every room, the base dependencies suffice for `latentrt doctor`,
and none of them brings in what only an export needs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_IN_BASE = ("torch", "onnx", "diffusers", "transformers")
INSTALLED = """
import importlib.util, sys
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Return what the command wrote to standard output; show everything and exit if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(
            f"{' '.join(map(str, command))}: exit status {done.returncode}\n"
            f"{done.stdout}{done.stderr}"
        )
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="latentrt-wheel-") as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
        (wheel,) = folder.glob("*.whl")

        venv.create(folder / "env", with_pip=True)
        binaries = folder / "env" / "bin"
        install = ("-m", "pip", "install", "-qq", "--disable-pip-version-check")
        run(binaries / "python", *install, wheel, "-c", ROOT / "constraints.txt", cwd=folder)

        run(binaries / "latentrt", "doctor", cwd=folder)
        found = run(binaries / "python", "-c", INSTALLED, *NOT_IN_BASE, cwd=folder).split()
        if found:
            sys.exit(f"{wheel.name}: the base installation brings in {', '.join(found)}")
        print(f"{wheel.name}: installs alone, doctor runs, none of {', '.join(NOT_IN_BASE)} needed")


if __name__ == "__main__":
    main()

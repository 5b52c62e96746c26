"""Install the wheel alone in a fresh environment and run it there: `make check` does this last.

What it holds: the wheel contains every room, each with its types; the base dependencies suffice for
`latentrt doctor`; with `[onnxruntime]` beside them, and nothing else, a picture comes out of an
exported bundle; and neither brings in what only an export needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("bundle", "graphs", "weights", "engines", "runtime", "export", "benchmarks", "cli")
NOT_IN_BASE = ("torch", "onnx", "diffusers", "transformers")
INSTALLED = """
import importlib.util, sys
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])
"""


# A program of a user's, with what a type checker is to find in it.
WRONG = """
from latentrt.runtime import Pipeline, Request

pipeline = Pipeline.open(3.5)
result: int = pipeline(Request("a red circle"))
Request(5, seed="x")
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


def size_of(folder: Path) -> int:
    """What the files below a folder take, in megabytes; pip itself, which is no part, left out."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return round(sum(p.stat().st_size for p in files if "pip" not in p.parts) / 1e6)


def check_types(wheel: Path, folder: Path, python: Path) -> None:
    """Exit unless a type checker finds the types of the installed wheel, and what is wrong."""
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [room for room in ROOMS if f"latentrt/{room}/py.typed" not in names]
    if missing:
        sys.exit(f"{wheel.name}: no py.typed in {', '.join(missing)}")
    if "latentrt/weights/clip_merges.xz" not in names:
        sys.exit(f"{wheel.name}: no clip_merges.xz")
    program = folder / "program" / "user.py"
    program.parent.mkdir()
    program.write_text(WRONG)
    settings = {"typeCheckingMode": "strict", "include": ["user.py"]}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    pyright = Path(sys.executable).parent / "pyright"
    command = (pyright, "--outputjson", "--pythonpath", python)
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False)
    found = {
        (entry["range"]["start"]["line"], entry.get("rule", ""))
        for entry in json.loads(done.stdout)["generalDiagnostics"]
    }
    expected = {(3, "reportArgumentType"), (4, "reportAssignmentType"), (5, "reportArgumentType")}
    if found != expected:
        sys.exit(f"{wheel.name}: a type checker finds {sorted(found)}, not {sorted(expected)}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="latentrt-wheel-") as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
        (wheel,) = folder.glob("*.whl")

        venv.create(folder / "env", with_pip=True)
        binaries = folder / "env" / "bin"
        install = ("-m", "pip", "install", "-qq", "--disable-pip-version-check")
        run(binaries / "python", *install, wheel, "-c", ROOT / "constraints.txt", cwd=folder)

        check_types(wheel, folder, binaries / "python")
        run(binaries / "latentrt", "doctor", cwd=folder)
        base = size_of(folder / "env")
        run(
            binaries / "python",
            *install,
            f"{wheel}[onnxruntime]",
            "-c",
            ROOT / "constraints.txt",
            cwd=folder,
        )
        here = Path(sys.executable).parent / "latentrt"
        run(here, "export", ROOT / "models" / "shapes", folder / "bundle", cwd=folder)
        prompt = "a large red circle on a blue background"
        run(binaries / "latentrt", "generate", folder / "bundle", prompt, cwd=folder)
        if not (folder / "out.png").is_file():
            sys.exit(f"{wheel.name}: generate wrote no picture")
        found = run(binaries / "python", "-c", INSTALLED, *NOT_IN_BASE, cwd=folder).split()
        if found:
            sys.exit(f"{wheel.name}: the installation brings in {', '.join(found)}")
        sizes = {"base_mb": base, "onnxruntime_mb": size_of(folder / "env")}
        if len(sys.argv) > 1:
            Path(sys.argv[1]).write_text(json.dumps(sizes, indent=1) + "\n")
        print(
            f"{wheel.name}: doctor runs on the base installation ({base} MB), generate with "
            f"[onnxruntime] ({sizes['onnxruntime_mb']} MB); none of {', '.join(NOT_IN_BASE)} needed"
        )


if __name__ == "__main__":
    main()

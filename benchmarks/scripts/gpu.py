"""Every GPU engine, built, verified, benchmarked and compared, in one run and one JSON file.

    python benchmarks/scripts/gpu.py [--bundle PATH ...] [--sd15] [--environment FOLDER ...]

Bundles of models/shapes in fp32 and fp16 are exported, or `--bundle` names others. Each command of
`latentrt` is a process of its own. An engine runs in the first environment whose `doctor` lists it
as usable: this one, then each `--environment`. A command that fails is kept with its last line, and
the next one runs. Without a GPU, or with `--cpu`, the CPU's engines are measured instead, which
shows that this script works. Exit status 0: everything passed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.narration import say
from latentrt.bundle.publish import write_file

ROOT: Final = Path(__file__).resolve().parents[2]
_MAIN: Final = "from latentrt.cli.main import main; main()"
_BAD_INPUT: Final = 2
_CPU: Final = ("openvino", "onnxruntime")


def run(python: str, *arguments: object, limit: float) -> dict[str, Any]:
    """A command of latentrt with `--json`: its exit status, its JSON, and its last line."""
    command = [python, "-c", _MAIN, *map(str, arguments), "--json"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, check=False,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"status": -1, "found": None, "message": str(error)}
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = None
    failed = done.returncode != 0
    message = lines[-1].strip() if failed and lines else ""
    return {"status": done.returncode, "found": found, "message": message}


def engines(pythons: Sequence[str], *, cpu: bool, limit: float) -> Iterator[dict[str, Any]]:
    """Every engine of the first environment where it is usable, or else of this one."""
    doctors = [run(python, "doctor", limit=limit)["found"] or {"engines": []} for python in pythons]
    for row in doctors[0]["engines"]:
        if (row["name"] in _CPU) != cpu:
            continue
        offers = [
            {**each, "python": python}
            for python, doctor in zip(pythons, doctors, strict=True)
            for each in doctor["engines"]
            if each["name"] == row["name"]
        ]
        yield next((each for each in offers if each["devices"] and not each["problem"]), offers[0])


def measured(
    bundle: Path, engine: dict[str, Any], precision: str, given: argparse.Namespace
) -> dict[str, Any]:
    """An engine's commands on a bundle in one precision, and whether all of them passed."""
    how = (bundle, "--engine", engine["name"], "--precision", precision)
    quick = ("--runs", given.runs, "--steps", given.steps)
    row: dict[str, Any] = {"engine": engine["name"], "precision": precision}
    for name, more in (("build", ()), ("compare", ()), ("bench", quick)):
        row[name] = run(engine["python"], name, *how, *more, limit=given.limit)
        if row[name]["status"] == _BAD_INPUT:  # not a precision of this bundle's dtype
            return {**row, "passed": True, "skipped": row[name]["message"]}
        state = row[name]["message"] or "passed"
        say(f"{bundle.name}, {engine['name']} {precision}, {name}: {state}")
    passed = all(row[name]["status"] == 0 for name in ("build", "compare", "bench"))
    return {**row, "passed": passed}


def bundles(given: argparse.Namespace) -> Iterator[Path]:
    """Those that are named, or exported ones."""
    if given.bundle:
        yield from given.bundle
        return
    wanted = [(ROOT / "models" / "shapes", "fp32"), (ROOT / "models" / "shapes", "fp16")]
    wanted += [("random:sd15", "fp16")] if given.sd15 else []
    for checkpoint, dtype in wanted:
        path = ROOT / "build" / f"{Path(str(checkpoint)).name.replace(':', '-')}-{dtype}"
        say(f"exporting {checkpoint} in {dtype}")
        options = ("--dtype", dtype, "--force")
        done = run(sys.executable, "export", checkpoint, path, *options, limit=given.limit)
        if done["status"] != 0:
            raise SystemExit(f"export of {checkpoint} failed: {done['message']}")
        yield path


def noise(limit: float) -> dict[str, Any]:
    """Whether PyTorch's CUDA numbers are the runtime's (see cuda_noise.py)."""
    script = Path(__file__).with_name("cuda_noise.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        encoding="utf-8",
        timeout=limit,
        check=False,
    )
    if done.returncode != 0:
        return {"found": False, "problem": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout)


def main() -> None:
    """Measure, print as it goes, and write the JSON after every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bundle", action="append", default=[], type=Path)
    parser.add_argument("--sd15", action="store_true", help="random:sd15 in fp16 too")
    parser.add_argument("--cpu", action="store_true", help="the CPU's engines, GPU or not")
    parser.add_argument("--engine", action="append", help="only this one; may be repeated")
    parser.add_argument("--environment", action="append", default=[], type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds of one command")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    pythons = [sys.executable]
    pythons += [str(folder.absolute() / "bin" / "python") for folder in given.environment]
    gpu = (run(sys.executable, "doctor", limit=given.limit)["found"] or {}).get("nvidia_gpu", {})
    cpu = given.cpu or not gpu.get("found")
    if cpu:
        say("the CPU's engines are measured, which shows that this script works and nothing else")
    name = "cpu" if cpu else re.sub(r"[^a-z0-9]+", "-", str(gpu["name"]).lower()).strip("-")
    folder = ROOT / ("build" if cpu else "benchmarks/results")
    path = given.json or folder / f"gpu-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    offered = list(engines(pythons, cpu=cpu, limit=given.limit))
    able = [each for each in offered if each["devices"] and not each["problem"]]
    if given.engine:
        able = [each for each in able if each["name"] in given.engine]
    found: dict[str, Any] = {
        "machine": Machine.here().to_json(),
        "gpu": gpu,
        "engines": offered,
        "noise": noise(given.limit),
        "rows": [],
        "passed": False,
    }
    for bundle in bundles(given):
        for engine in able:
            for precision in engine["precisions"]:
                row = measured(bundle, engine, precision, given)
                found["rows"].append({"bundle": bundle.name, **row})
                write_file(path, (json.dumps(found, indent=1) + "\n").encode())
    rows = found["rows"]
    agrees = not found["noise"]["found"] or found["noise"]["agrees"]
    found["passed"] = bool(rows) and all(row["passed"] for row in rows) and agrees
    write_file(path, (json.dumps(found, indent=1) + "\n").encode())
    say(f"{'passed' if found['passed'] else 'FAILED'}: {path}")
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()

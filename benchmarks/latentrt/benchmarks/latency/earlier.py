"""An earlier report, to compare a new one with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.latency.report import SCHEMA, Errors, Report
from latentrt.benchmarks.latency.workload import Workload
from latentrt.benchmarks.samples import Ratio, Samples
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime import Size

_MACHINE: Final = ("processor", "flags", "cores", "system", "python")
_GREW: Final = 1.1
"""How many times as large an error must be to be remarked: sums in another order differ."""
_CEILING: Final = 0.05
"""How far apart the machine's own speed must be to be remarked."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A report that `latentrt bench --json` printed.

    `task` is what must be equal for a comparison, `conditions` what else decides the speed;
    `ceilings` are the machine's own speed by what it is called.
    """

    path: Path
    rows: Mapping[str, Samples]
    task: Mapping[str, str]
    conditions: Mapping[str, str]
    ceilings: Mapping[str, float]
    errors: Errors

    @staticmethod
    def read(path: Path) -> Earlier:
        """From a file. Raises `FileError` for anything but a report of this schema."""
        try:
            value: Any = json.loads(path.read_bytes())
        except OSError as error:
            raise FileError(path, error.strerror or str(error)) from error
        except ValueError as error:
            raise FileError(path, f"is not JSON: {error}") from error
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA:
            problem = f"has schema {schema!r}, and this version compares {SCHEMA!r}"
            raise FileError(path, f"{problem}; measure again with `latentrt bench --json`")
        if value.get("kind") != "report":
            raise FileError(path, "is a sweep; only the report of one configuration is compared")
        try:
            waits = {f"throughput, {row['name']}": row for row in value["throughput"]}
            rows = {**value["rows"], **waits}
            return Earlier(
                path=path,
                rows={name: Samples.from_json(row) for name, row in rows.items()},
                task=_task(value["workload"]),
                conditions=_conditions(value),
                ceilings=_ceilings(value),
                errors=Errors.from_json(value["errors"]),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problem = f"is not a whole report: {type(error).__name__} {error}"
            raise FileError(path, problem) from error

    def check(self, workload: Workload) -> None:
        """Raise `InputError` for a workload that draws something else; opens its bundle."""
        manifest = Bundle.open(workload.bundle).manifest
        height, width = (n * manifest.vae_factor for n in manifest.sample_size)
        size = workload.request.size or Size(width, height)
        resolved = {**workload.to_json(), "source": manifest.source, "size": str(size)}
        for name, now in _task(resolved).items():
            if now != self.task[name]:
                raise InputError("compare", f"a report of {name} {now}", self.task[name])

    def ratios(self, report: Report) -> tuple[tuple[str, Ratio, str], ...]:
        """Of every row that both have; the remark says where a faster row's error grew."""
        pairs = ((name, self.rows.get(name), row) for name, row in report.compared.items())
        found = ((name, Ratio.of(then, now)) for name, then, now in pairs if then is not None)
        return tuple(
            (name, ratio, self._remark(name, ratio, report.errors)) for name, ratio in found
        )

    def differences(self, report: Report) -> tuple[str, ...]:
        """What else decides speed and is not the same, a line each."""
        value = report.to_json()
        now, ceilings = _conditions(value), _ceilings(value)
        changed = tuple(
            f"{name}: {self.conditions.get(name, 'unknown')}, now {now.get(name, 'unknown')}"
            for name in dict.fromkeys((*now, *self.conditions))
            if now.get(name) != self.conditions.get(name)
        )
        pace = tuple(
            f"{name}: {self.ceilings[name] / 1e9:.1f}, now {rate / 1e9:.1f}"
            for name, rate in ceilings.items()
            if name in self.ceilings and abs(rate / self.ceilings[name] - 1) > _CEILING
        )
        return *changed, *pace

    def _remark(self, row: str, ratio: Ratio, errors: Errors) -> str:
        then, now = self.errors.of(row), errors.of(row)
        if ratio.verdict != "faster" or then is None or now is None or now <= _GREW * then:
            return ""
        return f"its error grew from {self.errors.beside(row)} to {errors.beside(row)}"


def _task(workload: Any) -> dict[str, str]:
    request = workload["request"]
    return {
        "source": str(workload["source"]),
        "size": str(workload["size"]),
        "steps": str(request["sampling"]["steps"]),
        "guidance": f"{float(request['guidance']['scale']):g}",
    }


def _conditions(report: Any) -> dict[str, str]:
    work, machine = report["workload"], report["machine"]
    engines = {
        f"engine of {part}": f"{engine} {report['precisions'][part]}"
        for part, engine in report["engines"].items()
    }
    return {
        **engines,
        **{f"option {n}": str(v) for n, v in work["engine"].get("options", {}).items()},
        "weights": work["dtype"],
        "sampler": work["sampler"],
        "prompt": work["request"]["prompt"],
        **{name: _text(machine[name]) for name in _MACHINE},
        **{f"version of {name}": number for name, number in machine["packages"].items()},
    }


def _ceilings(report: Any) -> dict[str, float]:
    kinds = {"rate": "products of {}, GFLOP/s", "bandwidth": "copies beside {}, GB/s"}
    found = {
        f"the machine's {words.format(key)}": float(each[kind])
        for key, each in report["ceilings"].items()
        for kind, words in kinds.items()
        if each[kind] is not None
    }
    if not all(rate > 0 for rate in found.values()):
        raise ValueError("ceilings that are not above 0")
    return found


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)

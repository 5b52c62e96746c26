"""An earlier report, to hold a new one against."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.benchmarks.report import SCHEMA, Report
from latentrt.benchmarks.subject import Subject
from latentrt.benchmarks.verdict import Verdict, verdicts
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime import Size

_MACHINE = ("processor", "flags", "cores", "system", "python")


@dataclass(frozen=True, slots=True)
class Earlier:
    """What `latentrt bench --json` printed: the seconds of every run, and under which conditions.

    `task` is what was drawn, the same in whatever may be compared; `conditions` is everything else
    that decides how fast; `unstable` names the rows that had not settled.
    """

    path: Path
    runs: Mapping[str, Sequence[float]]
    task: Mapping[str, str]
    conditions: Mapping[str, str]
    unstable: Collection[str]

    @staticmethod
    def read(path: Path) -> Earlier:
        """From a file; raises `FileError` for one that is none, or of another schema."""
        try:
            value: Any = json.loads(path.read_bytes())
        except OSError as error:
            raise FileError(path, error.strerror or str(error)) from error
        except ValueError as error:
            raise FileError(path, f"is not JSON: {error}") from error
        found: object = value.get("schema") if isinstance(value, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if found != SCHEMA:
            problem = f"is no report of `latentrt bench`: schema {found!r}, not {SCHEMA!r}"
            raise FileError(path, problem)
        try:
            return Earlier(
                path=path,
                runs={row: _seconds(seconds) for row, seconds in value["runs"].items()},
                task=_task(value["subject"]),
                conditions=_conditions(value),
                unstable={name for name, row in value["rows"].items() if not row["stable"]},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"is no whole report of `latentrt bench`: {type(error).__name__} {error}"
            raise FileError(path, problem) from error

    def check(self, subject: Subject) -> None:
        """Raise `InputError` for a subject that draws something else; opens its bundle."""
        manifest = Bundle.open(subject.bundle).manifest
        height, width = (n * manifest.vae_factor for n in manifest.sample_size)
        size = subject.request.size or Size(width, height)
        asked = subject.to_json() | {"source": manifest.source, "size": str(size)}
        for what, now in _task(asked).items():
            if now != self.task[what]:
                raise InputError("compare", f"a report of {what} {now}", self.task[what])

    def verdicts(self, report: Report) -> tuple[Verdict, ...]:
        """On every row that both have."""
        unsettled = {name for name, row in report.rows.items() if not row.stable}
        return verdicts(report.runs, self.runs, unstable={*unsettled, *self.unstable})

    def differences(self, report: Report) -> tuple[str, ...]:
        """What decides speed and was another then, a line each."""
        now = _conditions(report.to_json())
        return tuple(
            f"{what}: {self.conditions.get(what, 'not said')}, now {now.get(what, 'not said')}"
            for what in dict.fromkeys((*now, *self.conditions))
            if now.get(what) != self.conditions.get(what)
        )


def _seconds(runs: Any) -> tuple[float, ...]:
    found = tuple(float(each) for each in runs)
    if not all(each > 0 for each in found):
        raise ValueError("seconds of a run that are not above 0")
    return found


def _task(subject: Any) -> dict[str, str]:
    request = subject["request"]
    return {
        "source": str(subject["source"]),
        "size": str(subject["size"]),
        "steps": str(request["sampling"]["steps"]),
        "guidance": f"{float(request['guidance']['scale']):g}",
    }


def _conditions(report: Any) -> dict[str, str]:
    subject, machine = report["subject"], report["machine"]
    return {
        **{
            f"engine of {component}": f"{engine} {report['precisions'][component]}"
            for component, engine in report["engines"].items()
        },
        **{
            f"option {name}": str(value)
            for name, value in subject["options"].items()
            if name != "precision"  # which the engines have resolved
        },
        "weights": subject["dtype"],
        "sampler": subject["sampler"],
        "prompt": subject["request"]["prompt"],
        **{name: _words(machine[name]) for name in _MACHINE},
        **{f"version of {name}": number for name, number in machine["packages"].items()},
    }


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]

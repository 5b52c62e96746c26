"""An earlier report, to hold a new one against."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.latency.goodput import Curve
from latentrt.benchmarks.latency.report import SCHEMA, Report, error_beside, error_of
from latentrt.benchmarks.latency.subject import Subject
from latentrt.benchmarks.latency.verdict import Verdict, goodputs, verdicts
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime import Size

_MACHINE: Final = ("processor", "flags", "cores", "system", "python")
_GREW: Final = 1.1
"""How many times as large an error has to be to be told: sums in another order differ a little."""
_UNSTEADY: Final = 0.05
"""By how much the machine's own speed may differ before that is told."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What `latentrt bench --json` printed: the seconds of every run, and under which conditions.

    `task` is what was drawn, the same in whatever may be compared; `conditions` is everything else
    that decides how fast; `ceilings` are what the machine itself reached, by words for them;
    `amounts` are how many requests there were of what was asked for; `unstable` names the rows that
    had not settled. `errors` and `psnr` are as the JSON has them.
    """

    path: Path
    runs: Mapping[str, Sequence[Sequence[float]]]
    arrivals: Sequence[Curve]
    task: Mapping[str, str]
    conditions: Mapping[str, str]
    ceilings: Mapping[str, float]
    amounts: Mapping[str, str]
    unstable: Collection[str]
    errors: Mapping[str, float | None]
    psnr: float | None

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
                runs={row: _seconds(runs) for row, runs in value["runs"].items()},
                arrivals=[Curve.from_json(curve) for curve in value["arrivals"]],
                task=_task(value["subject"]),
                conditions=_conditions(value),
                ceilings=_ceilings(value),
                amounts=_amounts(value),
                unstable={name for name, row in value["rows"].items() if not row["stable"]},
                errors={name: _number(error) for name, error in value["errors"].items()},
                psnr=_number(value["picture_psnr"]),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
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
        """On every row and goodput that both have; what is faster and farther off says so."""
        unsettled = {name for name, row in report.rows.items() if not row.stable}
        found = verdicts(report.runs, self.runs, unstable={*unsettled, *self.unstable})
        told = tuple(replace(each, error=self._grown(each, report)) for each in found)
        return *told, *goodputs(report.arrivals, self.arrivals)

    def _grown(self, verdict: Verdict, report: Report) -> str:
        """From where to where the error of a row grew that is faster; empty where it did not."""
        told = [(self.errors, self.psnr), (report.errors, report.picture_psnr)]
        then, now = (error_of(verdict.row, *each) for each in told)
        if verdict.word != "faster" or then is None or now is None or now <= _GREW * then:
            return ""
        before, after = (error_beside(verdict.row, *each) for each in told)
        return f"its error grew from {before} to {after}"

    def differences(self, report: Report) -> tuple[str, ...]:
        """What decides speed and was another then, a line each."""
        told = report.to_json()
        now, amounts, reached = _conditions(told), _amounts(told), _ceilings(told)
        changed = tuple(
            f"{what}: {self.conditions.get(what, 'not said')}, now {now.get(what, 'not said')}"
            for what in dict.fromkeys((*now, *self.conditions))
            if now.get(what) != self.conditions.get(what)
        )
        others = tuple(
            f"{what}: {self.amounts[what]}, now {amount}"
            for what, amount in amounts.items()
            if what in self.amounts and amount != self.amounts[what]
        )
        pace = tuple(
            f"{what}: {self.ceilings[what] / 1e9:.1f}, now {rate / 1e9:.1f}"
            f" ({rate / self.ceilings[what]:.2f} times)"
            for what, rate in reached.items()
            if what in self.ceilings and abs(rate / self.ceilings[what] - 1) > _UNSTEADY
        )
        return *changed, *others, *pace


def _seconds(runs: Any) -> tuple[tuple[float, ...], ...]:
    found = tuple(tuple(float(each) for each in run) for run in runs)
    if len({len(run) for run in found}) > 1:
        raise ValueError("runs that are not equally long")
    if not all(each > 0 for run in found for each in run):
        raise ValueError("seconds of a run that are not above 0")
    return found


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


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


def _ceilings(report: Any) -> dict[str, float]:
    """What the machine itself reached, by what that is told as."""
    kinds = {"rate": "products of {}, GFLOP/s", "bandwidth": "copies beside {}, GB/s"}
    found = {
        f"the machine's own {words.format(key)}": float(ceiling[kind])
        for key, ceiling in report["ceilings"].items()
        for kind, words in kinds.items()
        if ceiling[kind] is not None
    }
    if not all(rate > 0 for rate in found.values()):
        raise ValueError("ceilings that are not above 0")
    return found


def _amounts(report: Any) -> dict[str, str]:
    """Of what was served together and arrived at random, where that was asked for."""
    served = {str(row["requests"]) for row in report["served"]}
    waits = (curve["points"][0]["waits"] for curve in report["arrivals"])
    arrived = {f"{len(paths)} paths of {len(paths[0])}" for paths in waits}
    found = (("requests served together", served), ("requests of each rate", arrived))
    return {what: ", ".join(sorted(amounts)) for what, amounts in found if amounts}


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]

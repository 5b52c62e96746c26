"""`latentrt bench`: what it found as tables, and beside an earlier run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentrt.benchmarks.latency.earlier import Earlier
from latentrt.benchmarks.latency.report import Report
from latentrt.benchmarks.latency.sections import Section, compared, sections, used
from latentrt.benchmarks.latency.verdict import Verdict
from latentrt.benchmarks.peers.contest import Settings, against
from latentrt.benchmarks.peers.peers import REFERENCE
from latentrt.benchmarks.peers.standings import Standings
from latentrt.bundle.errors import InputError
from latentrt.cli.table import print_table
from latentrt.engines.registry import backend
from latentrt.runtime import Size


def peers(names: Sequence[str]) -> tuple[str, ...] | None:
    """The names of other libraries, None for "all"."""
    return None if "all" in names else tuple(names)


def device_of(engines: Mapping[str, str]) -> str:
    """Where others are to draw: "cpu" or "cuda", where the U-Net's engine does.

    Raises `InputError` for an engine of a device that no peer has.
    """
    name = engines["unet"]
    kind = backend(name).device
    if kind not in REFERENCE:
        expected = "an engine of a CPU or of an NVIDIA GPU, where there are peers (--against)"
        raise InputError("engine", expected, name)
    return kind


def contest(
    report: Report,
    bundle: Path,
    checkpoint: str | None,
    names: Sequence[str] | None,
    rounds: int,
    device: str,
) -> Standings:
    """The report's picture drawn in turns with other libraries; says how far it is.

    The sampler is DDIM, which all of them step alike; of what the report's engines were asked for
    only the number of threads and their `device` are kept. Raises what `against` raises.
    """
    request: Any = report.subject["request"]
    settings = Settings(
        Size.parse(report.subject["size"]),
        steps=request["sampling"]["steps"],
        prompt=request["prompt"],
        guidance_scale=request["guidance"]["scale"],
        threads=report.subject["options"].get("threads"),
        device=device,
    )
    return against(bundle, checkpoint, settings, names, rounds=rounds)


def print_standings(standings: Standings) -> None:
    """The contest's table, and what everybody in it had in common."""
    sampler, device = (standings.settings[name] for name in ("sampler", "device"))
    where = "" if device == "cpu" else f" on {device} (unverified)"
    print(f"\nin turns with others{where}, all by {sampler}, latentrt by a fixed set of engines")
    print(standings)


def print_report(report: Report) -> None:
    """Tables of all that was measured."""
    print(_title(report))
    for section in sections(report):
        _print(section)
    print(f"\nown: {report.own_share:.1%} of a picture is spent outside engines")
    for note in report.notes:
        print(f"note: {note}")


def print_verdicts(found: Iterable[Verdict], earlier: Earlier, report: Report) -> None:
    """Then beside now: how many times as fast it is, and what else is not the same."""
    _print(compared(found, str(earlier.path)))
    for line in earlier.differences(report):
        print(f"not the same: {line}")


def _title(report: Report) -> str:
    request: Any = report.subject["request"]
    sampling, guidance = request["sampling"], request["guidance"]
    return (
        f"{report.subject['source']}: {used(report)}, "
        f"{sampling['steps']} steps of {report.subject['sampler']}, "
        f"guidance {guidance['scale']:g}\n{report.machine.processor}, "
        f"{report.machine.cores} cores"
    )


def _print(section: Section) -> None:
    print(f"\n{section.title}")
    print_table(section.heads, section.rows, right=range(1, len(section.heads)))

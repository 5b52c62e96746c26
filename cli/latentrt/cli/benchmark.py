"""The work of `latentrt bench`: measures, prints, and writes files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from latentrt.benchmarks.latency.bench import BenchPlan, measure
from latentrt.benchmarks.latency.earlier import Earlier
from latentrt.benchmarks.latency.plot import write_html, write_png
from latentrt.benchmarks.latency.report import Report
from latentrt.benchmarks.latency.sweep import Grid, table
from latentrt.benchmarks.latency.sweep import sweep as measure_sweep
from latentrt.benchmarks.latency.tables import Table, comparison, tables, title
from latentrt.benchmarks.latency.workload import Workload
from latentrt.benchmarks.page import check_matplotlib
from latentrt.benchmarks.peers import measure as beside
from latentrt.benchmarks.peers.participants import Settings
from latentrt.benchmarks.peers.registry import REFERENCE
from latentrt.benchmarks.peers.results import Results
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, LatentrtError
from latentrt.cli.places import check_writable
from latentrt.cli.progress import Bars
from latentrt.cli.table import print_table
from latentrt.engines.registry import backend
from latentrt.runtime import Pipeline, Size


@dataclass(frozen=True, slots=True)
class Files:
    """Where a plot and a page are written; None: nowhere."""

    plot: Path | None
    html: Path | None

    def check(self) -> None:
        """Raise `Unavailable` or `InputError` before anything is measured."""
        for option, path in (("plot", self.plot), ("html", self.html)):
            if path is not None:
                check_matplotlib()
                check_writable(option, path)


@dataclass(frozen=True, slots=True)
class Peers:
    """What `--against` asks for."""

    against: tuple[str, ...]
    checkpoint: Path
    rounds: int

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of peers, None for all."""
        return None if "all" in self.against else self.against

    def check(self, workload: Workload) -> str:
        """The device that peers run on, "cpu" or "cuda"; raises for what cannot be measured."""
        with Pipeline.open(workload.bundle, **workload.engine) as pipeline:
            engine = pipeline.engines["unet"]
        device = backend(engine).device
        if device not in REFERENCE:
            expected = "an engine of a CPU or an NVIDIA GPU, where there are peers (--against)"
            raise InputError("engine", expected, engine)
        beside.check(
            workload.bundle, self.checkpoint, self.names, device=device, rounds=self.rounds
        )
        return device

    def measure(self, workload: Workload, report: Report, device: str) -> Results:
        """The report's image beside other libraries, latentrt by a fixed set of engines."""
        request: Any = report.workload["request"]
        settings = Settings(
            Size.parse(report.workload["size"]),
            steps=request["sampling"]["steps"],
            prompt=request["prompt"],
            guidance_scale=request["guidance"]["scale"],
            threads=workload.engine.get("options", {}).get("threads"),
            device=device,
        )
        return beside.measure(
            workload.bundle, self.checkpoint, settings, self.names, rounds=self.rounds
        )


def report(
    workload: Workload,
    plan: BenchPlan,
    files: Files,
    *,
    peers: Peers | None,
    compare: Path | None,
    as_json: bool,
) -> None:
    """Measure one configuration; raises `KeyboardInterrupt` once an interrupted report is out."""
    earlier = None if compare is None else Earlier.read(compare)
    if earlier is not None:
        earlier.check(workload)
    device = "" if peers is None else peers.check(workload)
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        found = measure(workload, plan, bars)
    results = None
    if peers is not None and not found.interrupted:
        try:
            results = peers.measure(workload, found, device)
        except KeyboardInterrupt:
            found = replace(found, interrupted=True)
        except LatentrtError as error:
            found = replace(found, notes=(*found.notes, f"against: {error}"))
    ratios = () if earlier is None else earlier.ratios(found)
    differences = () if earlier is None else earlier.differences(found)
    value = {
        **found.to_json(),
        "compare": {name: ratio.to_json() for name, ratio, _ in ratios},
        "differences": differences,
        "against": None if results is None else results.to_json(),
    }
    more: list[Table | str] = []
    if results is not None:
        heads, rows = results.table()
        more += [Table("beside other libraries", heads, tuple(rows)), *results.remarks()]
    if earlier is not None:
        more += [comparison(ratios, earlier.path.name), *(f"changed: {d}" for d in differences)]
    if as_json:
        print(json.dumps(value))
    else:
        _print_report(found, more)
    _write(found, files, more, value)
    if found.interrupted or (results is not None and results.interrupted):
        raise KeyboardInterrupt


def sweep(
    workload: Workload, grid: Grid, files: Files, *, runs: int, limit: float, as_json: bool
) -> None:
    """Measure a sweep; raises `KeyboardInterrupt` once an interrupted one is out."""
    source = Bundle.open(workload.bundle).manifest.source
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        found = measure_sweep(
            workload, grid, source, runs=runs, limit=limit, progress=bars.of("sweep")
        )
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        print(f"{source}: {found.machine.processor}, {found.machine.cores} cores")
        _print(table(found), right=range(1, 11))
    _write(found, files, [], found.to_json())
    if found.interrupted:
        raise KeyboardInterrupt


def _write(found: Any, files: Files, more: list[Table | str], value: Mapping[str, Any]) -> None:
    """Last: whatever becomes of files, what was measured is printed."""
    if files.plot is not None:
        write_png(found, files.plot)
    if files.html is not None:
        write_html(found, files.html, more=more, value=value)


def _print_report(found: Report, more: list[Table | str]) -> None:
    print(title(found))
    for part in (*tables(found), *more):
        if isinstance(part, str):
            print(part)
        else:
            _print(part, right=range(1, len(part.heads)))
    print(f"\nthe runtime outside engine calls: {found.runtime_share:.1%} of an image")
    for note in found.notes:
        print(f"note: {note}")


def _print(part: Table, *, right: range) -> None:
    print(f"\n{part.title}")
    print_table(part.heads, part.rows, right=right)

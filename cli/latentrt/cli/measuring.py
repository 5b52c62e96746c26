"""The command that measures speed: bench."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from latentrt.cli.options import (
    BundleArgument,
    ComponentOption,
    EngineOption,
    EngineOptionsOption,
    JsonOption,
    PrecisionOption,
)
from latentrt.cli.progress import Bars


def bench(
    bundle: BundleArgument,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    option: EngineOptionsOption = None,
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "a red circle",
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT in pixels. [default: the checkpoint's]")
    ] = None,
    steps: Annotated[int, typer.Option(help="Sampler steps.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="1 or less: none.")] = 7.5,
    sampler: Annotated[
        str | None, typer.Option(help="See `latentrt samplers`. [default: the checkpoint's]")
    ] = None,
    runs: Annotated[
        int, typer.Option(help="Pictures after warm-up, at the least, whatever they take.")
    ] = 20,
    limit: Annotated[
        float,
        typer.Option(
            help="Seconds of pictures after which, --runs being done, no more are drawn, their rows"
            " settled or not; and seconds that serving together may take."
        ),
    ] = 120.0,
    cold: Annotated[bool, typer.Option(help="Start from nothing too, in new processes.")] = True,
    ceilings: Annotated[bool, typer.Option(help="Measure what the machine can do.")] = True,
    batch: Annotated[
        str,
        typer.Option(
            help="U-Net rows of the calls that requests share, two of them a guided picture;"
            " 0: none."
        ),
    ] = "1,2,4,8",
    requests: Annotated[
        int | None,
        typer.Option(
            help="Requests that each batch size serves, whatever they take. [default: 16, or as"
            " many as --limit has time for]"
        ),
    ] = None,
    arrivals: Annotated[
        int,
        typer.Option(
            help="Requests of each rate of random arrivals, in six paths together, for each of two"
            " servers; all rates take about as long as 21 times as many pictures; 0: none."
        ),
    ] = 0,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw in turns with this library too, or with all; may be repeated. All sample by "
            "DDIM, on the device of --engine (NVIDIA: unverified), latentrt by a fixed set of its"
            " engines, whatever --engine and --component say otherwise."
        ),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="What the bundle was exported from, for --against.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns of everybody in --against.")] = 10,
    compare_with: Annotated[
        Path | None, typer.Option("--compare", help="An earlier report: a verdict on each row.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that needs nothing else.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast a bundle draws here, and how far that is from the limit."""
    from latentrt.benchmarks.latency.bench import Plan, measure
    from latentrt.benchmarks.latency.earlier import Earlier
    from latentrt.benchmarks.latency.plot import check_installed, write_html, write_png
    from latentrt.benchmarks.latency.subject import Subject
    from latentrt.benchmarks.notes import Notes
    from latentrt.benchmarks.peers.contest import check
    from latentrt.cli.bench import (
        contest,
        device_of,
        peers,
        print_report,
        print_standings,
        print_verdicts,
    )
    from latentrt.cli.places import check_writable
    from latentrt.cli.values import assignments, counts, engine_options
    from latentrt.runtime import Guidance, Request, Sampling, Size

    earlier = None if compare_with is None else Earlier.read(compare_with)
    others = peers(against or ())
    subject = Subject(
        bundle=bundle,
        engine=engine,
        precision=precision,
        options=engine_options("option", option or ()),
        components=assignments("component", component or ()),
        request=Request(
            prompt,
            seed=0,
            size=None if size is None else Size.parse(size),
            sampling=Sampling(sampler, steps=steps),
            guidance=Guidance(guidance_scale),
        ),
    )
    plan = Plan(
        runs=runs,
        limit=limit,
        cold=cold,
        ceilings=ceilings,
        batches=() if batch == "0" else counts("batch", batch),
        requests=requests,
        arrivals=arrivals,
    )
    # Before anything is measured: a report takes minutes.
    if earlier is not None:
        earlier.check(subject)
    for name, path in (("plot", plot), ("html", html)):
        if path is not None:
            check_installed()
            check_writable(name, path)
    device = "cpu"
    if against:
        with subject.open() as pipeline:
            device = device_of(pipeline.engines)
        check(bundle, checkpoint, others, device=device, rounds=rounds)
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        report = measure(subject, plan, bars)
    found = () if earlier is None else earlier.verdicts(report)
    differences = () if earlier is None else earlier.differences(report)
    notes = Notes(report.notes, interrupted=report.interrupted)
    standings = None
    if against:
        held = partial(contest, report, bundle, checkpoint, others, rounds, device)
        standings = notes.part("no contest", held, None)
        if standings is not None and standings.interrupted:
            notes.interrupt("in turns with others")
    report = replace(report, notes=notes.lines, interrupted=notes.interrupted)
    if as_json:
        told = {
            "verdicts": [verdict.to_json() for verdict in found],
            "differences": differences,
            "against": None if standings is None else standings.to_json(),
        }
        print(json.dumps({**report.to_json(), **told}))
    else:
        print_report(report)
        if standings is not None:
            print_standings(standings)
        if earlier is not None:
            print_verdicts(found, earlier, report)
    # Last: whatever becomes of files, the report is out.
    if plot is not None:
        write_png(report, plot)
    if html is not None:
        shown = "" if standings is None else str(standings)
        write_html(report, found, html, differences=differences, standings=shown)
    if report.interrupted:
        raise KeyboardInterrupt

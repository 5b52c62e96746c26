"""The command `latentrt bench`: one configuration in full, or a sweep over several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from latentrt.cli.options import (
    BundleArgument,
    ComponentOption,
    EngineOptionsOption,
    JsonOption,
    PrecisionOption,
)

_BATCHES: Final = "1,2,4"


def bench(
    bundle: BundleArgument,
    engine: Annotated[
        str, typer.Option(help="auto, or engines that `latentrt doctor` lists, with commas.")
    ] = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    option: EngineOptionsOption = None,
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "a red circle",
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT in pixels, several with commas. [default: the bundle's]"),
    ] = None,
    steps: Annotated[str, typer.Option(help="Sampler steps, several with commas.")] = "20",
    guidance_scale: Annotated[float, typer.Option(help="1 or less: none.")] = 7.5,
    sampler: Annotated[
        str | None, typer.Option(help="See `latentrt samplers`. [default: the checkpoint's]")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Images drawn together, several with commas; 0: none."
            f" [default: {_BATCHES}; in a sweep: 1]"
        ),
    ] = None,
    runs: Annotated[int, typer.Option(help="Warm images; in a sweep, batches.")] = 20,
    limit: Annotated[
        float, typer.Option(help="Seconds after which each part ends early, with fewer runs.")
    ] = 120.0,
    requests: Annotated[int, typer.Option(help="Requests served at each batch size.")] = 16,
    arrivals: Annotated[
        int, typer.Option(help="Requests at each rate of Poisson arrivals; 0: none.")
    ] = 0,
    cold: Annotated[bool, typer.Option(help="Measure cold starts, in new processes.")] = True,
    ceilings: Annotated[bool, typer.Option(help="Measure the machine's ceilings.")] = True,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure this peer too, or all; may be repeated. All draw in rounds, by DDIM."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The diffusers folder of the bundle, for --against.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of --against.")] = 10,
    compare: Annotated[Path | None, typer.Option(help="An earlier report of --json.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write an HTML page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, throughput and memory, with the error beside every speed.

    Several engines, sizes or steps are a sweep over all combinations, a row each.
    """
    from latentrt.benchmarks.latency.bench import BenchPlan
    from latentrt.benchmarks.latency.sweep import Grid
    from latentrt.benchmarks.latency.workload import Workload
    from latentrt.bundle.errors import InputError
    from latentrt.cli.benchmark import Files, Peers, report, sweep
    from latentrt.cli.bundles import bundle_of
    from latentrt.cli.values import assignments, counts, engine_options, size_of
    from latentrt.runtime import Guidance, Request, Sampling

    sizes = tuple(size_of("size", one) for one in size.split(",")) if size else (None,)
    grid = Grid(
        engines=tuple(engine.split(",")),
        sizes=sizes,
        steps=counts("steps", steps),
        batches=counts("batch", batch or "1"),
    )
    workload = Workload(
        bundle_of(bundle, quiet=as_json),
        {
            "engine": grid.engines[0],
            "precision": precision,
            "components": assignments("component", component or ()),
            "options": engine_options("option", option or ()),
        },
        Request(
            prompt,
            seed=0,
            size=grid.sizes[0],
            sampling=Sampling(sampler, steps=grid.steps[0]),
            guidance=Guidance(guidance_scale),
        ),
    )
    files = Files(plot, html)
    files.check()
    if grid.is_sweep:
        for name, value in (("against", against), ("compare", compare)):
            if value:
                raise InputError(name, "one engine, one size and one number of steps", "a sweep")
        sweep(workload, grid, files, runs=runs, limit=limit, as_json=as_json)
        return
    plan = BenchPlan(
        runs=runs,
        limit=limit,
        cold=cold,
        ceilings=ceilings,
        batches=() if batch == "0" else counts("batch", batch or _BATCHES),
        requests=requests,
        arrivals=arrivals,
    )
    peers = Peers(tuple(against), checkpoint or Path(), rounds) if against else None
    report(workload, plan, files, peers=peers, compare=compare, as_json=as_json)

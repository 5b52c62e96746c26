"""The command that compares engines with PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from latentrt.cli.options import (
    OUT_OF_TOLERANCE,
    ArenaOption,
    BundleArgument,
    ComponentOption,
    JsonOption,
    LevelOption,
    PrecisionOption,
    StreamsOption,
    StrippedOption,
    ThreadsOption,
)
from latentrt.cli.progress import Bars


def compare(
    bundle: BundleArgument,
    engine: Annotated[
        str, typer.Option(help="auto, one that `latentrt doctor` lists, or all that are verified.")
    ] = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    threads: ThreadsOption = None,
    streams: StreamsOption = None,
    arena: ArenaOption = True,
    level: LevelOption = 3,
    stripped: StrippedOption = False,
    layers: Annotated[bool, typer.Option("--layers", help="Every layer; needs PyTorch.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Ask PyTorch now; needs it.")] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Whose weights PyTorch takes: a checkpoint or a bundle. [default: BUNDLE]"
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="With --live: what to draw; may be repeated.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="With --live: the noise; may be repeated.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="With --live: Euler's steps.")] = None,
    size: Annotated[str | None, typer.Option(help="With --live: WIDTHxHEIGHT.")] = None,
    adherence: Annotated[
        int | None, typer.Option(help="models/shapes: pictures to judge by what was asked for.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with charts and pictures.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold engines against PyTorch's answers.

    Exit status 3: out of tolerance, or one of all engines failed.
    """
    from latentrt.cli.compare import Engines, Wanted, write_page
    from latentrt.cli.compare import compare as run
    from latentrt.cli.places import check_writable
    from latentrt.cli.report import print_findings
    from latentrt.cli.values import assignments
    from latentrt.engines.engine import Options
    from latentrt.runtime import Size

    options = Options(
        precision=precision,
        threads=threads,
        streams=streams,
        arena=arena,
        level=level,
        stripped=stripped,
    )
    engines = Engines(engine, options, assignments("component", component or ()))
    wanted = Wanted(
        layers=layers,
        live=live,
        checkpoint=checkpoint,
        prompts=prompt or (),
        seeds=seed or (),
        steps=steps,
        size=None if size is None else Size.parse(size),
        adherence=adherence,
    )
    if html is not None:
        check_writable("html", html)
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        findings = run(bundle, engines, wanted, bars)
    if html is not None:
        write_page(html, findings)
    if as_json:
        print(json.dumps(findings.to_json(several=engines.several), indent=2))
    else:
        print_findings(findings, several=engines.several)
    if not findings.passed:
        raise typer.Exit(OUT_OF_TOLERANCE)

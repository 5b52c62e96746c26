"""The compare command: how far engines are from PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from latentrt.cli.options import (
    OUT_OF_TOLERANCE,
    BundleArgument,
    ComponentOption,
    EngineOptionsOption,
    JsonOption,
    PrecisionOption,
)
from latentrt.cli.progress import Bars


def compare(
    bundle: BundleArgument,
    engine: Annotated[
        str, typer.Option(help="auto, an engine that `latentrt doctor` lists, or all.")
    ] = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    option: EngineOptionsOption = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare every layer too; needs PyTorch.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Compare with what PyTorch computes now; needs PyTorch.")
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="A checkpoint or bundle with PyTorch's weights. [default: BUNDLE]"),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="With --live: what to draw; may be repeated.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="With --live: the noise; may be repeated.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="With --live: steps of Euler's method.")] = None,
    size: Annotated[str | None, typer.Option(help="With --live: WIDTHxHEIGHT.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots and pictures.")] = None,
    clip: Annotated[
        Path | None,
        typer.Option(help="A CLIP's bundle: say how well the pictures fit their prompts."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare engines with PyTorch.

    Exit status 3: an error is out of tolerance, or one of all engines failed.
    """
    from latentrt.benchmarks.numerics.clip_scores import with_clip
    from latentrt.benchmarks.numerics.survey import EngineChoice, References, survey
    from latentrt.benchmarks.page import check_matplotlib
    from latentrt.bundle.bundle import Bundle
    from latentrt.bundle.publish import write_file
    from latentrt.cli.compare_tables import print_findings
    from latentrt.cli.places import check_writable
    from latentrt.cli.values import assignments, engine_options
    from latentrt.runtime import Clip, Size

    options = engine_options("option", option or ())
    asked = EngineChoice(engine, precision, options, assignments("component", component or ()))
    wanted = References(
        live=live,
        layers=layers,
        checkpoint=checkpoint,
        prompts=prompt or (),
        seeds=seed or (),
        steps=steps,
        size=None if size is None else Size.parse(size),
    )
    if html is not None:
        check_writable("html", html)
        check_matplotlib()
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        scorer = None if clip is None else Clip.open(clip)  # an error comes before the work
        findings = survey(Bundle.open(bundle), asked, wanted, bars)
    if scorer is not None:
        with scorer:
            findings = with_clip(findings, scorer)
    if html is not None:
        from latentrt.benchmarks.numerics.page import page

        write_file(html, page(findings).encode())
    if as_json:
        print(json.dumps(findings.to_json(), indent=2))
    else:
        print_findings(findings, several=asked.several)
    if not findings.passed:
        raise typer.Exit(OUT_OF_TOLERANCE)

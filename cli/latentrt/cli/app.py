"""Every command of `latentrt`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from latentrt.cli.bench import bench
from latentrt.cli.changing import diff, extract, merge
from latentrt.cli.compare import compare
from latentrt.cli.drawing import generate, samplers
from latentrt.cli.making import build, cache, export
from latentrt.cli.options import BAD_INPUT
from latentrt.cli.scoring import score
from latentrt.cli.serving import serve, triton
from latentrt.cli.telling import doctor, inspect

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    export,
    generate,
    samplers,
    inspect,
    build,
    cache,
    compare,
    score,
    bench,
    serve,
    triton,
    doctor,
    merge,
    diff,
    extract,
):
    app.command()(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"latentrt {version('latentrt')}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


@app.callback(invoke_without_command=True)
def latentrt(
    context: typer.Context,
    version: VersionOption = False,
) -> None:
    """Stable Diffusion in production without PyTorch."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(BAD_INPUT)


@contextmanager
def _warnings() -> Generator[None]:
    """Print the library's warnings in the form of errors."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("latentrt: %(message)s"))
    logger = logging.getLogger("latentrt")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def run(arguments: list[str]) -> int:
    """Run a command and return its exit status; raises what the command raises."""
    command = typer.main.get_command(app)
    try:
        with _warnings(), command.make_context("latentrt", arguments) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    return 0

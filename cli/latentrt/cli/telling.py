"""The commands that only report: inspect, doctor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.options import BAD_INPUT, JsonOption, VariantOption


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, or a diffusers folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file.")] = False,
    variant: VariantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a bundle or a checkpoint, and how that was inferred.

    For a checkpoint, it reports all that export would. Exit status 2: it cannot be exported.
    """
    from latentrt.cli.inspect import describe, print_description

    description = describe(path, verify=verify, variant=variant)
    if as_json:
        print(json.dumps(description, indent=2))
    else:
        print_description(description)
    if "problem" in description:
        print(f"latentrt: {description['problem']}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT)


def doctor(as_json: JsonOption = False) -> None:
    """Report which engines and devices work here, and which are unverified."""
    from latentrt.cli.doctor import diagnose, print_diagnosis

    diagnosis = diagnose()
    if as_json:
        print(json.dumps(diagnosis, indent=2))
    else:
        print_diagnosis(diagnosis)

"""The commands that say what there is: inspect, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.options import (
    JsonOption,
)


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, or a diffusers folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a bundle or checkpoint is, and how that was inferred."""
    from latentrt.cli.inspect import describe, print_description

    description = describe(path, verify=verify)
    if as_json:
        print(json.dumps(description, indent=2))
    else:
        print_description(description)


def doctor(as_json: JsonOption = False) -> None:
    """Say which engines and devices work here, and what is unverified."""
    from latentrt.cli.doctor import diagnose, print_diagnosis

    diagnosis = diagnose()
    if as_json:
        print(json.dumps(diagnosis, indent=2))
    else:
        print_diagnosis(diagnosis)

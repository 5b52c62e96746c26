"""The commands that only report: inspect, doctor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.options import BAD_INPUT, JsonOption, SyntaxOption, VariantOption
from latentrt.runtime.prompts.syntax import WEBUI, check_syntax


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, or a diffusers folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file.")] = False,
    variant: VariantOption = None,
    prompt: Annotated[
        str | None, typer.Option(help="Show how a bundle reads this prompt instead.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps that --prompt changes within.")] = 20,
    syntax: SyntaxOption = WEBUI,
    as_json: JsonOption = False,
) -> None:
    """Describe a bundle or a checkpoint, and how that was inferred.

    For a checkpoint, it reports all that export would. Exit status 2: it cannot be exported. With
    --prompt, it shows the tokens of a prompt, their weights, their chunks, and when they change.
    """
    if prompt is not None:
        from latentrt.cli.inspect_prompt import describe_prompt, print_prompt

        read = describe_prompt(path, prompt, steps=steps, syntax=check_syntax(syntax))
        if as_json:
            print(json.dumps(read, indent=2))
        else:
            print_prompt(read)
        return
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

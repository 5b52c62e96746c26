"""Arguments and options of several commands, and the exit statuses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BAD_INPUT, FAILURE, OUT_OF_TOLERANCE = 2, 1, 3

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder made by export.")]
EngineOption = Annotated[str, typer.Option(help="auto, or one that `latentrt doctor` lists.")]
PrecisionOption = Annotated[
    str, typer.Option(help="What engines compute in: fp32, fp16, bf16; auto: the engine's own.")
]
ComponentOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=ENGINE, =PRECISION or =ENGINE:PRECISION for one of the components."),
]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads of an engine call.")]
StreamsOption = Annotated[
    int | None, typer.Option(help="OpenVINO: calls at once; 1: no call in two halves.")
]
ArenaOption = Annotated[
    bool, typer.Option("--arena/--no-arena", help="Keep freed memory for the next call.")
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(help="Largest width times height. [default: by model and memory]"),
]
LevelOption = Annotated[int, typer.Option(help="TensorRT: 0 to 5, how hard to optimise.")]
StrippedOption = Annotated[
    bool, typer.Option("--stripped", help="TensorRT: plans that are stored without weights.")
]
VariantOption = Annotated[
    str | None,
    typer.Option(help="Weights files to read, such as fp16, of the parts that have them."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]

"""Arguments and options of several commands, and the exit statuses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BAD_INPUT, FAILURE, OUT_OF_TOLERANCE = 2, 1, 3

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle, or a checkpoint.")
]
EngineOption = Annotated[str, typer.Option(help="auto, or one that `latentrt doctor` lists.")]
PrecisionOption = Annotated[
    str, typer.Option(help="What engines compute in: fp32, fp16, bf16; auto: the engine's own.")
]
ComponentOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=ENGINE, =PRECISION or =ENGINE:PRECISION for one of the components."),
]
EngineOptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="NAME=VALUE: an engine's own, see `latentrt doctor`; may be repeated."
    ),
]
VerifyOption = Annotated[
    str,
    typer.Option(
        help="golden: one small engine for all sizes; full: each at its size; off: nothing."
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(help="Largest width times height. [default: by model and memory]"),
]
SyntaxOption = Annotated[
    str,
    typer.Option(help="How prompts are read: webui, with weights and any length; plain, as text."),
]
VariantOption = Annotated[
    str | None,
    typer.Option(help="Weights files to read, such as fp16, of the parts that have them."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
TextEncoderOption = Annotated[
    Path | None,
    typer.Option(help="A checkpoint whose text encoders a single file takes."),
]
ConfigsOption = Annotated[
    Path | None,
    typer.Option(help="A checkpoint whose configs and tokenizers a single file takes."),
]
PredictionTypeOption = Annotated[
    str | None,
    typer.Option(help="What a single file predicts: epsilon, v_prediction or sample."),
]
EmaOption = Annotated[
    bool, typer.Option("--ema", help="Read a single file's moving averages (model_ema).")
]

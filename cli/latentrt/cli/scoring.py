"""The score command: how well pictures fit a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.options import (
    ComponentOption,
    EngineOption,
    EngineOptionsOption,
    JsonOption,
    PrecisionOption,
    VerifyOption,
)


def score(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A CLIP that `latentrt export` made.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="The pictures.")],
    prompt: Annotated[str, typer.Option(help="What they should show.")],
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    option: EngineOptionsOption = None,
    verify: VerifyOption = "golden",
    as_json: JsonOption = False,
) -> None:
    """Measure how well pictures fit a text: the similarity by CLIP, from -1 to 1."""
    from latentrt.cli.table import print_table
    from latentrt.cli.values import assignments, engine_options, verify_of
    from latentrt.runtime import Clip
    from latentrt.runtime.pixels import read_pixels

    pictures = [read_pixels(path) for path in images]
    with Clip.open(
        bundle,
        engine=engine,
        precision=precision,
        options=engine_options("option", option or ()),
        components=assignments("component", component or ()),
        verify=verify_of(verify),
    ) as clip:
        found = clip(pictures, prompt)
    for note in found.notes:
        print(f"latentrt: note: {note}", file=sys.stderr)
    pairs = zip(map(str, images), found.cosine.tolist(), found.logits.tolist(), strict=True)
    rows = [{"file": file, "similarity": cosine, "logit": logit} for file, cosine, logit in pairs]
    if as_json:
        print(json.dumps({"prompt": prompt, "images": rows}, indent=2))
        return
    cells = [(r["file"], f"{r['similarity']:.4f}", f"{r['logit']:.2f}") for r in rows]
    print_table(("file", "similarity", "logit"), cells, right=(1, 2))

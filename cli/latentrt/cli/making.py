"""The commands that prepare: export, build, cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from latentrt.bundle.manifest import read_manifest
from latentrt.cli.options import (
    OUT_OF_TOLERANCE,
    BundleArgument,
    ComponentOption,
    EngineOption,
    EngineOptionsOption,
    JsonOption,
    MaxPixelsOption,
    PrecisionOption,
    VariantOption,
    VerifyOption,
)
from latentrt.cli.progress import Bars


def export(
    checkpoint: Annotated[str, typer.Argument(help="A folder, or random:sd15, :sd21, :sdxl.")],
    bundle: Annotated[Path, typer.Argument(help="The folder to make.")],
    dtype: Annotated[str, typer.Option(help="How weights are stored: fp32, fp16, bf16.")] = "fp32",
    variant: VariantOption = None,
    golden: Annotated[
        bool | None,
        typer.Option(
            help="Store PyTorch's outputs for compare. [default: where PyTorch traces the graphs]"
        ),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Trace graphs that ship with latentrt too.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a bundle.

    Graphs ship for Stable Diffusion 1, 2 and XL. PyTorch traces others, and makes goldens: pip
    install 'latentrt[export]'.
    """
    from latentrt.cli.export import ExportOptions, make

    with Bars(Console(stderr=True), quiet=as_json) as bars:
        make(checkpoint, bundle, ExportOptions(dtype, variant, golden, trace, force), bars)
    manifest = read_manifest(bundle)
    notes, golden = manifest.inferred, manifest.has_goldens
    if as_json:
        print(
            json.dumps({"bundle": str(bundle), "goldens": golden, "dtype": dtype, "notes": notes})
        )
        return
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if not golden:
        print("no goldens stored: `compare` needs them, or --live")
    print(bundle)


def build(
    bundle: BundleArgument,
    engine: EngineOption = "auto",
    size: Annotated[
        list[str] | None,
        typer.Option(help="WIDTHxHEIGHT; may be repeated. [default: the checkpoint's]"),
    ] = None,
    batch: Annotated[str, typer.Option(help="U-Net rows of a call, such as 1,2,4,8.")] = "1,2",
    decode_batch: Annotated[str, typer.Option(help="Pictures of a VAE decoder's call.")] = "1",
    control: Annotated[
        list[Path] | None,
        typer.Option(help="A ControlNet to draw under; may be repeated."),
    ] = None,
    chunks: Annotated[
        str, typer.Option(help="Chunks of 75 tokens that prompts have, such as 1,2.")
    ] = "1",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    option: EngineOptionsOption = None,
    verify: VerifyOption = "golden",
    target: Annotated[
        str | None, typer.Option(help="TensorRT: build for another GPU, such as sm89.")
    ] = None,
    max_pixels: MaxPixelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile, verify and store engines ahead. Exit status 3: one is out of tolerance."""
    from latentrt.cli.build import build as run
    from latentrt.cli.build import print_rows
    from latentrt.cli.bundles import bundle_of
    from latentrt.cli.values import assignments, counts, engine_options, verify_of
    from latentrt.runtime import Size

    options: dict[str, object] = {**engine_options("option", option or ())}
    if target is not None:
        options["target"] = target
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        rows = run(
            bundle_of(bundle, quiet=as_json),
            [Size.parse(text) for text in size or ()],
            counts("batch", batch),
            counts("decode-batch", decode_batch),
            counts("chunks", chunks),
            engine=engine,
            precision=precision,
            options=options,
            components=assignments("component", component or ()),
            progress=bars,
            max_pixels=max_pixels,
            verify=verify_of(verify),
            controls=control or (),
        )
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_rows(rows)
    if any(row["problem"] for row in rows):
        raise typer.Exit(OUT_OF_TOLERANCE)


def cache(
    remove: Annotated[bool, typer.Option("--remove", help="Remove everything.")] = False,
    limit: Annotated[
        str | None, typer.Option(help="Remove the longest unused beyond this, such as 5GB.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the compiled engines, bundles and changed weights that are stored; remove them."""
    from latentrt.cli.cache import manage, print_cache

    found = manage(remove=remove, limit=limit)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_cache(found)

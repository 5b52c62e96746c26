"""The commands that prepare: export, build, cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from latentrt.bundle.errors import CheckpointError, LatentrtError
from latentrt.bundle.manifest import FILE_NAME, read_manifest
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
from latentrt.weights.opening import open_source


def export(
    checkpoint: Annotated[str, typer.Argument(help="A folder, a file, org/name, or random:sd15.")],
    bundle: Annotated[Path, typer.Argument(help="The folder to make.")],
    dtype: Annotated[str, typer.Option(help="How weights are stored: fp32, fp16, bf16.")] = "fp32",
    variant: VariantOption = None,
    golden: Annotated[bool, typer.Option(help="Store PyTorch's outputs for compare.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a bundle. Needs PyTorch: pip install 'latentrt[export]'."""
    if (Path(checkpoint) / FILE_NAME).is_file():
        raise CheckpointError(checkpoint, "is a bundle already: `latentrt generate` takes it")
    if not checkpoint.startswith("random:"):
        open_source(checkpoint, variant)  # before PyTorch, which takes long to load
    from latentrt.export.libraries import quiet_libraries

    with quiet_libraries(), Bars(Console(stderr=True), quiet=as_json) as bars:
        bars("load", 0, 1)
        try:
            from latentrt.export.export import export as run
        except ImportError as error:
            problem = f"{error.name} is missing: pip install 'latentrt[export]'"
            raise LatentrtError(problem) from error
        bars("load", 1, 1)
        options: dict[str, Any] = {"dtype": dtype, "variant": variant, "golden": golden}
        run(checkpoint, bundle, **options, force=force, progress=bars)
    notes = read_manifest(bundle).inferred
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
    from latentrt.cli.values import assignments, counts, engine_options, verify_of
    from latentrt.runtime import Size

    options: dict[str, object] = {**engine_options("option", option or ())}
    if target is not None:
        options["target"] = target
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        rows = run(
            bundle,
            [Size.parse(text) for text in size or ()],
            counts("batch", batch),
            counts("decode-batch", decode_batch),
            engine=engine,
            precision=precision,
            options=options,
            components=assignments("component", component or ()),
            progress=bars,
            max_pixels=max_pixels,
            verify=verify_of(verify),
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
    """List the compiled engines that are stored, and remove them."""
    from latentrt.cli.cache import manage, print_cache

    found = manage(remove=remove, limit=limit)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_cache(found)

"""The commands that serve: serve, triton."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.options import (
    ComponentOption,
    EngineOption,
    EngineOptionsOption,
    MaxPixelsOption,
    PrecisionOption,
    VerifyOption,
)


def serve(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Bundles or checkpoints; the first is default."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: every one of the machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one, which is printed.")] = 7860,
    size: Annotated[
        list[str] | None,
        typer.Option(help="WIDTHxHEIGHT to compile at the start; may be repeated."),
    ] = None,
    other_sizes: Annotated[
        str, typer.Option(help="compile sizes that were not given, or refuse them.")
    ] = "compile",
    lora_dir: Annotated[
        Path | None, typer.Option(help="LoRAs that a prompt names as <lora:NAME:SCALE>.")
    ] = None,
    embedding_dir: Annotated[
        Path | None, typer.Option(help="Textual inversions that a prompt names.")
    ] = None,
    control_dir: Annotated[
        Path | None, typer.Option(help="ControlNets that a request names.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="API keys, one a line. [default: everybody may ask]")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A web site whose pages may ask, such as https://example.com."),
    ] = None,
    max_batch: Annotated[int, typer.Option(help="U-Net rows of a call, at most.")] = 8,
    queue: Annotated[int, typer.Option(help="Requests that wait, at most.")] = 64,
    max_steps: Annotated[int, typer.Option(help="Sampler steps of a request, at most.")] = 150,
    max_images: Annotated[int, typer.Option(help="Pictures of a request, at most.")] = 8,
    max_body: Annotated[int, typer.Option(help="Megabytes of a request, at most.")] = 64,
    deadline: Annotated[float, typer.Option(help="Seconds of a request, at most.")] = 3600.0,
    drain: Annotated[float, typer.Option(help="Seconds to finish in, after SIGTERM.")] = 60.0,
    model_memory: Annotated[
        float | None, typer.Option(help="Gigabytes of open models' weights. [default: any]")
    ] = None,
    root_path: Annotated[str, typer.Option(help="Path prefix of a proxy, such as /sd.")] = "",
    log: Annotated[str, typer.Option(help="text or json: a line for each request.")] = "text",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    option: EngineOptionsOption = None,
    verify: VerifyOption = "golden",
    max_pixels: MaxPixelsOption = None,
) -> None:
    """Serve pictures over HTTP: OpenAI's API, the web UI's, jobs, and a page at /.

    Needs: pip install 'latentrt[serve]'.
    """
    from latentrt.cli.serve import run
    from latentrt.cli.values import assignments, engine_options, verify_of
    from latentrt.runtime import Size
    from latentrt.serving.limits import Limits

    limits = Limits(
        pixels=max_pixels,
        steps=max_steps,
        images=max_images,
        body=max_body << 20,
        deadline=deadline,
        queued=queue,
        drawing=max_batch,
        drain=drain,
    )
    run(
        models,
        limits,
        host=host,
        port=port,
        root_path=root_path,
        folders=(lora_dir, embedding_dir, control_dir),
        key_file=api_key_file,
        origins=tuple(allow_origin or ()),
        sizes=[Size.parse(each) for each in size or ()],
        other_sizes=other_sizes,
        max_batch=max_batch,
        memory=None if model_memory is None else int(model_memory * (1 << 30)),
        log=log,
        pipeline={
            "engine": engine,
            "precision": precision,
            "options": engine_options("option", option or ()),
            "components": assignments("component", component or ()),
            "verify": verify_of(verify),
            "max_pixels": max_pixels,
        },
    )


def triton(
    model: Annotated[Path, typer.Argument(help="Bundle or checkpoint, as Triton will find it.")],
    folder: Annotated[Path, typer.Argument(help="The model repository to write into.")],
    name: Annotated[
        str | None, typer.Option(help="Triton's name of it. [default: its own]")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(help="WIDTHxHEIGHT to compile at the start; may be repeated."),
    ] = None,
    max_batch: Annotated[int, typer.Option(help="U-Net rows of a call, at most.")] = 8,
    queue: Annotated[int, typer.Option(help="Pictures in progress, at most.")] = 64,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Write a model repository for Triton's Python backend. Unverified: no Triton has run it."""
    from latentrt.runtime import Size
    from latentrt.serving.triton import write_repository

    place = write_repository(
        model,
        folder,
        name=name,
        engine=engine,
        precision=precision,
        sizes=[Size.parse(each) for each in size or ()],
        max_batch=max_batch,
        queue=queue,
    )
    print(place)

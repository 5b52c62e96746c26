"""The work of `latentrt generate`: a request becomes PNGs, with progress."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import FileError, InputError
from latentrt.bundle.publish import write_file
from latentrt.cli.progress import Bars
from latentrt.engines.engine import Options
from latentrt.runtime import Pipeline, Request, Result


def load_latents(path: Path) -> NDArray[np.float32]:
    """An array from a `.npy`; raises `FileError` if it is not one."""
    try:
        array: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FileError(path, f"is not a readable .npy: {error}") from error
    if not isinstance(array, np.ndarray):
        raise FileError(path, "is not a .npy of one array")
    return cast("NDArray[np.float32]", array)


def make(
    bundle: Path,
    request: Request,
    output: Path,
    *,
    save_latents: Path | None,
    engine: str,
    options: Options,
    components: Mapping[str, str],
    as_json: bool,
    max_pixels: int | None = None,
) -> None:
    """Run the request, write what it gave, and print where it is."""
    check_writable(output)
    if save_latents is not None:
        check_writable(save_latents)
    opened = Bundle.open(bundle)
    with Pipeline(opened, engine, options, components, max_pixels=max_pixels) as pipeline:
        with Bars(Console(stderr=True), quiet=as_json) as bars:
            result = _run(pipeline, request, bars)
        engines = dict(pipeline.engines)
    paths = result.save(output)
    if save_latents is not None:
        buffer = io.BytesIO()
        np.save(buffer, result.noise)
        write_file(save_latents, buffer.getvalue())
    for note in result.notes:
        print(f"latentrt: note: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(_summary(result, paths, engines), indent=2))
        return
    print(_line(result, engines["unet"]))
    for path in paths:
        print(path)


def check_writable(path: Path) -> None:
    """Make the folder of a file to come; raises `InputError` before any work is done in vain."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InputError("output", "a file", f"the folder {path}")
        write_probe(path)
    except OSError as error:
        got = f"{path} ({error.strerror})"
        raise InputError("output", "a place that can be written", got) from error


def write_probe(path: Path) -> None:
    """Create and remove a hidden neighbour of `path`; permissions alone do not tell."""
    probe = path.with_name(f".{path.name}.probe")
    probe.touch()
    probe.unlink()


def _run(pipeline: Pipeline, request: Request, bars: Bars) -> Result:
    bars("prepare", 0, 1)
    with pipeline.run(request, progress=bars.of("prepare")) as run:
        for step in run:
            done = step.image * step.total + step.index + 1
            note = f"step {step.index + 1}/{step.total}  sigma {step.sigma:.2f}"
            if request.num_images > 1:
                note = f"image {step.image + 1}/{request.num_images}  {note}"
            bars("denoise", done, step.total * request.num_images, note)
        return run.result()


def _line(result: Result, engine: str) -> str:
    seconds, request = result.seconds, result.request
    return (
        f"seed {request.seed}, {request.sampling.steps} steps of {result.sampler} on {engine}: "
        f"{seconds.total:.2f} s (compile {seconds.compile:.2f}, text {seconds.text:.2f}, "
        f"U-Net {seconds.unet:.2f}, VAE {seconds.vae:.2f})"
    )


def _summary(result: Result, paths: tuple[Path, ...], engines: dict[str, str]) -> dict[str, Any]:
    return {
        "files": [str(p) for p in paths],
        "request": result.request.to_json(),
        "sampler": result.sampler,
        "engines": engines,
        "seconds": asdict(result.seconds),
        "notes": list(result.notes),
    }

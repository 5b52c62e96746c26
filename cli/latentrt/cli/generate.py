"""The work of `latentrt generate`: draw a request's pictures, with progress."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import FileError, InputError
from latentrt.bundle.publish import write_file
from latentrt.cli.bundles import bundle_of
from latentrt.cli.places import STDOUT, Place, check_apart, check_writable, place
from latentrt.cli.previews import Previews, previews_of
from latentrt.cli.progress import Bars
from latentrt.engines.verification.verify import Verify
from latentrt.runtime import Pipeline, Request, Result
from latentrt.runtime.conversion.options import CheckpointOptions
from latentrt.runtime.variants import with_vae


def load_latents(path: Path) -> NDArray[np.float32]:
    """Latents from a `.npy`; raises `FileError` for any other file.

    The size in the file's header is checked before memory is allocated.
    """
    if not path.is_file():
        raise FileError(path, "is not a file" if path.exists() else "no such file")
    try:
        found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # any error of NumPy in a file that is not an array
        raise FileError(path, f"is not a readable .npy: {error}") from error
    if not isinstance(found, np.ndarray):
        raise FileError(path, "is a .npz; latents are a .npy of one array")
    mapped = cast("NDArray[Any]", found)
    if mapped.dtype != np.float32 or mapped.ndim != 4:
        held = f"holds {mapped.dtype} of shape {mapped.shape}"
        raise FileError(path, f"{held}; latents are float32 [n, channels, height, width]")
    return np.array(mapped)


def make(
    bundle: Path,
    request: Request,
    output: Path | None,
    *,
    save_latents: Path | None,
    read: Mapping[str, Path | None],
    engine: str,
    precision: str,
    options: Mapping[str, object],
    components: Mapping[str, str],
    as_json: bool,
    max_pixels: int | None = None,
    low_memory: bool = False,
    verify: Verify = "golden",
    vae: Path | None = None,
    checkpoint: CheckpointOptions | None = None,
    preview: bool = False,
) -> None:
    """Run the request, write each picture when it is finished, and print their paths.

    With `output` None a free name is chosen. `read` are the request's input files, by option.
    `preview` shows what is being drawn, on a terminal or in a file that is removed at the end.
    """
    pictures = place(output, request)
    if as_json and pictures.folder is None:
        raise InputError("json", "a file for the picture", "-o -, standard output")
    if as_json and preview:
        raise InputError("preview", "no --json beside it", "both")
    check_apart(pictures, save_latents, bundle, read)
    pictures.check()
    if save_latents == STDOUT:
        raise InputError("save-latents", "a file", "-, standard output")
    if save_latents is not None:
        check_writable("save-latents", save_latents)
    if vae is not None and bundle.is_file():  # which may have none of its own
        checkpoint, vae = replace(checkpoint or CheckpointOptions(), vae=vae), None
    made_with = None if checkpoint is None else checkpoint.vae
    opened = with_vae(Bundle.open(bundle_of(bundle, checkpoint, quiet=as_json)), vae, made_with)
    _check_vae(request, opened)
    asked = (engine, precision, options, components)
    with Pipeline(
        opened, *asked, max_pixels=max_pixels, low_memory=low_memory, verify=verify
    ) as pipeline:
        paths: list[Path] = []
        try:
            with Bars(Console(stderr=True), quiet=as_json) as bars:
                if preview:
                    used = {**read, "save-latents": save_latents}
                    factor = opened.manifest.vae_factor
                    with previews_of(bars, pictures, output, factor, used) as shown:
                        result = _draw(pipeline, request, bars, pictures, paths, shown)
                else:
                    result = _draw(pipeline, request, bars, pictures, paths)
            if save_latents is not None:
                buffer = io.BytesIO()
                np.save(buffer, result.noise)
                write_file(save_latents, buffer.getvalue())
        except BaseException:
            _print_unfinished(paths, as_json=as_json)
            raise
        engines = dict(pipeline.engines)
    for note in result.notes:
        print(f"latentrt: note: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(_summary(result, paths, engines), indent=2))
    elif pictures.folder is None:
        print(_line(result, engines["unet"]), file=sys.stderr)
    else:
        print(_line(result, engines["unet"]), *paths, sep="\n")


def _check_vae(request: Request, opened: Bundle) -> None:
    """Raise `InputError` for a picture drawn again without the VAE's file that it names."""
    before = request.provenance
    if before is None or not before.vae or before.model_hash == opened.manifest.model_hash:
        return
    if opened.vae is None:
        named = f"the picture's file {before.vae!r} (SHA-256 {before.vae_sha256}), by --vae"
        raise InputError("vae", named, "none")


def _print_unfinished(paths: Sequence[Path], *, as_json: bool) -> None:
    """Name the pictures that were written before a run ended."""
    if STDOUT in paths or not paths:
        return
    if as_json:
        print(json.dumps({"files": [str(p) for p in paths], "finished": False}, indent=2))
    else:
        print(*paths, sep="\n")


def _draw(
    pipeline: Pipeline,
    request: Request,
    bars: Bars,
    pictures: Place,
    paths: list[Path],
    previews: Previews | None = None,
) -> Result:
    """Run the request; each picture's path is added to `paths` once it is written."""

    def write() -> None:
        if run.finished > len(paths):
            result = run.so_far()
            for index in range(len(paths), run.finished):
                paths.append(pictures.write(index, result))

    with pipeline.run(request, progress=bars.of("prepare")) as run:
        try:
            for done, step in enumerate(run, 1):
                note = f"step {step.index + 1}/{step.total}  sigma {step.sigma:.2f}"
                if request.num_images > 1:
                    note = f"image {step.image + 1}/{request.num_images}  {note}"
                bars("denoise", done, step.total * request.num_images, note)
                if previews is not None:
                    previews(step)
                write()
        finally:
            write()
        return run.result()


def _line(result: Result, engine: str) -> str:
    seconds, request = result.seconds, result.request
    return (
        f"seed {request.seed}, {request.sampling.steps} steps of {result.sampler} on {engine}: "
        f"{seconds.total:.2f} s (compile {seconds.compile:.2f}, text {seconds.text:.2f}, "
        f"U-Net {seconds.unet:.2f}, VAE {seconds.vae:.2f})"
    )


def _summary(result: Result, paths: Sequence[Path], engines: dict[str, str]) -> dict[str, Any]:
    return {
        "files": [str(p) for p in paths],
        "finished": True,
        "request": result.request.to_json(),
        "sampler": result.sampler,
        "engines": engines,
        "seconds": asdict(result.seconds),
        "notes": list(result.notes),
    }

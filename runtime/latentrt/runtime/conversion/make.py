"""A bundle from a checkpoint and the graphs that ship."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from pathlib import Path
from typing import Final

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.publish import publishing
from latentrt.bundle.tensors import FLOAT8
from latentrt.graphs.store import GraphSet
from latentrt.runtime.conversion.check import check_source
from latentrt.runtime.conversion.latent_rgb import state_latent_rgb
from latentrt.runtime.conversion.prediction import state_prediction
from latentrt.weights.bundle_writer import check_replaceable, write_bundle
from latentrt.weights.checked import Checked
from latentrt.weights.clip_tokenizer import open_clip_tokenizers
from latentrt.weights.component_specs import CLASSES, ComponentSpec
from latentrt.weights.parts import Part, Shapes
from latentrt.weights.ready_graphs import ready_graphs, ready_shapes
from latentrt.weights.single_file import SingleFile
from latentrt.weights.source import Config, Source
from latentrt.weights.weight_store import Progress

DTYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
TRACED: Final = "latentrt ships no graph of this architecture; PyTorch traces one"
REMEDY: Final = "pip install 'latentrt[export]', then `latentrt export`"
_STORED: Final = {
    "float64": "float32",
    **dict.fromkeys(FLOAT8, "float16"),
    **{name: name for name in DTYPES.values()},
}
"""The dtype in which a bundle stores the weights of a checkpoint, by the checkpoint's."""


class NoGraphError(CheckpointError):
    """A checkpoint whose architecture latentrt has no graph of."""


def check(source: Source) -> Checked:
    """Check a checkpoint as `make_bundle` does; raises what it raises."""
    return check_source(source, _shapes, open_clip_tokenizers)


def make_bundle(
    source: Source,
    destination: Path,
    *,
    dtype: str | None = None,
    force: bool = False,
    progress: Progress,
) -> None:
    """Turn a checkpoint into a bundle without goldens, without PyTorch.

    `dtype` ("fp32", "fp16", "bf16") is how weights are stored; None is the checkpoint's own.
    Weights of that dtype stay in the checkpoint's files, which are linked, or copied where they
    cannot be. Raises `NoGraphError`, a `CheckpointError`, for an architecture that no graph ships
    of, and otherwise what the PyTorch export raises.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError("dtype", f"one of {', '.join(DTYPES)}", repr(dtype))
    check_replaceable(destination)
    with publishing(destination, force=force) as folder:
        progress("check", 0, 1)
        checked = check(source)
        progress("check", 1, 1)
        manifest = write_bundle(
            folder,
            checked,
            own := own_dtype(checked.parts["unet"]) if dtype is None else DTYPES[dtype],
            lambda spec, part: _graphs(checked, spec, part, own),
            link=True,
            versions={"latentrt": importlib.metadata.version("latentrt")},
            progress=progress,
        )
        if manifest.latent_rgb is None:
            progress("previews", 0, 1)
            state_latent_rgb(folder)
            progress("previews", 1, 1)
        if isinstance(source, SingleFile) and source.prediction_type is None:
            progress("prediction", 0, 1)
            state_prediction(folder)
            progress("prediction", 1, 1)


def _shapes(folder: str, config: Config) -> Shapes:
    found = ready_shapes(folder, config)
    if found is None:
        raise NoGraphError(folder, f"{CLASSES[folder]}: {TRACED}: {REMEDY}")
    return found


def _graphs(checked: Checked, spec: ComponentSpec, part: Part, dtype: str) -> GraphSet:
    ready = ready_graphs(spec, part.config)
    if ready is None:
        raise NoGraphError(f"{checked.source.name}/{part.folder}", f"{TRACED}: {REMEDY}")
    return ready.at(dtype)


def own_dtype(part: Part) -> str:
    """The dtype in which a bundle stores a part: that of most of its values."""
    counted: Counter[str] = Counter()
    for name in part.names:
        entry = part.tensors.entry(name)
        counted[entry.dtype.name] += entry.nbytes // entry.dtype.itemsize
    return _STORED[counted.most_common(1)[0][0]]

"""What OpenVINO is given to compile: the graph beside its weights, at fixed sizes, in one type.

OpenVINO reads external weights only from below the graph's own folder, and follows no link out of
it. Some graphs have the weights of another bundle, or weights behind a link. Both are first put
into a temporary folder: the weights as a hard link, or as a copy on another filesystem.

Its precision hint narrows a float32 graph and widens none: a bfloat16 graph is computed in bfloat16
(models/shapes' U-Net: 2.6e-3 off), and a float16 one gives float16 (2e-4 off). So a 16-bit graph
that is to be computed in anything but its own type is read in float32.
"""

# The package's stubs leave most of its API unknown.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.cache_folder import cache_folder
from latentrt.bundle.errors import InputError
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs.onnx_graph import in_place, read_graph

_COMPRESSED: Final = "decompression_0"


def read(package: Any, blueprint: Blueprint) -> Any:
    """OpenVINO's model of a graph, every dimension a number; raises what the package raises."""
    with _beside_weights(blueprint) as graph:
        model = package.Core().read_model(graph)
    model.reshape({s.name: list(s.dims) for s in blueprint.fixed_inputs})
    if blueprint.precision != "fp32":
        _keep_angles(model)
    return model


def keep_weights_stored(model: Any) -> int:
    """Keep 16-bit weights as they are stored, and widen each only where a kernel packs it.

    Gives the number of weights. Without this OpenVINO has two float32 copies of every weight, one
    packed for its kernels: 6.7 instead of 3.6 GB for SD 1.5's U-Net. A `Convert` with this mark is
    what OpenVINO's own tool writes for a model compressed to float16.
    """
    widened = [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convert"
        and node.input_value(0).get_node().get_type_name() == "Constant"
    ]
    for node in widened:
        node.get_rt_info()[_COMPRESSED] = ""
    return len(widened)


def _keep_angles(model: Any) -> None:
    """Have the sines and cosines of timesteps computed in float32 whatever the hint says.

    On the CPU OpenVINO narrows what leads to a product or convolution, but nothing that is itself
    an output. In bf16 an angle near 1000 is rounded to a multiple of 4, and the time embedding is
    0.3 off. The U-Net's error is then 5.5e-3 instead of 2.7e-3 (models/shapes), or 5.9e-2 instead
    of 1.3e-2 (random:sd15 at 256x256).
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Sin", "Cos"):
            model.add_outputs(node.output(0))


@contextlib.contextmanager
def _beside_weights(blueprint: Blueprint) -> Generator[Path]:
    """A file with the graph in a folder where its weights are; what is made goes afterwards."""
    if blueprint.source.parent == blueprint.root and in_place(blueprint):
        yield blueprint.source
        return
    with contextlib.ExitStack() as stack:
        root = _linked(stack, blueprint.files)
        if root is None:
            root = _scratch(stack, None)
            _fill(root, blueprint.files, shutil.copyfile)
        graph = root / blueprint.graph.name
        graph.write_bytes(read_graph(blueprint))
        yield graph


def _linked(stack: contextlib.ExitStack, files: Mapping[str, Path]) -> Path | None:
    """A folder with hard links to the weights; None where there can be none."""
    for place in (cache_folder, lambda: None):
        with contextlib.suppress(OSError, InputError):
            root = _scratch(stack, place())
            _fill(root, files, os.link)
            return root
    return None


def _fill(root: Path, files: Mapping[str, Path], put: Callable[[Path, Path], object]) -> None:
    for name, path in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        put(path.resolve(), root / name)


def _scratch(stack: contextlib.ExitStack, place: Path | None) -> Path:
    made = tempfile.TemporaryDirectory(prefix="latentrt-", dir=place, ignore_cleanup_errors=True)
    return Path(stack.enter_context(made))

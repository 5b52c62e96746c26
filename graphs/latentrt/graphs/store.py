"""The traced graphs that ship, found by what decides a graph.

A folder of graphs has an `index.json` and one archive for each architecture of a component. `make
graphs` writes it, with PyTorch, and stores in the index how far each graph is from PyTorch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import FileError
from latentrt.graphs.archive import unpack

VARIABLE: Final = "LATENTRT_GRAPHS"
"""An environment variable with folders of further graphs, separated as in PATH."""
SHIPPED: Final = Path(__file__).parent / "shipped"
INDEX: Final = "index.json"


@dataclass(frozen=True, slots=True)
class GraphSet:
    """The graphs of one component at one dtype of its weights.

    `own` computes in that dtype. `in_float32` computes in float32 on 16-bit weights; None for
    float32 weights. `upcast` is a float16 graph of which the nodes `upcast_nodes` compute in
    float32; only VAEs have it.
    """

    own: bytes
    in_float32: bytes | None = None
    upcast: bytes | None = None
    upcast_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadyGraphs:
    """The graphs of one architecture of a component.

    `errors` are relative errors against PyTorch in fp32, by the dtype of the weights.
    """

    component: str
    architecture: str
    file: Path
    errors: Mapping[str, float]

    def at(self, dtype: str) -> GraphSet:
        """The graphs for weights of a dtype; raises `FileError` if the file is damaged."""
        try:
            found = unpack(self.file.read_bytes())
            return GraphSet(
                found[dtype],
                found.get(f"{dtype}.float32"),
                found.get(f"{dtype}.upcast"),
                tuple(json.loads(found.get(f"{dtype}.upcast.nodes", b"[]"))),
            )
        except (OSError, ValueError, KeyError) as error:
            raise FileError(self.file, f"is not a file of graphs: {error}") from error


def find(component: str, fingerprint: str) -> ReadyGraphs | None:
    """The graphs of a component whose config has this fingerprint, None if none ship."""
    others = [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    for folder in (*others, SHIPPED):
        found = _index(folder).get((component, fingerprint))
        if found is not None:
            return found
    return None


@cache
def _index(folder: Path) -> Mapping[tuple[str, str], ReadyGraphs]:
    path = folder / INDEX
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["graphs"]
        return {
            (entry["component"], entry["fingerprint"]): ReadyGraphs(
                entry["component"], entry["architecture"], folder / entry["file"], entry["errors"]
            )
            for entry in entries
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(path, f"is not an index of graphs: {error}") from error

"""Weights for a plan without, over a TensorRT that is made up.

The real one builds no such plan without a GPU, so that it does as it does here is unverified.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentrt.bundle.errors import BuildFailed
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.tensorrt.refit import refit

BLUEPRINT = Blueprint("unet", Path("b/unet.onnx"), Path("b/weights/unet"), (), (), {})
SOURCE = OnnxGraph(BLUEPRINT, b"graph")


class TensorRtLibrary:
    """A plan that wants the weights `wanted`, and a parser that finds those in `found`."""

    def __init__(self, wanted: set[str], found: set[str]) -> None:
        self.wanted = wanted
        self.found = found
        self.asked: list[object] = []
        self.takes = True
        self.refitted = False

    def Refitter(self, plan: object, log: object) -> Any:  # noqa: N802
        return SimpleNamespace(
            get_missing_weights=lambda: sorted(self.wanted - self.found),
            refit_cuda_engine=self.refit_cuda_engine,
        )

    def OnnxParserRefitter(self, refitter: object, log: object) -> Any:  # noqa: N802
        return SimpleNamespace(num_errors=0, refit_from_bytes=self.refit_from_bytes)

    def refit_from_bytes(self, graph: bytes, path: str) -> bool:
        self.asked.append((graph, path))
        return bool(self.found)

    def refit_cuda_engine(self) -> bool:
        self.refitted = self.takes and self.wanted <= self.found
        return self.refitted


def log(*errors: str) -> Any:
    return SimpleNamespace(errors=list(errors))


def test_a_plan_is_given_the_weights_that_lie_beside_the_graph() -> None:
    library = TensorRtLibrary({"a", "b"}, {"a", "b", "c"})
    refit(library, None, log(), SOURCE)
    assert library.refitted
    assert library.asked == [(b"graph", str(Path("b/unet.onnx")))]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [("ab", "b$"), ("abcd", "b, c, d$"), ("abcdef", "b, c, d and 2 more$")],
)
def test_weights_that_the_plan_still_lacks_are_named(wanted: str, names: str) -> None:
    library = TensorRtLibrary(set(wanted), {"a"})
    with pytest.raises(BuildFailed, match=rf"^unet: the plan was given no weights for {names}"):
        refit(library, None, log(), SOURCE)
    assert not library.refitted


def test_a_graph_that_the_refitter_does_not_read_is_a_build_failure() -> None:
    with pytest.raises(BuildFailed, match=r"^unet: TensorRT does not parse the graph"):
        refit(TensorRtLibrary(set(), set()), None, log(), SOURCE)


def test_weights_that_tensorrt_does_not_take_are_a_build_failure() -> None:
    library = TensorRtLibrary({"a"}, {"a"})
    library.takes = False
    with pytest.raises(BuildFailed, match=r"^unet: TensorRT does not take weights: why"):
        refit(library, None, log("why"), SOURCE)

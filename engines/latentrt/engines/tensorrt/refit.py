"""The weights of a bundle, put into a plan that was stored without them.

Unverified: building such a plan takes a GPU, and has never been done. The tests use a fake library.
"""

from __future__ import annotations

from typing import Any, Final

from latentrt.bundle.errors import BuildFailed
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.tensorrt.network import complaint, path_of

_NAMED: Final = 3
"""Weights that a message names of those that are missing."""


def refit(api: Any, plan: Any, log: Any, source: OnnxGraph) -> None:
    """Give a deserialised plan every weight of the graph that it was built of.

    Raises `BuildFailed` naming the weights that it still lacks, or with what TensorRT says.
    """
    component = source.blueprint.component
    refitter: Any = api.Refitter(plan, log)
    parser: Any = api.OnnxParserRefitter(refitter, log)
    taken = parser.refit_from_bytes(source.content, str(path_of(source)))
    missing: list[str] = refitter.get_missing_weights()
    if missing:
        names = ", ".join(missing[:_NAMED])
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise BuildFailed(f"{component}: the plan was given no weights for {names}{more}")
    if not taken:
        raise BuildFailed(f"{component}: {complaint(parser)}")
    # Copies them; the parser holds the memory that they are in until here.
    if not refitter.refit_cuda_engine():
        raise BuildFailed(f"{component}: TensorRT does not take weights: {'; '.join(log.errors)}")

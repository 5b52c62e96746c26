"""The graphs of a component at one dtype or all, traced with PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

from latentrt.export import trace
from latentrt.export.float32 import to_float32
from latentrt.export.islands import upcast
from latentrt.graphs.store import GraphSet
from latentrt.weights.component_specs import ComponentSpec
from latentrt.weights.source import Config

DTYPES = ("float32", "float16", "bfloat16")


def traced(component: ComponentSpec, config: Config, dtype: str) -> GraphSet:
    """Trace a component; `config` has every default, `dtype` is that of the weights."""
    return _graphs(component, dtype, trace.to_bytes(trace.trace(component, config, dtype)))


def traced_at_all(component: ComponentSpec, config: Config) -> Iterator[tuple[str, GraphSet]]:
    """The graphs at every dtype, of one trace."""
    half = trace.traced_at(component, config, "float16")
    for dtype in DTYPES:
        model = trace.at_dtype(half.clone(), component, config, dtype)
        yield dtype, _graphs(component, dtype, trace.to_bytes(model))


def _graphs(component: ComponentSpec, dtype: str, own: bytes) -> GraphSet:
    if dtype == "float32":
        return GraphSet(own)
    wide = to_float32(own)
    if dtype != "float16" or component.folder != "vae":
        return GraphSet(own, wide)
    return GraphSet(own, wide, *upcast(own))

"""The graphs of a component at one dtype, traced with PyTorch."""

from __future__ import annotations

from latentrt.export import trace
from latentrt.export.float32 import to_float32
from latentrt.export.islands import upcast
from latentrt.graphs.store import GraphSet
from latentrt.weights.component_specs import ComponentSpec
from latentrt.weights.source import Config


def traced(component: ComponentSpec, config: Config, dtype: str) -> GraphSet:
    """Trace a component; `config` has every default, `dtype` is that of the weights."""
    own = trace.to_bytes(trace.trace(component, config, dtype))
    if dtype == "float32":
        return GraphSet(own)
    wide = to_float32(own)
    if dtype != "float16" or component.folder != "vae":
        return GraphSet(own, wide)
    return GraphSet(own, wide, *upcast(own))

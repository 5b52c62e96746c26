"""ONNX Runtime's sessions: what they are made of, and whether all of it runs where it should.

Sizes are fixed by overriding the graph's free dimensions when the session is made. Weights are
mapped from the bundle's own file. The graph names only a file and byte ranges, and a session option
gives the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from latentrt.bundle.errors import BuildFailed, Unavailable
from latentrt.engines import libraries
from latentrt.engines.graphs.group_norm import write_out_group_norms
from latentrt.engines.graphs.onnx_graph import OnnxGraph

_RECORD: Final = "session.record_ep_graph_assignment_info"
_NO_FALLBACK: Final = "session.disable_cpu_ep_fallback"
_FELL_BACK: Final = "fallback to CPU EP has been explicitly disabled"
_NAMED: Final = 3

Providers = Sequence[str | tuple[str, Mapping[str, str]]]
"""Names of providers, some with their options."""


def package(name: str, remedy: str) -> Any:
    """ONNX Runtime; raises `Unavailable` for the engine of that name."""
    try:
        return libraries.onnxruntime()
    except ImportError as error:
        raise Unavailable(f"engine {name}: not installed; {remedy}") from error


def settings(api: Any, graph: OnnxGraph) -> Any:
    """Session options with the folder of the weights and the sizes."""
    chosen: Any = api.SessionOptions()
    chosen.log_severity_level = 4  # what is wrong is raised
    chosen.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(graph.root)
    )
    for symbol, size in graph.blueprint.sizes.items():
        chosen.add_free_dimension_override_by_name(symbol, size)
    return chosen


def norms_written_out(graph: OnnxGraph) -> OnnxGraph:
    """The graph without a GroupNormalization; raises `BuildFailed` for bytes that are no graph."""
    try:
        return replace(graph, content=write_out_group_norms(graph.content))
    except ValueError as error:
        problem = f"{graph.blueprint.component}: the graph cannot be read: {error}"
        raise BuildFailed(problem) from error


def session(api: Any, graph: OnnxGraph, chosen: Any, providers: Providers | None) -> Any:
    """A session; raises `BuildFailed`. Without `providers` it has those of its options."""
    try:
        # With its own fallback, the package would print, and take the CPU for any provider.
        return api.InferenceSession(graph.content, chosen, providers=providers, enable_fallback=0)
    except Exception as error:  # the package raises bare classes of its own, one a kind
        component = graph.blueprint.component
        raise BuildFailed(f"{component}: ONNX Runtime says: {error}") from error


def session_on(
    api: Any, graph: OnnxGraph, chosen: Any, providers: Providers | None, provider: str
) -> Any:
    """A session that runs on one of its providers with every node.

    Raises `BuildFailed` naming the first nodes that would run on the CPU, and when ONNX Runtime has
    not got the provider.
    """
    chosen.add_session_config_entry(_RECORD, "1")
    chosen.add_session_config_entry(_NO_FALLBACK, "1")
    try:
        made = session(api, graph, chosen, providers)
    except BuildFailed as error:
        if _FELL_BACK not in str(error):
            raise
        # It does not say which; a session that may fall back does.
        chosen.add_session_config_entry(_NO_FALLBACK, "0")
        _check_provider(session(api, graph, chosen, providers), graph.blueprint.component, provider)
        raise
    _check_provider(made, graph.blueprint.component, provider)
    return made


def _check_provider(made: Any, component: str, provider: str) -> None:
    given: list[str] = list(made.get_providers())
    if provider not in given:
        raise BuildFailed(
            f"{component}: ONNX Runtime did not load {provider} (it printed why) and took "
            f"{', '.join(given)}"
        )
    parts: list[Any] = list(made.get_provider_graph_assignment_info())
    nodes = [(part.ep_name, node) for part in parts for node in part.get_nodes()]
    elsewhere = [(place, node) for place, node in nodes if place != provider]
    if not elsewhere:
        return
    named = [f"{node.name!r} ({node.op_type}, {place})" for place, node in elsewhere[:_NAMED]]
    more = ", ..." if len(elsewhere) > _NAMED else ""
    raise BuildFailed(
        f"{component}: {len(elsewhere)} of {len(nodes)} nodes would not run on {provider}: "
        f"{', '.join(named)}{more}"
    )

"""The graphs that ship for a checkpoint's parts, and the tensors that they take."""

from __future__ import annotations

from latentrt.graphs.attach import shapes
from latentrt.graphs.store import ReadyGraphs, find
from latentrt.weights.component_specs import CLASSES, ComponentSpec, component_specs
from latentrt.weights.configs import graph_fingerprint, with_defaults
from latentrt.weights.control_specs import CONTROLNET, control_specs
from latentrt.weights.parts import Shapes
from latentrt.weights.source import Config


def ready_graphs(spec: ComponentSpec, config: Config) -> ReadyGraphs | None:
    """The graphs of a component whose part has this config, None if none ship.

    `config` has every default. Both text encoders of SDXL have graphs of one kind.
    """
    kind = "text_encoder" if spec.folder.startswith("text_encoder") else spec.name
    return find(kind, graph_fingerprint(spec.folder, config))


def ready_shapes(folder: str, stated: Config) -> Shapes | None:
    """The shapes of a part's tensors, None for an architecture that does not ship.

    `stated` is its config as it is stored. The shapes are those of the graphs' parameters, and of
    what the runtime reads beside them.
    """
    config = with_defaults(folder, stated)
    found: dict[str, tuple[int, ...]] = {}
    for spec in control_specs() if folder == CONTROLNET else component_specs((folder,)):
        ready = ready_graphs(spec, config)
        if ready is None:
            return None
        found |= shapes(ready.at("float32").own)
    if folder in ("unet", CONTROLNET):
        first, _, *kernel = found["conv_in.weight"]
        found["conv_in.weight"] = (first, config["in_channels"], *kernel)
    if folder.startswith("text_encoder"):
        width = config["hidden_size"]
        found["text_model.embeddings.token_embedding.weight"] = (config["vocab_size"], width)
        if CLASSES[folder].endswith("WithProjection"):
            found["text_projection.weight"] = (config["projection_dim"], width)
    return found

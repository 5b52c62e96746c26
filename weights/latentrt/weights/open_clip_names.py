"""How single files spell the canonical names of a text encoder's tensors.

Sources: `CLIPTextModel` of transformers, `transformer.py` of github.com/mlfoundations/open_clip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from latentrt.weights.ldm_names import Spelled

_PREFIX: Final = "text_model."
_ENDS: Final[Mapping[str, str]] = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_LAYERS: Final[Mapping[str, str]] = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_FUSED: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LAYER: Final = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
PROJECTION: Final = "text_projection.weight"


def clip(name: str) -> tuple[Spelled, ...]:
    """CLIP's names in transformers, with or without the prefix `text_model.`."""
    return (Spelled(name), Spelled(name.removeprefix(_PREFIX)))


def open_clip(name: str) -> tuple[Spelled, ...]:
    """OpenCLIP's names.

    Its attention has one matrix of queries, keys and values. Its projection multiplies from the
    other side, unless a file has it under the name of a layer's weight.
    """
    if name == PROJECTION:
        return (Spelled("text_projection", transposed=True), Spelled(PROJECTION))
    bare = name.removeprefix(_PREFIX)
    found = _LAYER.fullmatch(bare)
    if found is None:
        return (Spelled(_ENDS[bare]),)
    number, layer, end = found.groups()
    where = f"transformer.resblocks.{number}"
    if layer in _FUSED:
        return (Spelled(f"{where}.attn.in_proj_{end}", third=_FUSED.index(layer)),)
    return (Spelled(f"{where}.{_LAYERS[layer]}.{end}"),)

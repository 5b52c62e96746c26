"""The weights of a request: textual inversions and LoRAs, checked and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from latentrt.bundle.checks import items, shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import json_object
from latentrt.weights.embedding import Embedding
from latentrt.weights.lora.blocks import parse_blocks
from latentrt.weights.lora.lora import Lora

Weights = Embedding | Lora

_MOST: Final = 64


def check_weights(value: object) -> tuple[Weights, ...]:
    """The weights of a request; raises `InputError` for anything else."""
    given = items(value)
    found = [each for each in given or () if isinstance(each, Embedding | Lora)]
    if given is None or len(found) != len(given) or len(found) > _MOST:
        raise InputError("weights", f"at most {_MOST} Embeddings and Loras", shown(value))
    tokens = [each.token for each in embeddings_of(found)]
    twice = [token for token in tokens if tokens.count(token) > 1]
    if twice:
        raise InputError("weights", "one embedding a token", f"two of token {twice[0]!r}")
    return tuple(found)


def embeddings_of(weights: Sequence[Weights]) -> list[Embedding]:
    """The textual inversions among weights."""
    return [each for each in weights if isinstance(each, Embedding)]


def loras_of(weights: Sequence[Weights]) -> list[Lora]:
    """The LoRAs among weights."""
    return [each for each in weights if isinstance(each, Lora)]


def weights_json(weights: Sequence[Weights]) -> list[dict[str, Any]]:
    """The weights of a request as JSON: kind, file name, hash, and the token or the scales."""
    return [_json(each) for each in weights]


def _json(weights: Weights) -> dict[str, Any]:
    if isinstance(weights, Embedding):
        kind, own = "embedding", {"token": weights.token}
        return {"kind": kind, "file": weights.path.name, "sha256": weights.sha256, **own}
    blocks = dict(parse_blocks(weights.blocks))
    scales = {"unet": weights.unet, "text_encoder": weights.text_encoder}
    return {
        "kind": "lora",
        "file": weights.path.name,
        "sha256": weights.sha256(),
        "scale": weights.scale,
        **{name: scale for name, scale in scales.items() if scale is not None},
        **({"blocks": blocks} if blocks else {}),
        **({"partial": True} if weights.partial else {}),
    }


def named_weights(value: object, attachments: Sequence[object]) -> tuple[Weights, ...]:
    """The weights that JSON names by hash, found among the attachments.

    Raises `InputError` naming the file that is not among them.
    """
    named = items(value)
    if named is None:
        raise InputError("weights", "a list of JSON objects", shown(value))
    return tuple(_named(json_object("weights", each), attachments) for each in named)


def _named(fields: dict[str, Any], attachments: Sequence[object]) -> Weights:
    sha256 = fields.get("sha256")
    for each in attachments:
        if fields.get("kind") == "lora" and isinstance(each, Lora) and each.sha256() == sha256:
            return lora_of(each, fields)
        same = isinstance(each, Embedding) and (each.sha256, each.token)
        if isinstance(each, Embedding) and same == (sha256, fields.get("token")):
            return each
    expected = f"{shown(fields.get('file'))} with SHA-256 {shown(sha256)}"
    raise InputError("weights", expected, f"{len(attachments)} other files")


def lora_of(lora: Lora, fields: dict[str, Any]) -> Lora:
    """A LoRA's file with the scales of its JSON; raises `InputError` for a malformed one."""
    return Lora(
        lora.path,
        fields.get("scale", 1.0),
        unet=fields.get("unet"),
        text_encoder=fields.get("text_encoder"),
        blocks=fields.get("blocks"),
        partial=fields.get("partial", False),
    )

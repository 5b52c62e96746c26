"""What an entry is found by: every field that it depends on, and their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from latentrt.bundle.errors import InputError
from latentrt.engines.engine import Blueprint
from latentrt.engines.options import key_fields
from latentrt.engines.registry import Chosen

SCHEMA: Final = "9"
"""Of cache entries and of how our backends compile; a change makes every entry old."""
ANY_SIZE: Final = "any"
"""The sizes of a record that stands for all of them."""


def engine_key(chosen: Chosen, blueprint: Blueprint) -> dict[str, str]:
    """Everything that an entry depends on, by field.

    Raises `InputError` for a blueprint without digests, `Unavailable`.
    """
    if blueprint.digests is None:
        raise InputError("digests", "the SHA-256 of graph and weights", "none")
    graph, weights, *others = blueprint.digests
    identity = chosen.compiler.identity(chosen.options)
    return {
        "schema": SCHEMA,
        "component": blueprint.component,
        "graph": graph,
        "weights": weights,
        **{f"weights {i}": other for i, other in enumerate(others, start=2)},
        "sizes": " ".join(f"{symbol}={n}" for symbol, n in sorted(blueprint.sizes.items())),
        "engine": chosen.name,
        "precision": chosen.precision,
        **key_fields(chosen.options),
        **{f"{chosen.name} {field}": value for field, value in identity.items()},
    }


def proof_key(chosen: Chosen, blueprint: Blueprint) -> dict[str, str]:
    """The key of what was proved of all sizes at once; raises what `engine_key` raises."""
    return {**engine_key(chosen, blueprint), "sizes": ANY_SIZE}


def digest(key: Mapping[str, str]) -> str:
    """An entry's name."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:40]


def differing(key: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """For every field in which `key` is not as the `other` one, both values: from that to this."""
    fields = [field for field in {**key, **other} if key.get(field) != other.get(field)]
    return [f"{field} {_short(other.get(field))} -> {_short(key.get(field))}" for field in fields]


def _short(value: str | None) -> str:
    if value is None:
        return "(none)"
    is_digest = len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    return value[:12] if is_digest else value

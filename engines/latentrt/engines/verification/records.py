"""What a record of a verification says, and whether it is enough today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from latentrt.engines.cache.entry import Record

ORACLE: Final = "onnxruntime"
"""The backend that, in fp32, other engines are compared with where there are no goldens."""
GOLDENS: Final = "goldens"
"""In a record: the SHA-256 of the goldens; None without any."""
HOW: Final = "verify"
"""In a record: "golden" where a small engine stands for the one of the record."""


def refusal(verification: Record, terms: Mapping[str, Any]) -> str:
    """That an engine was farther off than these terms allow, if so."""
    if not at_least(verification, {GOLDENS: terms[GOLDENS]}):
        return ""  # it will be compared with others
    errors = verification.get("errors", {})
    worst = max((error["relative"] for error in errors.values()), default=0.0)
    if worst <= terms["tolerance"]:
        return ""
    reference = verification["reference"]
    return f"it is {worst:.1e} from {reference}, {terms['tolerance']:.1e} is allowed"


def at_least(verification: Record, terms: Mapping[str, Any]) -> bool:
    """Whether a record was made on these terms; against goldens is more than without any."""
    return all(
        verification.get(name) == value or (name == GOLDENS and value is None)
        for name, value in terms.items()
    )

"""A checkpoint whose parts were read, checked and found to fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.weights.families import Family
from latentrt.weights.latent_space import LatentSpace
from latentrt.weights.parts import Part
from latentrt.weights.source import Source
from latentrt.weights.tokenizer_files import Tokenizer


@dataclass(frozen=True, slots=True)
class Checked:
    """A checkpoint that can be exported.

    `scheduler` is its scheduler's config under the class that draws. `sample_size` is the default
    (height, width) of a latent. `notes` tell what was inferred, ignored or left out, a sentence
    each.
    """

    source: Source
    family: Family
    parts: Mapping[str, Part]
    tokenizers: Mapping[str, Tokenizer]
    latent_space: LatentSpace
    scheduler: Mapping[str, Any]
    sample_size: tuple[int, int]
    zeros: bool
    notes: tuple[str, ...]

    @property
    def prediction_type(self) -> str:
        """What the model predicts."""
        return str(self.scheduler.get("prediction_type") or "epsilon")

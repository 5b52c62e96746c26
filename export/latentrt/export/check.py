"""Everything about a checkpoint that `export` can read and check before it writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from latentrt.bundle.errors import CheckpointError
from latentrt.export.modules import described
from latentrt.export.synthetic import open_source
from latentrt.runtime.conversion.check import check_source
from latentrt.weights.checked import Checked
from latentrt.weights.clip_tokenizer import open_clip_tokenizers
from latentrt.weights.families import Family
from latentrt.weights.parts import Part
from latentrt.weights.single_file import SingleFile
from latentrt.weights.source import Source
from latentrt.weights.tokenizer_files import Tokenizer


def check(checkpoint: str | Path, scratch: Path, variant: str | None = None) -> Checked:
    """Open a folder or random checkpoint and check all but the values of its weights.

    `scratch` is a folder to work in; `variant` as for `export`. Raises `CheckpointError` naming the
    file, tensor or field that cannot be exported, and `InputError` for a variant that is not there.
    """

    def tokenizers(
        source: Source, family: Family, parts: Mapping[str, Part]
    ) -> Mapping[str, Tokenizer]:
        """CLIP's tokenizers, or whatever else transformers reads."""
        try:
            return open_clip_tokenizers(source, family, parts)
        except CheckpointError:
            from latentrt.export.tokenizer import open_tokenizers

            return open_tokenizers(source, family, parts, scratch)

    source = open_source(checkpoint, variant)
    if isinstance(source, SingleFile) and source.prediction_type is None:
        problem = "its prediction type is not in the file: export it without --golden and --trace"
        raise CheckpointError(source.path, f"{problem}, which measures it")
    return check_source(source, described, tokenizers)

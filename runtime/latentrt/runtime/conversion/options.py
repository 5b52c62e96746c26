"""How a checkpoint is read: what a user states or supplies beside its path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from latentrt.weights.inference import Overrides
from latentrt.weights.opening import open_source
from latentrt.weights.source import Source
from latentrt.weights.vae_file import VaeFile


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """What is stated about a checkpoint, and the parts that come from elsewhere.

    `dtype` ("fp32", "fp16", "bf16") is how its bundle stores weights, None its own. `variant` names
    the weights files of a folder. The others are for single files. A single file takes its VAE from
    `vae`, a file, and its text encoders from `text_encoder`, a checkpoint. It takes configs and
    tokenizers from `configs`, a checkpoint. `overrides` replace what would be inferred.
    """

    dtype: str | None = None
    variant: str | None = None
    vae: Path | None = None
    text_encoder: Path | None = None
    configs: Path | None = None
    overrides: Overrides | None = None

    def open(self, checkpoint: str | Path) -> Source:
        """Open a checkpoint; raises what `open_source` raises."""
        parts: dict[str, Source] = {}
        like = None if self.configs is None else open_source(self.configs)
        if self.text_encoder is not None:
            other = open_source(self.text_encoder)
            parts |= dict.fromkeys(("text_encoder", "text_encoder_2"), other)
        if self.vae is not None:
            parts["vae"] = VaeFile.open(self.vae, like)
        return open_source(
            checkpoint, self.variant, overrides=self.overrides, parts=parts, like=like
        )

    def files(self) -> Mapping[str, Path]:
        """The files and folders beside the checkpoint, by field."""
        given = {"vae": self.vae, "text_encoder": self.text_encoder, "configs": self.configs}
        return {name: Path(os.path.abspath(path)) for name, path in given.items() if path}

    def identity(self) -> str:
        """Equal for equal options."""
        return repr(sorted(asdict(self).items(), key=lambda item: item[0]))

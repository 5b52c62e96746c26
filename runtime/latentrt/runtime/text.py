"""Prompts to conditioning: tokens, token lookup, and the text encoder's hidden states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError, InputError, NonFinite
from latentrt.bundle.tensors import TensorFile
from latentrt.engines.engine import Engine

TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"
FINAL_NORM = "text_model.final_layer_norm"


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """`ids` [model_max_length] int64, from BOS to padding, and what of the prompt was cut off."""

    ids: NDArray[np.int64]
    cut: str


class PromptTokenizer:
    """CLIP's tokenizer as the bundle has it. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(bundle.listed("tokenizer/tokenizer.json")))
            special = json.loads(bundle.listed("tokenizer/special_tokens.json").read_text("utf-8"))
            self._bos, self._eos, self._pad, self.length = (
                int(special[f"{k}_token_id"]) if k else int(special["model_max_length"])
                for k in ("bos", "eos", "pad", "")
            )
        except BundleError:
            raise
        except Exception as error:  # tokenizers raises a bare Exception for a bad file
            raise BundleError(bundle.path / "tokenizer", f"is malformed: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def __call__(self, prompt: str) -> Tokens:
        """BOS, at most `length - 2` tokens of the prompt, EOS, padding."""
        encoding = self._tokenizer.encode(prompt, add_special_tokens=False)
        room = self.length - 2
        ids = np.full(self.length, self._pad, dtype=np.int64)
        kept = encoding.ids[:room]
        ids[0] = self._bos
        ids[1 : 1 + len(kept)] = kept
        ids[1 + len(kept)] = self._eos
        cut = ""
        if len(encoding.ids) > room:
            cut = prompt[encoding.offsets[room][0] :]
        return Tokens(ids, cut)


class TextEncoder:
    """Token ids to the hidden states that the U-Net attends to."""

    def __init__(self, bundle: Bundle) -> None:
        self._weights = TensorFile(bundle.weights("text_encoder"))
        self._table: NDArray[Any] = self._weights[TOKEN_TABLE]
        config: Mapping[str, Any] = bundle.manifest.components["text_encoder"].config
        self._epsilon = float(config.get("layer_norm_eps", 1e-5))
        self._layers = int(config["num_hidden_layers"])

    def check_clip_skip(self, clip_skip: int) -> None:
        """Raise `InputError` if there are not that many layers to leave out."""
        if clip_skip >= self._layers:
            expected = f"less than the text encoder's {self._layers} layers"
            raise InputError("clip_skip", expected, clip_skip)

    def __call__(
        self, ids: NDArray[np.int64], engine: Engine, clip_skip: int = 0
    ) -> NDArray[np.float32]:
        """Hidden states [1, n, width] float32 of ids [n].

        `clip_skip` k takes the states before the last k layers and applies the final LayerNorm to
        them, as diffusers does for SD 1 and 2.
        """
        spec = engine.inputs[0]
        embeds = self._table[ids][None].astype(spec.dtype)
        outputs = engine({spec.name: embeds})
        if clip_skip == 0:
            states = outputs["last_hidden_state"].astype(np.float32)
        else:
            states = self._normalised(outputs[f"hidden_states.{self._layers - clip_skip}"])
        if not np.isfinite(states).all():
            raise NonFinite("text_encoder")
        return states

    def _normalised(self, states: NDArray[Any]) -> NDArray[np.float32]:
        x = states.astype(np.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        weight = self._weights[f"{FINAL_NORM}.weight"].astype(np.float32)
        bias = self._weights[f"{FINAL_NORM}.bias"].astype(np.float32)
        scaled: NDArray[np.float32] = centred / np.sqrt(variance + np.float32(self._epsilon))
        return scaled * weight + bias

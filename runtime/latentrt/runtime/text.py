"""Prompts to conditioning: tokens, token lookup, and what the text encoder says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError, NonFinite
from latentrt.bundle.tensors import TensorFile
from latentrt.engines.engine import Engine
from latentrt.runtime.checks import all_finite

TOKEN_TABLE: Final = "text_model.embeddings.token_embedding.weight"
FINAL_NORM: Final = "text_model.final_layer_norm"
PROJECTION: Final = "text_projection.weight"
_LARGEST: Final = 2
"""An `eos_token_id` from before transformers knew it: the end is where the largest id is."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """`ids` [model_max_length] int64, from BOS to padding, and what of the prompt was cut off."""

    ids: NDArray[np.int64]
    cut: str


class PromptTokenizer:
    """One of CLIP's tokenizers as the bundle has it, in `folder`. Thread-safe."""

    def __init__(self, bundle: Bundle, folder: str = "tokenizer") -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(bundle.listed(f"{folder}/tokenizer.json")))
            special = json.loads(bundle.listed(f"{folder}/special_tokens.json").read_text("utf-8"))
            self._bos, self._eos, self._pad, self.length = (
                int(special[f"{k}_token_id"]) if k else int(special["model_max_length"])
                for k in ("bos", "eos", "pad", "")
            )
        except BundleError:
            raise
        except Exception as error:  # tokenizers raises a bare Exception for a bad file
            raise BundleError(bundle.path / folder, f"is malformed: {error}") from error
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


@dataclass(frozen=True, slots=True, eq=False)
class TextStates:
    """One evaluation of an encoder: the tokens `ids` [n], and its outputs, each [1, n, width]."""

    ids: NDArray[np.int64]
    outputs: Mapping[str, NDArray[Any]]


class TextEncoder:
    """Token ids to hidden states, and the two ways in which models take them. Thread-safe."""

    def __init__(self, bundle: Bundle, component: str = "text_encoder") -> None:
        self._component = component
        self._weights = TensorFile(bundle.weights(component))
        self._table: NDArray[Any] = self._weights[TOKEN_TABLE]
        config: Mapping[str, Any] = bundle.manifest.components[component].config
        self._epsilon = float(config.get("layer_norm_eps", 1e-5))
        self._eos = int(config["eos_token_id"])
        self.layers = int(config["num_hidden_layers"])

    def __call__(self, ids: NDArray[np.int64], engine: Engine) -> TextStates:
        """Evaluate the encoder for the tokens `ids` [n]; the engine is one of batch 1."""
        spec = engine.inputs[0]
        embeds = self._table[ids][None].astype(spec.dtype)
        return TextStates(ids, engine({spec.name: embeds}))

    def normalised(self, states: TextStates, skipped: int) -> NDArray[np.float32]:
        """States [n, width] before the last `skipped` layers, after the final LayerNorm."""
        if skipped == 0:
            return self._finite(states.outputs["last_hidden_state"][0])
        x = self.plain(states, skipped)
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        weight = self._weights[f"{FINAL_NORM}.weight"].astype(np.float32)
        bias = self._weights[f"{FINAL_NORM}.bias"].astype(np.float32)
        scaled: NDArray[np.float32] = centred / np.sqrt(variance + np.float32(self._epsilon))
        return scaled * weight + bias

    def plain(self, states: TextStates, skipped: int) -> NDArray[np.float32]:
        """States [n, width] before the last `skipped` layers, as they are."""
        return self._finite(states.outputs[f"hidden_states.{self.layers - skipped}"][0])

    def pooled(self, states: TextStates) -> NDArray[np.float32]:
        """The final state at the end of the text, projected: [projection_dim].

        The first end token is the end, or, by an older rule that a config's `eos_token_id` of 2
        stands for, the largest id.

        Source: transformers' `CLIPTextModelWithProjection`.
        """
        ids = states.ids
        end = int(np.argmax(ids if self._eos == _LARGEST else ids == self._eos))
        last = self._finite(states.outputs["last_hidden_state"][0, end])
        return self._weights[PROJECTION].astype(np.float32) @ last

    def _finite(self, states: NDArray[Any]) -> NDArray[np.float32]:
        if not all_finite(states):
            raise NonFinite(self._component)
        return states.astype(np.float32)

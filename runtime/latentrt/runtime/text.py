"""Prompts to conditioning: tokens, token lookup, and what the text encoder says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.checks import integer
from latentrt.bundle.errors import BundleError, InputError, NonFinite
from latentrt.runtime.checks import all_finite, text
from latentrt.runtime.rows import Evaluation, Model, Outputs, Row
from latentrt.weights.added_tokens import expand, vectors_of

if TYPE_CHECKING:
    from tokenizers import Encoding

TOKEN_TABLE: Final = "text_model.embeddings.token_embedding.weight"
FINAL_NORM: Final = "text_model.final_layer_norm"
PROJECTION: Final = "text_projection.weight"
_LARGEST: Final = 2
"""An `eos_token_id` from before transformers knew it: the end is where the largest id is."""

_IDS: Final = 1 << 24
"""More than any tokenizer has, and than any text encoder has positions."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """`ids` [model_max_length] int64, from BOS to padding, and what of the prompt was cut off.

    At `places` are the tokens of the prompt.
    """

    ids: NDArray[np.int64]
    cut: str
    places: range


class PromptTokenizer:
    """One of CLIP's tokenizers, in a folder of a bundle. Thread-safe.

    Raises `BundleError` for a folder that does not hold one.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            special: object = json.loads((folder / "special_tokens.json").read_text("utf-8"))
            added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        except Exception as error:  # tokenizers raises a bare Exception for a bad file
            raise BundleError(folder, f"is malformed: {error}") from error
        if not isinstance(special, dict):
            raise BundleError(folder, "is malformed: special_tokens.json is no JSON object")
        values = cast("dict[str, object]", special)
        self._bos, self._eos, self._pad = (
            _integer(folder, values, f"{k}_token_id", 0) for k in ("bos", "eos", "pad")
        )
        self.length = _integer(folder, values, "model_max_length", 2)
        self._pad_left, self._cut_left = (
            values.get(f"{k}_side", "right") == "left" for k in ("padding", "truncation")
        )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._vectors = vectors_of(added)
        named = [tuple(map(self._id, names)) for names in self._vectors.values()]
        self._own: Mapping[int, tuple[int, ...]] = {ids[0]: ids for ids in named}
        self.added: Mapping[int, tuple[str, int]] = {}
        self._following: Mapping[int, tuple[int, ...]] = {}

    @staticmethod
    def of(bundle: Bundle, folder: str | None = None) -> PromptTokenizer:
        """The tokenizer in that folder of a bundle, by default the first that it has.

        Raises `BundleError` if it is not listed.
        """
        if folder is None:
            refiner = "tokenizer/tokenizer.json" not in bundle.manifest.files
            folder = "tokenizer_2" if refiner else "tokenizer"
        bundle.listed(f"{folder}/special_tokens.json")
        return PromptTokenizer(bundle.listed(f"{folder}/tokenizer.json").parent)

    def with_tokens(self, counts: Mapping[str, int]) -> PromptTokenizer:
        """The same tokenizer with textual inversions: their tokens and numbers of vectors.

        `added` has the token and the index of the vector by id. Raises `InputError` for a token
        that is in the vocabulary.

        Source: diffusers' `TextualInversionLoaderMixin.load_textual_inversion`. With transformers 5
        it takes the first vector alone where the token, or what a prompt has of it, has a capital.
        """
        from tokenizers import Tokenizer

        names = {t: [t, *(f"{t}_{i}" for i in range(1, n))] for t, n in counts.items()}
        library: Any = Tokenizer.from_str(self._tokenizer.to_str())
        for token, vectors in names.items():
            for name in (*vectors, f"{token}_{len(vectors)}"):
                if library.token_to_id(name) is not None:
                    problem = f"{token!r}, and {name!r} is in the vocabulary already"
                    raise InputError("weights", "an embedding whose token is new", problem)
            library.add_tokens(vectors)
        found = copy(self)
        found._tokenizer = library
        ids = {t: [library.token_to_id(name) for name in vectors] for t, vectors in names.items()}
        found.added = {id_: (t, i) for t, own in ids.items() for i, id_ in enumerate(own)}
        found._following = {first: tuple(rest) for first, *rest in ids.values() if rest}
        return found

    def __call__(self, prompt: str) -> Tokens:
        """BOS, at most `length - 2` tokens of the prompt, EOS, padding.

        A textual inversion's first token stands for all of its vectors. Raises `InputError` if the
        prompt is not text.
        """
        encoding, prompt = self._encoded(text("prompt", prompt))
        found, room, cut = encoding.ids, self.length - 2, ""
        places: Sequence[int] = range(len(found))
        if self._following:
            vectors = [(id_, *self._following.get(id_, ())) for id_ in found]
            places = [place for place, ids in enumerate(vectors) for _ in ids]
            found = [id_ for ids in vectors for id_ in ids]
        if len(found) > room and self._cut_left:
            cut = prompt[: _place(encoding, places[len(found) - room - 1])[1]]
            found = found[len(found) - room :]
        elif len(found) > room:
            cut = prompt[_place(encoding, places[room])[0] :]
            found = found[:room]
        ids, places_of = self.framed(found)
        return Tokens(ids, cut, places_of)

    def words(self, prompt: str) -> list[tuple[int, ...]]:
        """The tokens of a text; those of a textual inversion, which belong together, are one item.

        Raises `InputError` if it is not text.
        """
        encoding, _ = self._encoded(text("prompt", prompt))
        found: list[tuple[int, ...]] = []
        ids = encoding.ids
        place = 0
        while place < len(ids):
            word = self._vectors_at(ids, place)
            found.append((*word, *self._following.get(word[-1], ())))
            place += len(word)
        return found

    def framed(self, ids: Sequence[int]) -> tuple[NDArray[np.int64], range]:
        """BOS, at most `length - 2` tokens, EOS, padding; and the places of the tokens."""
        padding = [self._pad] * (self.length - 2 - len(ids))
        inner = [self._bos, *ids, self._eos]
        first = 1 + (len(padding) if self._pad_left else 0)
        row = [*padding, *inner] if self._pad_left else [*inner, *padding]
        return np.array(row, dtype=np.int64), range(first, first + len(ids))

    @property
    def comma(self) -> int | None:
        """The token of a comma, if it has one."""
        return self._tokenizer.token_to_id(",</w>")

    def name(self, id_: int) -> str:
        """A token as text, as it stands in the vocabulary."""
        return self._tokenizer.id_to_token(id_) or f"#{id_}"

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        assert found is not None  # it is one of the tokenizer's own
        return found

    def _encoded(self, prompt: str) -> tuple[Encoding, str]:
        """The tokens of a prompt, and the prompt with all of its inversions' vectors named."""
        encoding = self._tokenizer.encode(prompt, add_special_tokens=False)
        converted = expand(prompt, encoding.tokens, self._vectors) if self._vectors else prompt
        if converted != prompt:
            encoding = self._tokenizer.encode(converted, add_special_tokens=False)
        return encoding, converted

    def _vectors_at(self, ids: Sequence[int], place: int) -> tuple[int, ...]:
        """The tokens from a place on that belong together by the tokenizer's own vocabulary."""
        own = self._own.get(ids[place], ())
        found = tuple(ids[place : place + len(own)])
        return own if own and found == own else (ids[place],)


def _place(encoding: Encoding, token: int) -> tuple[int, int]:
    """Where a token of a prompt begins and ends, in characters."""
    # `offsets` would make a list of them all, and a prompt may have a million.
    place = encoding.token_to_chars(token)
    assert place is not None
    return place


def _integer(folder: Path, values: Mapping[str, object], key: str, least: int) -> int:
    expected = f"an integer from {least} to {_IDS - 1}"
    try:
        return integer(key, expected, values.get(key), least, _IDS - 1)
    except InputError as error:
        raise BundleError(folder, f"is malformed: {error}") from None


@dataclass(frozen=True, slots=True, eq=False)
class TextStates:
    """One evaluation of an encoder: the tokens `ids` [n], and its outputs, each [n, width].

    Tokens that are not in the encoder's table are -1.
    """

    ids: NDArray[np.int64]
    outputs: Outputs


class TextEncoder:
    """Token ids to hidden states, and the two ways in which models take them. Thread-safe.

    `model` is the encoder in a bundle. Raises `BundleError` where its config or its weights lack
    something.
    """

    def __init__(self, bundle: Bundle, model: Model) -> None:
        self._model = model
        self._component = component = model.component
        self._path = bundle.weights(component)
        self._weights = bundle.tensors(component)
        config: Mapping[str, Any] = bundle.manifest.components[component].config
        try:
            self._table: NDArray[Any] = self._weights[TOKEN_TABLE]
            self._epsilon = float(config.get("layer_norm_eps", 1e-5))
            self._eos = int(config["eos_token_id"])
            self.layers = int(config["num_hidden_layers"])
        except (KeyError, TypeError, ValueError) as error:
            problem = f"has a {component} that lacks something: {error}"
            raise BundleError(bundle.path, problem) from error

    @property
    def width(self) -> int:
        """Width of a token's vector."""
        return self._table.shape[1]

    def __call__(
        self, ids: NDArray[np.int64], vectors: Mapping[int, NDArray[np.float32]] | None = None
    ) -> Evaluation[TextStates]:
        """Evaluate the encoder for the tokens `ids` [n]; `vectors` are those of added tokens."""
        given, added = ids, vectors or {}
        if added:
            ids = np.where(np.isin(given, list(added)), -1, given)
        if ids.max() >= len(self._table):
            problem = f"has a table of {len(self._table)} tokens, the tokenizer gives {ids.max()}"
            raise BundleError(self._path, problem)
        embeds = self._table[ids]
        for id_, vector in added.items():
            embeds[given == id_] = vector.astype(embeds.dtype)
        (spec,) = self._model.inputs
        (outputs,) = yield [Row(self._model, {spec.name: embeds})]
        return TextStates(ids, outputs)

    def normalised(self, states: TextStates, skipped: int) -> NDArray[np.float32]:
        """States [n, width] before the last `skipped` layers, after the final LayerNorm."""
        if skipped == 0:
            return self._finite(states.outputs["last_hidden_state"])
        x = self.plain(states, skipped)
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        weight = self._weights[f"{FINAL_NORM}.weight"].astype(np.float32)
        bias = self._weights[f"{FINAL_NORM}.bias"].astype(np.float32)
        scaled: NDArray[np.float32] = centred / np.sqrt(variance + np.float32(self._epsilon))
        return scaled * weight + bias

    def plain(self, states: TextStates, skipped: int) -> NDArray[np.float32]:
        """States [n, width] before the last `skipped` layers, as they are."""
        return self._finite(states.outputs[f"hidden_states.{self.layers - skipped}"])

    def pooled(self, states: TextStates) -> NDArray[np.float32]:
        """The final state at the end of the text, projected: [projection_dim].

        The first end token is the end, or, by an older rule that a config's `eos_token_id` of 2
        stands for, the largest id.

        Source: transformers' `CLIPTextModelWithProjection`.
        """
        ids = states.ids
        end = int(np.argmax(ids if self._eos == _LARGEST else ids == self._eos))
        last = self._finite(states.outputs["last_hidden_state"][end])
        return self._weights[PROJECTION].astype(np.float32) @ last

    def _finite(self, states: NDArray[Any]) -> NDArray[np.float32]:
        if not all_finite(states):
            raise NonFinite(self._component)
        return states.astype(np.float32)

"""The special and added tokens in the files of a CLIP tokenizer, as transformers reads them.

Source: `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend` of transformers 5.23.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from tokenizers import AddedToken

from latentrt.weights.clip_vocabulary import BEGIN, END

CONFIG: Final = "tokenizer_config.json"
WHOLE: Final = "tokenizer.json"
_MAP: Final = "special_tokens_map.json"
_LEGACY: Final = "added_tokens.json"
_DEFAULTS: Final = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
"""Special tokens, in the order in which transformers adds them."""

_FLAGS: Final = frozenset({"content", "single_word", "lstrip", "rstrip", "normalized", "special"})

Token = str | AddedToken


class UnsureError(Exception):
    """Files that transformers may read differently; its text says why."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The texts of the special tokens, and every token to add, in order."""

    bos: str
    eos: str
    pad: str
    unknown: str
    added: tuple[AddedToken, ...]


def read_special_tokens(files: Mapping[str, bytes]) -> SpecialTokens:
    """The special tokens in a tokenizer's files; raises `UnsureError`.

    Added tokens come in the order of their ids, then special tokens that are not among them. The
    tokenizers library chooses their ids: that of the vocabulary, or the next one.
    """
    config = json_object(files, CONFIG)
    special = _special(config, CONFIG)
    if "added_tokens_decoder" in config:
        added = _listed(config["added_tokens_decoder"])
    else:
        in_map = _special(json_object(files, _MAP), _MAP)
        plain = {key: token for key, token in special.items() if isinstance(token, str)}
        names = {str(token) for token in (plain | in_map).values()}
        special |= in_map
        added = _legacy(files, names)
    ordered = [special.get(key, default) for key, default in _DEFAULTS.items()]
    bos, eos, unknown, pad = (str(token) for token in ordered)
    return SpecialTokens(bos, eos, pad, unknown, _to_add(ordered, dict(added)))


def json_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no such file; raises `UnsureError`."""
    if name not in files:
        return {}
    value: object = json.loads(files[name].decode())
    if not isinstance(value, dict):
        raise UnsureError(f"{name} is not a JSON object")
    return cast("dict[str, Any]", value)


def _special(stated: Mapping[str, Any], name: str) -> dict[str, Token]:
    """The special tokens that a JSON file states, by key."""
    found: dict[str, Token] = {}
    for key, value in stated.items():
        if key in _DEFAULTS:
            found[key] = _token(key, value, in_map=name == _MAP)
        elif value and (key.endswith("special_tokens") or _is_token(key, value)):
            raise UnsureError(f"{name} has {key!r}")
    return found


def _is_token(key: str, value: object) -> bool:
    return key.endswith("_token") and isinstance(value, str | dict)


def _token(key: str, value: object, *, in_map: bool) -> Token:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise UnsureError(f"{key} is {value!r}")
    token = dict(cast("dict[str, Any]", value))
    marked = token.pop("__type", None) == "AddedToken"
    if in_map:
        token["special"] = True
    elif not marked:
        raise UnsureError(f"{key} is {value!r}")
    return _flagged(token)


def _flagged(value: object) -> AddedToken:
    """An added token from its content and flags in JSON."""
    stated = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if "content" not in stated or not set(stated) <= _FLAGS:
        raise UnsureError(f"an added token is {value!r}")
    return AddedToken(**stated)


def _listed(value: object) -> list[tuple[int, AddedToken]]:
    """Added tokens with their ids, as tokenizer_config.json lists them."""
    if not isinstance(value, dict):
        raise UnsureError("added_tokens_decoder is not a JSON object")
    tokens = cast("dict[str, Any]", value)
    return [(int(id_), _flagged(token)) for id_, token in tokens.items()]


def _legacy(files: Mapping[str, bytes], names: set[str]) -> list[tuple[int, AddedToken]]:
    """Added tokens with their ids, where tokenizer_config.json does not list them.

    Those of added_tokens.json, then those of tokenizer.json. `names` are the special tokens.
    """
    found: list[tuple[object, AddedToken]] = []
    for token, id_ in json_object(files, _LEGACY).items():
        special = token in names
        found.append((id_, AddedToken(token, normalized=not special, special=special)))
    if WHOLE in files:
        for entry in cast("list[dict[str, Any]]", json_object(files, WHOLE)["added_tokens"]):
            plain = {key: value for key, value in entry.items() if key != "id"}
            found.append((entry["id"], _flagged(plain)))
    odd = [id_ for id_, _ in found if type(id_) is not int]
    if odd:
        raise UnsureError(f"an added token has the id {odd[0]!r}")
    return cast("list[tuple[int, AddedToken]]", found)


def _to_add(special: list[Token], added: Mapping[int, AddedToken]) -> tuple[AddedToken, ...]:
    tokens = [token for _, token in sorted(added.items(), key=lambda item: item[0])]
    known = {token.content for token in tokens}
    others: list[Token] = []
    for token in special:
        # As in transformers, equal ones once: with other flags, or as text, it is another token.
        if str(token) not in known and token not in others:
            others.append(token)
    tokens += [AddedToken(t, special=True) if isinstance(t, str) else t for t in others]
    names = {str(token) for token in special}
    for token in tokens:
        if token.content in names and not token.special:
            token.special = True
    return tuple(tokens)

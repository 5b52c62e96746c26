"""Textual inversions: the vectors of a new token, in a `.safetensors` file (arXiv:2208.01618)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import as_path, shown
from latentrt.bundle.errors import CheckpointError, InputError, WeightsError
from latentrt.bundle.files import read_file
from latentrt.bundle.tensors import FLOAT8, TensorFile
from latentrt.weights.contents import WEIGHTS, check_contents

ENCODERS: Final[Mapping[str, str]] = MappingProxyType(
    {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
)
"""The text encoder of each tensor in a file for SDXL."""
ANY: Final = ""
"""The key of vectors that do not say which text encoder they are for: their width does."""
MOST_VECTORS: Final = 75
"""Tokens that a prompt has room for."""

_NAMES: Final = ("emb_params", "string_to_param")
"""How web UIs name the vectors; diffusers gives them the token's name."""
_MOST_WIDTH: Final = 1 << 14


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Embedding:
    """A textual inversion: what a token of a prompt stands for.

    `token` is the file's name without its ending unless it is given. `vectors` are float32
    [n, width], read-only, by the key `ANY`, or by "clip_l" and "clip_g". `sha256` is the file's.
    Embeddings are equal where token and hash are.

    Raises `WeightsError` for a file that is not an embedding, for values that are not finite, and
    for a pickle. Raises `InputError` for a token that is not text.
    """

    path: Path
    token: str
    sha256: str
    vectors: Mapping[str, NDArray[np.float32]]

    def __init__(self, path: str | Path, token: str | None = None) -> None:
        where = as_path("embedding", path)
        name = where.stem if token is None else token
        if not _is_text(name):
            raise InputError("token", "text that a prompt can hold", shown(name))
        tensors = _read(where)
        object.__setattr__(self, "path", where)
        object.__setattr__(self, "token", name)
        object.__setattr__(self, "sha256", hashlib.sha256(read_file(where)).hexdigest())
        object.__setattr__(self, "vectors", tensors)

    @property
    def count(self) -> int:
        """Vectors of the token, and so tokens of a prompt that it takes."""
        return len(next(iter(self.vectors.values())))

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Embedding) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    @property
    def _value(self) -> tuple[str, str]:
        return self.token, self.sha256


def _is_text(token: object) -> bool:
    if not isinstance(token, str) or not token.strip() or "\0" in token:
        return False
    try:
        token.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read(path: Path) -> dict[str, NDArray[np.float32]]:
    try:
        check_contents(path, WEIGHTS)
    except CheckpointError as error:
        raise WeightsError(error.path, error.problem) from None
    file = TensorFile(path)
    names = list(file)
    known = [name for name in names if name.startswith(_NAMES)]
    if names and set(names) <= set(ENCODERS):
        found = {key: _vectors(file, key) for key in ENCODERS if key in names}
    elif len(names) == 1 or len(known) == 1:
        found = {ANY: _vectors(file, names[0] if len(names) == 1 else known[0])}
    else:
        some = ", ".join(map(repr, names[:3])) or "none"
        problem = f"is not an embedding: it has {len(names)} tensors ({some})"
        raise WeightsError(path, f"{problem}, expected one, or clip_l and clip_g")
    counts = {key: len(vectors) for key, vectors in found.items()}
    if len(set(counts.values())) > 1:
        said = " and ".join(f"{count} in {key}" for key, count in counts.items())
        raise WeightsError(path, f"has {said} vectors: expected the same number")
    return found


def _vectors(file: TensorFile, name: str) -> NDArray[np.float32]:
    entry = file.entries[name]
    shape = entry.shape if len(entry.shape) != 1 else (1, *entry.shape)
    if len(shape) != 2 or not 0 < shape[0] <= MOST_VECTORS or not 0 < shape[1] <= _MOST_WIDTH:
        expected = f"[n, width] or [width] with at most {MOST_VECTORS} vectors"
        raise WeightsError(file.path, f"tensor {name!r} is {entry.shape}, expected {expected}")
    stored: NDArray[Any] = file[name]
    if entry.dtype.name not in ("float16", "bfloat16", "float32", "float64", *FLOAT8):
        raise WeightsError(file.path, f"tensor {name!r} is {entry.dtype}, expected a float")
    vectors = stored.astype(np.float32).reshape(shape)
    if not np.isfinite(vectors).all():
        raise WeightsError(file.path, f"tensor {name!r} has values that are not finite")
    vectors.flags.writeable = False
    return vectors

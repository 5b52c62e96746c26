"""How well pictures fit a text: the similarity of their embeddings by CLIP.

Source: arXiv:2103.00020; transformers' `CLIPModel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.checks import as_path
from latentrt.bundle.errors import BundleError, InputError, NonFinite, only_latentrt_errors
from latentrt.bundle.manifest import CLIP
from latentrt.engines.cache.cache import Build, Cache
from latentrt.engines.verification.verify import Verify, check_verify
from latentrt.runtime.bundle_engines import engines_for
from latentrt.runtime.checks import all_finite
from latentrt.runtime.pixels import Pixels, as_pixels
from latentrt.runtime.rows import Calls, Model, Row
from latentrt.runtime.text import PromptTokenizer, TextEncoder
from latentrt.weights.clip_specs import IMAGE_ENCODER, TEXT_ENCODER

if TYPE_CHECKING:
    from PIL import Image

_CALLS: Final = {"unet": (1,)}
"""One row a call, of either encoder."""


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """Of n pictures and a text: `cosine` [n] from -1 to 1, `logits` [n] times the model's scale.

    `logits` are `logits_per_image` of transformers, about 100 times the cosine. `notes` say what a
    caller should know, such as what of a text was cut.
    """

    cosine: NDArray[np.float32]
    logits: NDArray[np.float32]
    notes: tuple[str, ...] = ()


class Clip:
    """The two encoders of a CLIP. Thread-safe."""

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "auto",
        precision: str = "auto",
        options: Mapping[str, object] = MappingProxyType({}),
        components: Mapping[str, str] = MappingProxyType({}),
        *,
        build: Build = "missing",
        cache: Cache | None = None,
        verify: Verify = "golden",
    ) -> None:
        """Over a bundle that is open already; other arguments as in `Pipeline.open`."""
        if bundle.manifest.family != CLIP:
            got = f"{bundle.path}, of family {bundle.manifest.family}"
            raise InputError("bundle", "a CLIP's", got)
        check_verify(verify)
        self._engines = engines_for(
            bundle,
            engine=engine,
            precision=precision,
            options=options,
            components=components,
            build=build,
            cache=cache,
            guarded=True,
            verify=verify,
            max_engines=None,
            memory=None,
        )
        self._models = {
            name: Model(name, record.inputs, partial(self._engines.get, name))
            for name, record in bundle.manifest.components.items()
        }
        self._tokenizer = PromptTokenizer.of(bundle)
        self._text_encoder = TextEncoder(bundle, self._models[TEXT_ENCODER])
        config = bundle.manifest.components[IMAGE_ENCODER].config
        try:
            self._side = int(config["image_size"])
            self._scale = float(np.exp(config["logit_scale"]))
            steps: Mapping[str, Any] = config["preprocessor"]
            self._mean, self._std = (np.array(steps[n], np.float32) for n in ("mean", "std"))
        except (KeyError, TypeError, ValueError) as error:
            problem = f"has an {IMAGE_ENCODER} that lacks something: {error}"
            raise BundleError(bundle.path, problem) from error

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        engine: str = "auto",
        precision: str = "auto",
        options: Mapping[str, object] = MappingProxyType({}),
        components: Mapping[str, str] = MappingProxyType({}),
        build: Build = "missing",
        cache: Path | str | None = None,
        verify: Verify = "golden",
    ) -> Self:
        """Open the bundle that `latentrt export` makes of a CLIP; arguments as in `Pipeline.open`.

        Raises `BundleError`, `Unavailable` or `InputError`.
        """
        folder = None if cache is None else as_path("cache", cache)
        with only_latentrt_errors():
            return cls(
                Bundle.open(path),
                engine,
                precision,
                options,
                components,
                build=build,
                cache=Cache(folder),
                verify=verify,
            )

    @property
    def engines(self) -> Mapping[str, str]:
        """Name of the backend of each component."""
        return {name: chosen.name for name, chosen in self._engines.chosen.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free both engines."""
        self._engines.close()

    def __call__(self, images: Sequence[Image.Image | Pixels], text: str) -> Similarity:
        """The similarity of each picture, Pillow or uint8 [h, w, 3], to a text.

        A text of more than 75 tokens is cut, as CLIP was trained. Raises `InputError` for what is
        no picture or no text, `NonFinite` if an encoder gave what is no number.
        """
        with only_latentrt_errors():
            tokens = self._tokenizer(text)
            wanted = self.embed_text(text)
            found = np.stack([self.embed_image(image) for image in images] or [wanted[:0]])
            cosine: NDArray[np.float32] = found @ wanted if images else np.zeros(0, np.float32)
            notes = (f"text: cut to {self._tokenizer.length - 2} tokens, without {tokens.cut!r}",)
            logits = cosine * np.float32(self._scale)
            return Similarity(cosine, logits, notes if tokens.cut else ())

    def embed_text(self, text: str) -> NDArray[np.float32]:
        """A text's embedding of unit length, float32 [d]."""
        evaluation = self._text_encoder(self._tokenizer(text).ids)
        states = Calls(_CALLS).answer(evaluation)
        return _unit(self._text_encoder.pooled(states))

    def embed_image(self, image: Image.Image | Pixels) -> NDArray[np.float32]:
        """A picture's embedding of unit length, float32 [d]."""
        pixels = for_clip(as_pixels("images", image), self._side, self._mean, self._std)
        (spec,) = self._models[IMAGE_ENCODER].inputs
        row = Row(self._models[IMAGE_ENCODER], {spec.name: pixels})
        (outputs,) = Calls(_CALLS).together([row])
        found = outputs["image_embeds"]
        if not all_finite(found):
            raise NonFinite(IMAGE_ENCODER)
        return _unit(found)


def for_clip(
    pixels: Pixels, side: int, mean: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A picture as CLIP takes it, float32 [3, side, side].

    The shorter edge is resized to `side`, bicubic, and the centre is cut out. `mean` and `std` are
    those of colours in [0, 1].

    Source: transformers' `CLIPImageProcessorPil`.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    short = min(height, width)
    wide, high = (int(side * n / short) for n in (width, height))
    resized = Image.fromarray(pixels).resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - side) // 2, (high - side) // 2
    centre = np.asarray(resized.crop((left, top, left + side, top + side)), np.float32)
    scaled = (centre * np.float32(1 / 255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def _unit(embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    return embedding / np.float32(np.linalg.norm(embedding))

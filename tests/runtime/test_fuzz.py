"""Whatever is asked for becomes a picture or an error of ours, and so does whatever is read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from tests.fuzz import errors_of_ours, fuzz

from latentrt.runtime import Guidance, Pipeline, Request, Sampling, Size
from latentrt.runtime.image import encode, recorded_request
from latentrt.runtime.schedules import CATALOGUE, SCHEDULES, build_schedule

TEXTS = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(
    ["", " ", "((a:1.5)", "a" * 5000, "\0", "\ud83d", "<|endoftext|>", "e\u0301 \u202e", "日本 🦊"]
)
# Few sizes that exist, since each is compiled, and many that do not.
SIZES = st.sampled_from([None, (64, 64), (72, 64), (63, 64), (0, 8), (-8, 8), (2**40, 8)])
COUNTS = st.sampled_from([1, 1, 1, 2, 3]) | st.integers(-2, 2000) | st.just(10**30)
NUMBERS = st.floats() | st.sampled_from([0, 1, -1, 1e-30, 1e30, 1e308, 7.5])
OPTIONAL = st.none() | NUMBERS
PROMPTS = TEXTS | st.text(alphabet="ab ()[]:|.5-\\ANDBREK", max_size=40)
REQUESTS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": PROMPTS,
    "negative_prompt": st.none() | PROMPTS,
    "syntax": st.sampled_from(["webui", "plain", ""]),
    "size": SIZES,
    "num_images": st.sampled_from([1, 1, 1, 2, 0, -1, 10**30]),
    "seed": st.none() | st.integers(-2, 2**64),
    "clip_skip": st.sampled_from([0, 0, 0, 1, 2, 3, -1, 10**30]),
    "composed": st.lists(st.tuples(TEXTS, NUMBERS), max_size=2),
}
SAMPLINGS: dict[str, st.SearchStrategy[Any]] = {
    "sampler": st.sampled_from([None, "", "Euler a", *CATALOGUE]),
    "schedule": st.sampled_from([None, None, None, *SCHEDULES]),
    "steps": COUNTS,
    "eta": st.none() | st.floats(0, 1) | NUMBERS,
    "rho": st.none() | NUMBERS,
    "timesteps": st.none() | st.none() | st.lists(NUMBERS | st.integers(0, 999), max_size=3),
    "sigmas": st.none() | st.none() | st.lists(NUMBERS, max_size=3),
    "brownian": st.booleans(),
}
GUIDANCES: dict[str, st.SearchStrategy[Any]] = {
    "scale": st.floats(0, 20) | NUMBERS,
    "rescale": st.just(0.0) | st.floats(0, 1) | NUMBERS,
    "interval": st.none() | st.tuples(NUMBERS, NUMBERS),
}
Values = dict[str, Any]


def some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Values]:
    """Some of these fields: what is odd in one is seen only where the others are right."""
    names = st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({n: fields[n] for n in chosen}))


@pytest.fixture(scope="module")
def pipe(
    bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    cache = tmp_path_factory.mktemp("fuzz")
    with Pipeline.open(bundle("heads"), engine="onnxruntime", cache=cache) as pipeline:
        yield pipeline


def drawn(
    pipe: Pipeline, folder: Path, request: Values, sampling: Values, guidance: Values
) -> None:
    """A picture of finite latents, or an error of ours."""
    with errors_of_ours():
        size = request.pop("size", None)
        asked = Request(
            request.pop("prompt", "a red circle"),
            size=None if size is None else Size(*size),
            sampling=Sampling(**{"steps": 2, **sampling}),
            guidance=Guidance(**guidance),
            **request,
        )
        # Whatever `steps` may be, nobody waits for more than a few.
        with pipe.run(asked) as run:
            for step in run:
                if step.index >= 3:
                    return
            result = run.result()
        assert np.isfinite(result.latents).all()
        assert Request.from_json(result.request.to_json()) == result.request
        assert recorded(result.png(0), folder)["prompt"] == asked.prompt


def recorded(content: bytes, folder: Path) -> dict[str, Any]:
    """The request in a picture's bytes."""
    path = folder / "a.png"
    path.write_bytes(content)
    return recorded_request(path)


@fuzz(60)
@given(request=some(REQUESTS), sampling=some(SAMPLINGS), guidance=some(GUIDANCES))
@example(request={}, sampling={}, guidance={"scale": 1e308})
@example(request={"composed": [("a", 1e38)]}, sampling={}, guidance={})
@example(request={"prompt": "\ud83d"}, sampling={}, guidance={})
def test_a_request_becomes_a_picture_or_an_error_of_ours(
    pipe: Pipeline, tmp_path: Path, request: Values, sampling: Values, guidance: Values
) -> None:
    drawn(pipe, tmp_path, dict(request), dict(sampling), dict(guidance))


PICTURE = encode(
    Image.new("RGB", (8, 8)),
    "PNG",
    Request("a red circle", seed=1, size=Size(8, 8)),
    "model",
    build_schedule({}, sampler="euler"),
)


@fuzz(100)
@given(
    at=st.integers(0, len(PICTURE) - 1),
    replaced=st.integers(0, 40),
    content=st.binary(max_size=40),
)
def test_the_text_of_a_damaged_picture_is_read_or_refused(
    tmp_path: Path, at: int, replaced: int, content: bytes
) -> None:
    damaged = PICTURE[:at] + content + PICTURE[at + replaced :]
    with errors_of_ours():
        Request.from_json(recorded(damaged, tmp_path))


@fuzz(100)
@given(text=TEXTS | st.sampled_from(["{}", "[]", "[" * 100_000, "9" * 5000, '{"prompt": NaN}']))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_any_text_in_a_picture_is_a_request_or_refused(
    tmp_path: Path, kind: str, text: str
) -> None:
    from PIL.PngImagePlugin import PngInfo

    buffer, picture = io.BytesIO(), Image.new("RGB", (8, 8))
    encoded = text.encode("utf-8", "surrogatepass")
    if kind == "PNG":
        info = PngInfo()
        info.add_itxt("latentrt", encoded.decode("utf-8", "replace"))
        picture.save(buffer, kind, pnginfo=info)
    else:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x927C] = encoded[:60_000]  # MakerNote
        picture.save(buffer, kind, exif=exif)
    with errors_of_ours():
        Request.from_json(recorded(buffer.getvalue(), tmp_path))

"""Requests: what is refused, by name, and the way through JSON and back."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz import fuzz

from latentrt.bundle.errors import InputError
from latentrt.runtime import Guidance, Request, Sampling, Size
from latentrt.runtime.noise import GENERATORS
from latentrt.runtime.provenance import Provenance

BAD: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": 3},
    "negative_prompt": {"negative_prompt": 3},
    "num_images": {"num_images": 0},
    "seed": {"seed": -1},
    "clip_skip": {"clip_skip": -1},
    "latents": {"latents": np.zeros((1, 4, 8), np.float32)},
    "composed": {"composed": [("b", math.nan)]},
    "generator": {"generator": "xorshift"},
    "crop": {"crop": (0, -1)},
}


@pytest.mark.parametrize("field", sorted(BAD))
def test_a_bad_field_is_named(field: str) -> None:
    arguments = {"prompt": "a", **BAD[field]}
    with pytest.raises(InputError) as caught:
        Request(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Sampling(steps=0), "steps"),
        (lambda: Sampling(steps=True), "steps"),
        (lambda: Sampling(steps=2.5), "steps"),  # pyright: ignore[reportArgumentType]
        (lambda: Sampling(eta=1.5), "eta"),
        (lambda: Sampling(timesteps=("a",)), "timesteps"),  # pyright: ignore[reportArgumentType]
        (lambda: Sampling(sigmas=(1.0, math.nan)), "sigmas"),
        (lambda: Guidance(math.nan), "guidance scale"),
        (lambda: Guidance(math.inf), "guidance scale"),
        (lambda: Guidance(-1), "guidance scale"),
        (lambda: Guidance(5, rescale=2), "guidance rescale"),
        (lambda: Guidance(5, rescale=math.nan), "guidance rescale"),
        (lambda: Size(0, 8), "size width"),
        (lambda: Size(8, -8), "size height"),
        (lambda: Size.parse("512"), "size"),
        (lambda: Size.parse("512x512x3"), "size"),
        (lambda: Size.parse("9999999x8"), "size"),
        (lambda: Request("a", latents=np.full((1, 4, 8, 8), np.nan, np.float32)), "latents"),
        (lambda: Request("a", latents=np.zeros((1, 4, 8, 8), float)), "latents"),  # pyright: ignore[reportArgumentType]
        (lambda: Request("a", latents=np.zeros((2, 4, 8, 8), np.float32)), "latents"),
        (lambda: Request("a", num_images=10**6), "num_images"),
    ],
)
def test_a_bad_value_is_named(make: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field


WRONG_KINDS: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (Request, {"prompt": ["a"]}, "prompt"),
    (Request, {"prompt": "a", "size": (128, 128)}, "size"),
    (Request, {"prompt": "a", "size": "128x128"}, "size"),
    (Request, {"prompt": "a", "original_size": (8, 8)}, "original_size"),
    (Request, {"prompt": "a", "target_size": [8, 8]}, "target_size"),
    (Request, {"prompt": "a", "crop": 5}, "crop"),
    (Request, {"prompt": "a", "crop": "12"}, "crop"),
    (Request, {"prompt": "a", "crop": (1.0, 2.0)}, "crop"),
    (Request, {"prompt": "a", "num_images": "2"}, "num_images"),
    (Request, {"prompt": "a", "seed": 1.0}, "seed"),
    (Request, {"prompt": "a", "clip_skip": None}, "clip_skip"),
    (Request, {"prompt": "a", "latents": [[[[0.0]]]]}, "latents"),
    (Request, {"prompt": "a", "composed": 3}, "composed"),
    (Request, {"prompt": "a", "composed": [3]}, "composed"),
    (Request, {"prompt": "a", "composed": ["ab"]}, "composed"),
    (Request, {"prompt": "a", "composed": [("b", "1")]}, "composed"),
    (Request, {"prompt": "a", "generator": None}, "generator"),
    (Request, {"prompt": "a", "sampling": 20}, "sampling"),
    (Request, {"prompt": "a", "sampling": {}}, "sampling"),
    (Request, {"prompt": "a", "guidance": "7"}, "guidance"),
    (Request, {"prompt": "a", "guidance": True}, "guidance"),
    (Request, {"prompt": "a", "guidance": Sampling()}, "guidance"),
    (Request, {"prompt": "a", "seed": 10**5000}, "seed"),
    (Request, {"prompt": "a", "seed": np.float64(3)}, "seed"),
    (Request, {"prompt": "a", "seed": np.bool_(True)}, "seed"),
    (Request, {"prompt": "a", "num_images": np.array([1, 2])}, "num_images"),
    (Request, {"prompt": "a", "composed": {"b": 1.0}}, "composed"),
    (Request, {"prompt": "a", "composed": [("b", np.bool_(True))]}, "composed"),
    (Request, {"prompt": "a", "generator": ["torch"]}, "generator"),
    (Request, {"prompt": "a", "provenance": "sd"}, "provenance"),
    (Request("a").with_values, {"size": "8x8"}, "size"),
    (Request("a").with_values, {"sede": 3}, "sede"),
    (Provenance, {"model": 5}, "provenance model"),
    (Sampling, {"sampler": ""}, "sampler"),
    (Sampling, {"schedule": ""}, "schedule"),
    (Sampling, {"rho": math.nan}, "rho"),
    (Sampling, {"sigmas": b"abc"}, "sigmas"),
    (Sampling, {"sigmas": {1.0, 0.0}}, "sigmas"),
    (Sampling, {"sigmas": np.float32(1)}, "sigmas"),
    (Guidance, {"scale": 3j}, "guidance scale"),
    (Guidance, {"scale": np.complex64(3)}, "guidance scale"),
    (Guidance, {"scale": np.array([3.0])}, "guidance scale"),
    (Guidance, {"interval": {1.0, 2.0}}, "guidance interval"),
    (Sampling, {"sampler": 3}, "sampler"),
    (Sampling, {"schedule": ["karras"]}, "schedule"),
    (Sampling, {"steps": "20"}, "steps"),
    (Sampling, {"eta": "0.5"}, "eta"),
    (Sampling, {"eta": True}, "eta"),
    (Sampling, {"rho": "seven"}, "rho"),
    (Sampling, {"rho": 10**400}, "rho"),
    (Sampling, {"timesteps": 999}, "timesteps"),
    (Sampling, {"timesteps": "999"}, "timesteps"),
    (Sampling, {"sigmas": [[1.0, 0.0]]}, "sigmas"),
    (Sampling, {"brownian": "no"}, "brownian"),
    (Guidance, {"scale": "7"}, "guidance scale"),
    (Guidance, {"scale": None}, "guidance scale"),
    (Guidance, {"scale": 10**400}, "guidance scale"),
    (Guidance, {"scale": np.array([3.0, 4.0])}, "guidance scale"),
    (Guidance, {"rescale": "0.7"}, "guidance rescale"),
    (Guidance, {"interval": 1.0}, "guidance interval"),
    (Guidance, {"interval": "12"}, "guidance interval"),
    (Size, {"width": "128", "height": 128}, "size width"),
    (Size, {"width": 128, "height": 128.0}, "size height"),
    (Size.parse, {"text": 128}, "size"),
]


@pytest.mark.parametrize(("make", "arguments", "field"), WRONG_KINDS)
def test_a_value_of_the_wrong_kind_is_named(
    make: Callable[..., object], arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError) as caught:
        make(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("given", ["7", None, math.nan])
def test_a_scale_function_that_gives_no_scale_is_named(given: Any) -> None:
    with pytest.raises(InputError) as caught:
        Guidance(lambda sigma: given).scale_at(1.0)
    assert caught.value.field == "guidance scale"


def test_a_number_will_do_for_guidance() -> None:
    assert Request("a", guidance=3).guidance == Guidance(3.0)
    found = Request("a", guidance=np.float32(3)).guidance  # pyright: ignore[reportArgumentType]
    assert found == Guidance(3.0)
    assert type(found.scale) is float


def test_a_samplers_name_will_do_for_sampling() -> None:
    assert Request("a", sampling="dpmpp_2m").sampling == Sampling("dpmpp_2m")


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint64])
def test_numpys_integers_are_kept_as_pythons(kind: Any) -> None:
    request = Request(
        "a",
        seed=kind(5),
        num_images=kind(2),
        clip_skip=kind(1),
        size=Size(kind(64), kind(72)),
        crop=np.array([3, 4], kind),  # pyright: ignore[reportArgumentType]
        sampling=Sampling(steps=kind(7)),
    )
    plain = Request(
        "a",
        seed=5,
        num_images=2,
        clip_skip=1,
        size=Size(64, 72),
        crop=(3, 4),
        sampling=Sampling(steps=7),
    )
    assert request == plain
    # NumPy's integers are no JSON.
    assert json.dumps(request.to_json()) == json.dumps(plain.to_json())


def test_numpys_numbers_are_kept_as_pythons() -> None:
    sampling = Sampling(eta=np.float32(0.5), sigmas=np.array([9.0, 0.0], np.float32))  # pyright: ignore[reportArgumentType]
    assert sampling == Sampling(eta=0.5, sigmas=(9.0, 0.0))
    assert {type(n) for n in (sampling.eta, *(sampling.sigmas or ()))} == {float}


@settings(deadline=None)
@given(
    prompt=st.text(),
    negative=st.none() | st.text(),
    size=st.none() | st.builds(Size, st.integers(1, 16384), st.integers(1, 16384)),
    images=st.integers(1, 1024),
    seed=st.none() | st.integers(0, 2**62),
    steps=st.integers(1, 1000),
    scale=st.floats(0, 100) | st.floats(1, 9),
    rescale=st.floats(0, 1),
    skip=st.integers(0, 12),
    interval=st.none() | st.tuples(st.floats(0, 1), st.floats(2, 100)),
    sigmas=st.none() | st.lists(st.floats(0, 80), min_size=1).map(tuple),
    composed=st.lists(st.tuples(st.text(), st.floats(-9, 9))).map(tuple),
    generator=st.sampled_from(GENERATORS),
    crop=st.tuples(st.integers(0, 99), st.integers(0, 99)),
)
def test_json_and_back_loses_nothing(
    prompt: str,
    negative: str | None,
    size: Size | None,
    images: int,
    seed: int | None,
    steps: int,
    scale: float,
    rescale: float,
    skip: int,
    interval: tuple[float, float] | None,
    sigmas: tuple[float, ...] | None,
    composed: tuple[tuple[str, float], ...],
    generator: str,
    crop: tuple[int, int],
) -> None:
    request = Request(
        prompt,
        negative_prompt=negative,
        size=size,
        num_images=images,
        seed=seed,
        sampling=Sampling(
            "ddim", schedule="trailing", steps=steps, eta=0.5, sigmas=sigmas, brownian=True
        ),
        guidance=Guidance(scale, rescale=rescale, interval=interval),
        clip_skip=skip,
        composed=composed if scale > 1 else (),
        generator=generator,
        original_size=size,
        crop=crop,
        target_size=Size(7, 9),
    )
    again = Request.from_json(json.loads(json.dumps(request.to_json())))
    for field in Request.__dataclass_fields__:
        assert getattr(again, field) == getattr(request, field)


def test_rows_of_latents_come_back_by_their_hash() -> None:
    latents = np.random.default_rng(0).standard_normal((4, 4, 8, 8), dtype=np.float32)
    for first in range(3):
        rows = latents[first : first + 2]
        stored = Request("a", num_images=2, latents=rows).to_json()
        found = Request.from_json(stored, [latents]).latents
        assert found is not None
        assert np.array_equal(found, rows)
    stored = Request("a", num_images=2, latents=latents[::2]).to_json()
    with pytest.raises(InputError, match="latents"):
        Request.from_json(stored, [latents])


def test_requests_are_equal_by_value() -> None:
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)

    def make(**values: Any) -> Request:
        given: dict[str, Any] = {"seed": 5, "sampling": "euler", "latents": latents.copy()}
        return Request("a", **{**given, **values})

    assert make() == make()
    assert len({make(), make(), make(seed=6)}) == 2
    assert pickle.loads(pickle.dumps(make())) == copy.deepcopy(make()) == make()
    kept = copy.deepcopy(make()).latents
    assert kept is not None
    assert not kept.flags.writeable
    assert make(provenance=Provenance("m", "1", "euler", "")) == make()
    assert make() != "a"
    other = latents.copy()
    other[0, 0, 0, 0] += 1
    changes: list[dict[str, Any]] = [
        {"negative_prompt": ""},
        {"size": Size(8, 8)},
        {"seed": None},
        {"sampling": "heun"},
        {"guidance": 3},
        {"clip_skip": 1},
        {"latents": None},
        {"latents": other},
        {"composed": [("b", 1.0)]},
        {"generator": "numpy"},
        {"original_size": Size(8, 8)},
        {"crop": (0, 1)},
        {"target_size": Size(8, 8)},
        {"num_images": 2, "latents": np.concatenate([latents, latents])},
    ]
    for values in changes:
        assert make(**values) != make()


@pytest.mark.parametrize("schema", [{}, {"schema": 1}, {"schema": 3}])
def test_prompts_of_older_requests_are_plain_text(schema: dict[str, int]) -> None:
    older = Request.from_json({"prompt": "a (red:1.3) [circle:star:3] AND b", **schema})
    assert older == Request("a (red:1.3) [circle:star:3] AND b", syntax="plain")
    assert older.prompts == (("a (red:1.3) [circle:star:3] AND b", 1.0),)


@pytest.mark.parametrize("syntax", ["WEBUI", "", 3, None])
def test_an_unknown_syntax_is_refused(syntax: Any) -> None:
    with pytest.raises(InputError, match=r"^syntax: expected one of webui, plain, got "):
        Request("a", syntax=syntax)


@pytest.mark.parametrize("weight", ["10001", "-20000", "9" * 400])
def test_a_weight_beyond_the_largest_is_refused(weight: str) -> None:
    with pytest.raises(InputError, match=r"^prompt: expected weights of at most 10000 either way"):
        Request(f"a AND b:{weight}")
    assert Request(f"a AND b:{weight}", syntax="plain").prompts[0][1] == 1.0


def test_several_prompts_in_one_text_come_before_those_composed() -> None:
    request = Request("a :0.5 AND b", composed=[("c AND d", 2.0)])
    assert request.prompts == (("a", 0.5), ("b", 1.0), ("c AND d", 2.0))
    with pytest.raises(InputError, match="guidance scale: expected above 1 with several prompts"):
        Request("a AND b", guidance=1.0)


def test_keys_that_are_absent_have_their_defaults() -> None:
    assert Request.from_json({"prompt": "a", "schema": 4}) == Request("a")
    given = {"sampling": {"steps": 3}, "guidance": {"scale": 2}, "schema": 4}
    found = Request.from_json({"prompt": "a", **given})
    assert found == Request("a", sampling=Sampling(steps=3), guidance=2)
    for name in Request.__dataclass_fields__:
        stored = Request("a").to_json()
        assert list(stored) == ["schema", *Request.__dataclass_fields__]
        del stored[name]
        if name == "prompt":
            with pytest.raises(InputError, match=r"^prompt: expected a string, got none"):
                Request.from_json(stored)
        else:
            assert Request.from_json(stored) == Request("a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 6, "mask": "x"}, r"^schema: expected at most 5; a newer version"),
        ({"schema": 0}, r"^schema: expected an integer of at least 1, got 0"),
        ({"schema": "1"}, r"^schema: "),
        ({"schema": None}, r"^schema: "),
        ({"schema": True}, r"^schema: "),
        ({"mask": "x"}, r"^request: expected keys among prompt, .*, got 'mask'"),
        ({"sampling": {"order": 2}}, r"^sampling: expected keys among sampler, .*, got 'order'"),
        ({"guidance": {"cfg": 2}}, r"^guidance: expected keys among scale, .*, got 'cfg'"),
        ({"provenance": {"gpu": 2}}, r"^provenance: expected keys among model, .*, got 'gpu'"),
        ({"original_size": "x"}, r"^original_size: "),
    ],
)
def test_a_newer_request_is_refused_by_its_unknown_part(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Request.from_json({**Request("a").to_json(), **changes})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=())),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    max_leaves=6,
)


@fuzz(200)
@given(JSON)
def test_any_json_is_a_request_or_an_input_error(value: Any) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(Request.from_json(value), Request)


@fuzz(200)
@given(
    st.dictionaries(
        st.sampled_from(["schema", *Request.__dataclass_fields__]),
        JSON
        | st.dictionaries(
            st.sampled_from(
                [*Sampling.__dataclass_fields__, *Guidance.__dataclass_fields__, "model"]
            ),
            JSON,
        ),
    )
)
def test_any_json_of_known_keys_is_a_request_or_an_input_error(value: dict[str, Any]) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(Request.from_json({"prompt": "a", **value}), Request)


def test_a_request_with_latents_comes_back_only_with_those_latents() -> None:
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)
    stored = Request("a", latents=latents).to_json()
    assert np.array_equal(Request.from_json(stored, [latents]).latents, latents)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="latents"):
        Request.from_json(stored)
    with pytest.raises(InputError, match="latents"):
        Request.from_json(stored, [latents + 1])
    with pytest.raises(InputError, match="latents"):
        Request.from_json(Request("a").to_json(), [latents])


@pytest.mark.parametrize("value", [{}, {"prompt": None, "latents": None}])
def test_malformed_json_is_an_input_error(value: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Request.from_json(value)


def test_a_scale_function_is_named_in_json_and_has_to_be_given_again() -> None:
    def rising(sigma: float) -> float:
        return 1.0 + sigma

    stored = Request("a", guidance=Guidance(rising)).to_json()
    assert json.loads(json.dumps(stored))["guidance"]["scale"] == "function rising"
    with pytest.raises(InputError, match="guidance scale"):
        Request.from_json(stored)


LONE = {
    "json": json.loads('"a \\ud83d b"'),
    "command line": os.fsdecode(b"caf\xe9"),
    "second half": "\udcff",
}


@pytest.mark.parametrize("place", sorted(LONE))
@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "composed"])
def test_text_that_is_not_unicode_is_refused_by_the_name_of_its_field(
    field: str, place: str
) -> None:
    text = LONE[place]
    value = [("fine", 1.0), (text, 0.5)] if field == "composed" else text
    with pytest.raises(
        InputError, match="^" + field + ": expected text, .* at character"
    ) as caught:
        Request(**{"prompt": "a", field: value})
    assert caught.value.field == field
    str(caught.value).encode()
    stored = {**Request("a").to_json(), field: value}
    with pytest.raises(InputError, match="^" + field + ": "):
        Request.from_json(stored)


def test_text_outside_the_basic_plane_is_text() -> None:
    whole = json.loads('"\\ud83d\\ude42"')
    assert (
        Request(whole, negative_prompt="\0\u202e", composed=[(whole, 1.0)]).prompt == "\U0001f642"
    )


def test_a_prompt_of_json_that_is_a_number_is_refused() -> None:
    stored = {**Request("a").to_json(), "composed": [[5, 1.0]]}
    with pytest.raises(InputError, match=r"^composed: "):
        Request.from_json(stored)


class Odd:
    """A value whose every method fails."""

    def __float__(self) -> float:
        raise RuntimeError

    def __index__(self) -> int:
        raise TypeError

    def __repr__(self) -> str:
        raise RuntimeError


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.decimals(),
    st.lists(st.floats() | st.text() | st.none(), max_size=3),
    st.tuples(st.text(), st.integers()).map(lambda pair: [pair]),
    st.dictionaries(st.text(), st.integers(), max_size=2),
    st.sets(st.integers(), max_size=2),
    st.sampled_from([np.int64(3), np.float32(0.5), np.bool_(True), np.array(3), np.array("a")]),
    st.sampled_from([np.zeros((1, 4, 8, 8), np.float16), np.zeros(2), np.zeros((2, 2), int)]),
    st.sampled_from([Odd(), object(), int, len, Size(8, 8), Sampling(), Guidance(), 10**5000]),
)
PLACES = [
    *((Request, name) for name in Request.__dataclass_fields__),
    *((Sampling, name) for name in Sampling.__dataclass_fields__),
    *((Guidance, name) for name in Guidance.__dataclass_fields__),
    *((Size, name) for name in Size.__dataclass_fields__),
]


@fuzz(500)
@given(st.sampled_from(PLACES), ODD)
def test_any_value_of_any_field_is_taken_or_named(place: tuple[Any, str], value: Any) -> None:
    make, field = place
    needed = {Request: {"prompt": "a"}, Size: {"width": 8, "height": 8}}.get(make, {})
    refused = ""
    try:
        made = make(**{**needed, field: value})
        assert made == make(**{**needed, field: value})
        assert hash(made) == hash(make(**{**needed, field: value}))
    except InputError as error:
        refused = error.field
    assert refused == "" or field[:5] in refused  # sampling may be a sampler's name


def test_a_size_that_is_no_text_is_named() -> None:
    for value in (None, 3, b"8x8", "8x8x8", "8\u0660x8"):
        with pytest.raises(InputError, match=r"^size"):
            Size.parse(value)  # pyright: ignore[reportArgumentType]


def test_every_image_of_the_largest_seed_has_a_request_of_its_own() -> None:
    largest = 2**63 - 4
    many = Request("a", seed=largest, num_images=4)
    alone = many.with_values(seed=largest + 3, num_images=1)
    assert Request.from_json(alone.to_json()) == alone
    with pytest.raises(InputError, match=r"seed: expected an integer from 0 to 2\*\*63 - 4, got"):
        many.with_values(seed=largest + 1)

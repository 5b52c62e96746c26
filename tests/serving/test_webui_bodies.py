"""Bodies of the web UI's API, whatever is in them: a job, or an error that names a field."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from latentrt.bundle.errors import InputError
from latentrt.runtime import Guidance
from latentrt.serving.bodies import JobBody
from latentrt.serving.problem import Refused
from latentrt.serving.shelf import Shelf
from latentrt.serving.webui.bodies import Img2ImgBody, Txt2ImgBody
from latentrt.serving.webui.infotext import parsed_infotext, written_infotext
from latentrt.serving.webui.job_body import job_body
from latentrt.serving.webui.options import WebOptions


def png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 5)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


TEXTS = st.text(max_size=8) | st.sampled_from(
    [png(), "Euler", "DPM++ 2M Karras", "Karras", "Latent", "None", "a [12ab]", "canny", "Balanced"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 70) | st.floats(-2, 9) | st.just(1e300) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
UNITS = st.dictionaries(
    st.sampled_from(
        [
            *("image", "input_image", "mask", "module", "model", "weight", "resize_mode"),
            *("threshold_a", "guidance_start", "guidance_end", "control_mode", "enabled"),
        ]
    ),
    VALUES,
    max_size=4,
)
SCRIPTS = st.dictionaries(
    st.sampled_from(["controlnet", "ControlNet", "ADetailer"]),
    VALUES | st.fixed_dictionaries({"args": VALUES | UNITS | st.lists(UNITS, max_size=2)}),
    max_size=2,
)
SETTINGS = st.dictionaries(
    st.sampled_from([*WebOptions.model_fields, "s_churn", "other"]), VALUES, max_size=2
)


def fields_of(kind: type[Txt2ImgBody | Img2ImgBody]) -> st.SearchStrategy[Mapping[str, Any]]:
    """A body that may be used, some of whose fields have other values."""
    begun = st.fixed_dictionaries(
        {
            "init_images": st.just([png()]),
            "enable_hr": st.just(True),
            "prompt": st.just("a fox"),
            "batch_size": st.integers(1, 3),
            "n_iter": st.integers(1, 3),
        }
    )
    others = st.dictionaries(st.sampled_from([*kind.model_fields, "other"]), VALUES, max_size=3)
    special = st.fixed_dictionaries(
        {}, optional={"alwayson_scripts": SCRIPTS, "override_settings": SETTINGS}
    )
    return st.tuples(begun, others, special).map(lambda three: three[0] | three[1] | three[2])


@pytest.mark.parametrize("kind", [Txt2ImgBody, Img2ImgBody])
@settings(max_examples=100)
@given(data=st.data())
def test_a_body_is_a_job_or_is_refused(
    kind: type[Txt2ImgBody | Img2ImgBody], data: st.DataObject
) -> None:
    fields = data.draw(fields_of(kind))
    try:
        body = kind.model_validate(fields)
    except ValidationError:  # FastAPI answers it with 422
        event("not a body")
        return
    try:
        found = job_body(body, WebOptions(), Shelf((Path("a"),)))
    except (InputError, Refused) as error:
        event(type(error).__name__)
        return
    event("a job")
    assert isinstance(found, JobBody)
    assert found.num_images == body.batch_size * body.n_iter


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_any_text_of_a_field_is_read_again(prompt: str, negative: str, model: str) -> None:
    fields = {"Steps": 3, "Sampler": "Euler a", "Seed": 7, "Model": model}
    lines = [" ".join(each.split()).replace("Negative prompt:", "") for each in (prompt, negative)]
    found = parsed_infotext(written_infotext(lines[0], lines[1], fields))
    assert found["Prompt"] == lines[0].strip()
    assert found["Negative prompt"] == lines[1].strip()
    assert found["Model"] == model or found.get("Model-1") == model.partition("x")[0]


# Fields and lines; one value is quoted, and no JSON.
FRAGMENTS = ["Steps: 3, ", "Seed: 7, ", 'Model: "\\x", ', "Size: 8x9, ", "\n", "Negative prompt:"]


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=2), max_size=8).map("".join)
)
def test_any_text_can_be_taken_apart(text: str) -> None:
    assert {"Prompt", "Negative prompt"} <= parsed_infotext(text).keys()


@example(100, 0.29)  # 0.29 * 100 is less than 29
@given(st.integers(1, 150), st.floats(0, 1) | st.integers(0, 100).map(lambda n: n / 100))
def test_early_steps_are_skipped_by_the_rule_of_the_web_ui(steps: int, skipped: float) -> None:
    options = WebOptions(skip_early_cond=skipped)
    body = job_body(Txt2ImgBody(steps=steps, cfg_scale=5), options, Shelf((Path("a"),)))
    guidance = Guidance(**body.guidance.model_dump())
    found = [guidance.active and guidance.guides(step, steps) for step in range(steps)]
    # `CFGDenoiser.forward` of the web UI.
    assert found == [not (skipped != 0 and step / steps <= skipped) for step in range(steps)]

"""The web UI's own client against the service."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sd_parsers
from PIL import Image
from tests.serving.live import Live, listening, service
from tests.serving.webui_client import QUICK, Alone, Drawing, client_of, drawing_alone

from latentrt.runtime import Request, Sampling
from latentrt.runtime.reuse import FAST
from latentrt.serving.gates import Gate
from latentrt.serving.limits import Limits


@pytest.fixture(scope="module")
def alone(live: Live) -> Iterator[Alone]:
    with drawing_alone(live) as found:
        yield found


@pytest.fixture
def client(live: Live) -> Any:
    return client_of(live)


@pytest.fixture(scope="module")
def keyed(live: Live) -> Iterator[Live]:
    """The same models behind two keys."""
    with listening(service(live.service.shelf, Limits(steps=40, images=4)), Gate(("a", "b"))) as it:
        yield it


def test_a_picture_is_the_one_that_is_drawn_alone(client: Any, alone: Alone) -> None:
    answer = client.txt2img(**QUICK, negative_prompt="a dog", cfg_scale=4)
    sampling = Sampling("euler_ancestral", "linspace", steps=3, eta=1.0)
    request = Request("a fox", negative_prompt="a dog", seed=5, sampling=sampling, guidance=4.0)
    # One batch size: the same sums in the same order.
    assert np.array_equal(np.asarray(answer.image), alone(request))
    assert answer.info["seed"] == 5
    assert (answer.info["width"], answer.info["height"]) == (64, 64)
    assert answer.parameters["prompt"] == "a fox"


def test_the_seeds_of_a_batch_go_up_by_one(client: Any) -> None:
    answer = client.txt2img(**QUICK, batch_size=2, n_iter=2)
    assert answer.info["all_seeds"] == [5, 6, 7, 8]
    (last,) = client.txt2img(**QUICK | {"seed": 8}).images
    assert np.array_equal(np.asarray(answer.images[3]), np.asarray(last))
    for seed, text in zip(range(5, 9), answer.info["infotexts"], strict=True):
        assert f"Seed: {seed}," in text


def test_a_random_seed_is_told_and_draws_the_picture_again(client: Any) -> None:
    first = client.txt2img(**QUICK | {"seed": -1})
    again = client.txt2img(**QUICK | {"seed": first.info["seed"]})
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))


def test_fast_answers_steps_from_memory_and_says_so(client: Any, alone: Alone) -> None:
    asked = QUICK | {"steps": 8}
    answer = client.txt2img(**asked, override_settings={"fast": True})
    sampling = Sampling("euler_ancestral", "linspace", steps=8, eta=1.0)
    request = Request("a fox", seed=5, sampling=sampling, guidance=7.0)
    picture = np.asarray(answer.image)
    assert np.array_equal(picture, alone(request.with_values(reuse=FAST)))
    assert not np.array_equal(picture, alone(request))
    assert f'Reuse: "{FAST}"' in answer.info["infotexts"][0]
    assert "Reuse" not in client.txt2img(**asked).info["infotexts"][0]


def test_variations_keep_the_seed_and_count_the_other(client: Any) -> None:
    answer = client.txt2img(**QUICK, batch_size=2, subseed=70, subseed_strength=0.5)
    assert answer.info["all_seeds"] == [5, 5]
    assert answer.info["all_subseeds"] == [70, 71]
    single = client.txt2img(**QUICK, subseed=71, subseed_strength=0.5)
    assert np.array_equal(np.asarray(answer.images[1]), np.asarray(single.image))


@pytest.mark.parametrize(
    ("asked", "sampler", "schedule"),
    [
        ({"sampler_name": "DPM++ 2M Karras"}, "DPM++ 2M", "Karras"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, "DPM++ 2M", "Karras"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}, "DPM++ 2M", "Karras"),
        ({"sampler_name": "DPM++ 2M SDE"}, "DPM++ 2M SDE", "Exponential"),
        ({"sampler_name": "k_euler_a"}, "Euler a", None),
        ({"sampler_name": "Euler", "scheduler": "SGM Uniform"}, "Euler", "SGM Uniform"),
    ],
)
def test_samplers_and_schedules_go_by_the_names_of_the_web_ui(
    client: Any, asked: dict[str, str], sampler: str, schedule: str | None
) -> None:
    text = client.txt2img(**QUICK, **asked).info["infotexts"][0]
    assert f"Sampler: {sampler}, " in text
    if schedule:
        assert f"Schedule type: {schedule}," in text


def test_another_reader_finds_the_parameters_in_the_picture(client: Any) -> None:
    answer = client.txt2img(**QUICK, negative_prompt="a dog", sampler_name="DPM++ 2M Karras")
    found = sd_parsers.ParserManager().parse(answer.image)
    assert found is not None
    (sampler,) = found.samplers
    assert (sampler.name, sampler.parameters["seed"]) == ("DPM++ 2M", "5")
    assert [str(each) for each in (*found.prompts, *found.negative_prompts)] == ["a fox", "a dog"]
    told = client.png_info(answer.image)
    assert told.info == answer.info["infotexts"][0]
    assert told.parameters["Prompt"] == "a fox"
    assert told.parameters["Negative prompt"] == "a dog"
    assert (told.parameters["Size-1"], told.parameters["Seed"]) == ("64", "5")


def test_progress_is_told_while_drawing(client: Any, live: Live) -> None:
    idle = client.get_progress()
    assert (idle["progress"], idle["state"]["job_count"]) == (0.0, 0)
    drawing = Drawing(client, live)
    told = client.get_progress()
    assert 0 < told["progress"] < 1
    assert told["state"]["job_count"] == 1
    assert 1 <= told["state"]["sampling_step"] <= told["state"]["sampling_steps"] == 40
    assert told["eta_relative"] > 0
    shown = Image.open(io.BytesIO(base64.b64decode(told["current_image"])))
    assert shown.width == shown.height
    drawing.end()
    assert client.get_progress()["progress"] == 0.0


def test_an_interrupted_request_is_answered_with_what_there_is(client: Any, live: Live) -> None:
    drawing = Drawing(client, live)
    assert client.interrupt() == {}
    answer = drawing.end()
    assert answer.info["interrupted"] is True
    assert answer.image.size == (64, 64)
    assert answer.image.info["parameters"] == answer.info["infotexts"][0]
    assert live.service.painter.load.rows == 0
    assert client.interrupt() == {}


def test_an_interrupt_ends_no_other_client_s_request(keyed: Live) -> None:
    one, other = client_of(keyed, "a"), client_of(keyed, "b")
    drawing = Drawing(one, keyed)
    other.interrupt()
    other.skip()
    assert other.get_progress()["state"]["job_count"] == 0
    assert drawing.end().info["interrupted"] is False


def test_options_choose_a_client_s_model(keyed: Live) -> None:
    one, other = client_of(keyed, "a"), client_of(keyed, "b")
    before = one.get_options()
    assert before["sd_model_checkpoint"].startswith("heads [")
    title = next(m["title"] for m in one.get_sd_models() if m["model_name"] == "lists")
    one.set_options(before | {"sd_model_checkpoint": title})
    assert one.util_get_current_model() == title
    assert one.txt2img(**QUICK).info["sd_model_name"] == "lists"
    assert other.txt2img(**QUICK).info["sd_model_name"] == "heads"
    chosen = {"sd_model_checkpoint": before["sd_model_checkpoint"]}
    assert one.txt2img(**QUICK, override_settings=chosen).info["sd_model_name"] == "heads"


def test_the_models_are_found_by_their_hash(client: Any) -> None:
    (_, second) = client.get_sd_models()
    asked = {"sd_model_checkpoint": second["hash"]}
    assert client.txt2img(**QUICK, override_settings=asked).info["sd_model_hash"] == second["hash"]

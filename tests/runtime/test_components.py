"""Single components on another backend or in another precision than the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tests.processor import needs_bf16

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, ShapeNotBuilt, Unavailable
from latentrt.cli.main import main
from latentrt.runtime import Pipeline, Request, Sampling, Size

REQUEST = Request("a red circle", seed=5, size=Size(64, 64), sampling=Sampling("euler", steps=2))
PLAIN = ("openvino", "fp32")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, PLAIN),
        ({"vae_decoder": "onnxruntime"}, ("onnxruntime", "fp32")),
        ({"vae_decoder": "bf16"}, ("openvino", "bf16")),
        ({"vae_decoder": "openvino:bf16"}, ("openvino", "bf16")),
        ({"vae_decoder": "auto:fp32"}, PLAIN),
    ],
    ids=str,
)
@pytest.mark.usefixtures("bf16_offered")
def test_a_component_has_its_own_backend_or_precision_and_the_others_do_not(
    bundle: Callable[[str], Path], given: Mapping[str, str], expected: tuple[str, str]
) -> None:
    with Pipeline.open(bundle("heads"), engine="openvino", components=given) as pipeline:
        found = {
            name: (engine, pipeline.precisions[name]) for name, engine in pipeline.engines.items()
        }
    assert found.pop("vae_decoder") == expected
    assert set(found.values()) == {PLAIN}


def test_a_component_gets_only_the_options_of_its_backend(
    bundle: Callable[[str], Path],
) -> None:
    given = {"vae_decoder": "onnxruntime", "vae_encoder": "openvino"}
    with Pipeline.open(
        bundle("heads"), engine="openvino", options={"streams": 2, "threads": 1}, components=given
    ) as pipeline:
        found = {name: (c.name, asdict(c.options)) for name, c in pipeline._engines.chosen.items()}
        assert found.pop("vae_decoder") == ("onnxruntime", {"threads": 1, "arena": True})
        assert list(found.values()) == [("openvino", {"threads": 1, "streams": 2})] * 3
        assert pipeline.decode(np.zeros((1, 4, 8, 8), np.float32)).shape == (1, 3, 64, 64)


def open_with(
    path: Path, components: dict[str, str], engine: str = "openvino", **options: object
) -> Pipeline:
    return Pipeline.open(path, engine=engine, options=options, components=components)


def test_an_option_that_no_component_is_given_is_refused(bundle: Callable[[str], Path]) -> None:
    names = Bundle.open(bundle("heads")).manifest.components
    everything = dict.fromkeys(names, "onnxruntime")
    with pytest.raises(InputError, match="engine onnxruntime has no option 'streams'; it has thr"):
        open_with(bundle("heads"), everything, streams=2)
    with pytest.raises(InputError, match="no option 'level'; it has threads, streams; engine onn"):
        open_with(bundle("heads"), {"unet": "onnxruntime"}, level=5)


def test_an_option_of_one_component_s_engine_is_given_to_that_component(
    bundle: Callable[[str], Path],
) -> None:
    for engine in ("openvino", "auto"):
        own = {"unet": "onnxruntime"}
        with open_with(bundle("heads"), own, engine=engine, arena=False) as pipeline:
            assert pipeline.chosen["unet"].options.arena is False
            assert pipeline.engines["vae_decoder"] == "openvino"


def test_options_that_are_no_mapping_of_names_are_refused(bundle: Callable[[str], Path]) -> None:
    for options in ([("threads", 1)], {1: 1}):
        with pytest.raises(InputError, match="options: expected "):
            Pipeline.open(bundle("heads"), options=options)  # pyright: ignore[reportArgumentType]


@needs_bf16
def test_a_decoder_in_another_precision_changes_the_picture_and_not_its_latents(
    bundle: Callable[[str], Path],
) -> None:
    with Pipeline.open(bundle("heads"), engine="openvino") as plain:
        expected = plain(REQUEST)
    with Pipeline.open(bundle("heads"), components={"vae_decoder": "bf16"}) as mixed:
        found = mixed(REQUEST)
    assert np.array_equal(found.latents, expected.latents)
    pictures = [np.asarray(r.images[0], np.float32) for r in (found, expected)]
    error = np.abs(pictures[0] - pictures[1])
    # bfloat16 has 8 bits of fraction, as many as a picture's own levels, over some 20 layers.
    assert error.max() > 0
    assert error.mean() < 8


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"unet_2": "bf16"}, "components: expected names among .*unet"),
        ({"unet": "fp8"}, "engine: expected one of auto"),
        ({"unet": "openvino:fp8"}, "precision: expected one of fp32, bf16"),
        ({"unet": "onnxruntime:bf16"}, "precision: expected one of fp32 for onnxruntime"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("bf16_offered")
def test_an_impossible_choice_for_a_component_is_refused_by_name(
    bundle: Callable[[str], Path], given: Mapping[str, str], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        Pipeline.open(bundle("heads"), components=given)


@pytest.mark.usefixtures("bf16_offered")
def test_an_engine_that_must_not_be_built_is_named_with_its_own_backend_and_precision(
    bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    given = {"vae_decoder": "openvino:bf16"}
    opened = Pipeline.open(
        bundle("heads"), engine="onnxruntime", components=given, build="never", cache=tmp_path
    )
    with opened, pytest.raises(ShapeNotBuilt, match="--engine openvino --precision bf16 --size"):
        opened.decode(np.zeros((1, 4, 8, 8), np.float32))


def test_the_command_line_gives_components_their_own(
    bundle: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["generate", bundle("heads"), "a red circle", "-o", tmp_path / "out.png", "--json"]
    words += ["--steps", "1", "--engine", "openvino", "--component", "vae_decoder=onnxruntime"]
    monkeypatch.setattr(sys, "argv", ["latentrt", *map(str, words)])
    main()
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert engines.pop("vae_decoder") == "onnxruntime"
    assert set(engines.values()) == {"openvino"}
    monkeypatch.setattr(sys, "argv", ["latentrt", *map(str, words), "--component", "vae_decoder"])
    with pytest.raises(SystemExit):
        main()
    assert "component: expected NAME=VALUE" in capsys.readouterr().err


def test_an_unusable_backend_is_refused_before_any_work(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Unavailable, match=r"engine openvino: not installed"):
        Pipeline.open(bundle("heads"), engine="onnxruntime", components={"unet": "openvino"})

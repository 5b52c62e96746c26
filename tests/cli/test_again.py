"""`latentrt generate --from`: what is given beside it is asked for, the rest is the picture's."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.cli.outcome import Run
from tests.single_file import write_single_file

from latentrt.bundle.tensors import save_tensors
from latentrt.cli import generate
from latentrt.cli.main import main
from latentrt.runtime import Embedding, Guidance, Request, Reuse, Sampling, Size
from latentrt.runtime.image import REQUEST, recorded_request
from latentrt.runtime.reuse import FAST
from latentrt.runtime.weights_fields import embeddings_of

RECORDED = Request(
    "a red circle",
    negative_prompt="a star",
    size=Size(64, 72),
    seed=5,
    sampling=Sampling("dpmpp_2m_sde", "karras", steps=7, eta=0.5, rho=5.0, brownian=True),
    guidance=Guidance(3.0, rescale=0.5, interval=(1.0, 9.0)),
    clip_skip=1,
    composed=[("a square", 0.5)],
    generator="numpy",
    original_size=Size(10, 20),
    crop=(3, 4),
    target_size=Size(30, 40),
    reuse=Reuse(0.1, 2, 3, 4),
)
LATENTS = np.random.default_rng(0).standard_normal((1, 4, 9, 8), dtype=np.float32)


class Ask:
    """The command line, with what it asks for in place of the picture."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.error = folder, ""
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, recorded: Request | dict[str, Any], *options: object) -> Request | None:
        """What is asked for of a picture's request with some options; None after an error."""
        asked: list[Request] = []

        def make(bundle: Path, request: Request, *_: object, **__: object) -> None:
            asked.append(request)

        value = recorded if isinstance(recorded, dict) else recorded.to_json()
        text = PngInfo()
        text.add_itxt(REQUEST, json.dumps(value))
        picture = self.folder / "picture.png"
        Image.new("RGB", (8, 8)).save(picture, pnginfo=text)
        command = ["latentrt", "generate", "bundle", "--from", str(picture), *map(str, options)]
        self._monkeypatch.setattr(generate, "make", make)
        self._monkeypatch.setattr(sys, "argv", command)
        status: object = None
        try:
            main()
        except SystemExit as stop:
            status = stop.code
        assert status == (None if asked else 2)
        self.error = self._capsys.readouterr().err
        return asked[0] if asked else None


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return Ask(tmp_path, monkeypatch, capsys)


def sampling(**values: Any) -> dict[str, Any]:
    return {"sampling": replace(RECORDED.sampling, **values)}


def guidance(**values: Any) -> dict[str, Any]:
    return {"guidance": replace(RECORDED.guidance, **values)}


def test_without_options_the_request_is_the_pictures(ask: Ask) -> None:
    again = ask(RECORDED)
    assert again is not None
    assert again.to_json() == RECORDED.to_json()


CHANGES: list[tuple[tuple[object, ...], dict[str, Any]]] = [
    (("a dog",), {"prompt": "a dog"}),
    (("",), {"prompt": ""}),
    (("--negative-prompt", ""), {"negative_prompt": ""}),
    (("--size", "80x64"), {"size": Size(80, 64)}),
    (("--num-images", 3), {"num_images": 3}),
    (("--seed", 0), {"seed": 0}),
    (("--generator", "torch"), {"generator": "torch"}),
    (("--clip-skip", 0), {"clip_skip": 0}),
    (("--fast",), {"reuse": FAST}),
    (("--no-fast",), {"reuse": None}),
    (("--original-size", "1x2"), {"original_size": Size(1, 2)}),
    (("--crop", "0,0"), {"crop": (0, 0)}),
    (("--target-size", "1x2"), {"target_size": Size(1, 2)}),
    (("--compose", "a=b=2", "--compose", "c=-1"), {"composed": [("a=b", 2.0), ("c", -1.0)]}),
    (("--guidance-scale", 7.5), guidance(scale=7.5)),
    (("--guidance-rescale", 0), guidance(rescale=0.0)),
    (("--guidance-interval", "2,3"), guidance(interval=(2.0, 3.0))),
    (("--steps", 20), sampling(steps=20)),
    (("--eta", 0.25), sampling(eta=0.25)),
    (("--rho", 7), sampling(rho=7.0)),
    (("--no-brownian",), sampling(brownian=False)),
    (("--brownian",), {}),
    (("--steps", 3, "--seed", 9, "a dog"), {**sampling(steps=3), "seed": 9, "prompt": "a dog"}),
]


@pytest.mark.parametrize(("options", "values"), CHANGES)
def test_an_option_beside_a_picture_is_asked_for_even_where_it_is_the_default(
    ask: Ask, options: tuple[object, ...], values: dict[str, Any]
) -> None:
    again = ask(RECORDED, *options)
    assert again is not None, ask.error
    assert again.to_json() == RECORDED.with_values(**values).to_json()


LEVELS = Sampling("euler", steps=3, sigmas=(9.0, 3.0, 1.0, 0.0))
TIMES = Sampling("euler", steps=2, timesteps=(900.0, 300.0))
KARRAS = Sampling("euler", "karras", steps=7, rho=5.0)
ENDINGS = [
    # What was chosen for a sampler; its schedule where another has none such.
    (RECORDED.sampling, ("--sampler", "dpmpp_2m_sde"), RECORDED.sampling),
    (RECORDED.sampling, ("--sampler", "heun"), Sampling("heun", "karras", steps=7, rho=5.0)),
    (RECORDED.sampling, ("--sampler", "lcm"), Sampling("lcm", steps=7)),
    (RECORDED.sampling, ("--sampler", "ddim", "--eta", 1), Sampling("ddim", steps=7, eta=1.0)),
    # The exponent of a schedule.
    (KARRAS, ("--schedule", "karras"), KARRAS),
    (KARRAS, ("--schedule", "trailing"), Sampling("euler", "trailing", steps=7)),
    (
        KARRAS,
        ("--schedule", "polyexponential", "--rho", 2),
        Sampling("euler", "polyexponential", steps=7, rho=2.0),
    ),
    # Levels come from a number of steps and a schedule, or are given outright.
    (KARRAS, ("--timesteps", "900,300"), replace(TIMES, steps=7)),
    (KARRAS, ("--sigmas", "9,3,1,0"), replace(LEVELS, steps=7)),
    (LEVELS, ("--steps", 5), Sampling("euler", steps=5)),
    (TIMES, ("--steps", 5), Sampling("euler", steps=5)),
    (LEVELS, ("--schedule", "beta"), Sampling("euler", "beta", steps=3)),
    (LEVELS, ("--timesteps", "900,300"), replace(TIMES, steps=3)),
    (TIMES, ("--sigmas", "9,3,1,0"), replace(LEVELS, steps=2)),
]


@pytest.mark.parametrize(("recorded", "options", "expected"), ENDINGS)
def test_an_option_drops_values_that_depended_on_the_one_it_replaces(
    ask: Ask, recorded: Sampling, options: tuple[object, ...], expected: Sampling
) -> None:
    again = ask(RECORDED.with_values(sampling=recorded), *options)
    assert again is not None, ask.error
    assert again.sampling == expected


def test_a_scale_that_was_a_function_can_be_given_anew(ask: Ask) -> None:
    picture = RECORDED.with_values(guidance=Guidance(lambda sigma: 1.0 + sigma, rescale=0.5))
    assert ask(picture) is None
    assert "guidance scale" in ask.error
    again = ask(picture, "--guidance-scale", 4)
    assert again is not None
    assert again.guidance == Guidance(4.0, rescale=0.5)


def test_latents_are_those_given_and_others_than_the_pictures_are_noted(ask: Ask) -> None:
    files = ask.folder / "same.npy", ask.folder / "other.npy"
    for file, latents in zip(files, (LATENTS, -LATENTS), strict=True):
        np.save(file, latents)
    for recorded in (RECORDED, RECORDED.with_values(latents=LATENTS)):
        for file, latents in zip(files, (LATENTS, -LATENTS), strict=True):
            again = ask(recorded, "--latents", file)
            assert again is not None
            assert again.latents is not None
            assert np.array_equal(again.latents, latents)
            replaced = recorded.latents is not None and file == files[1]
            assert ("other latents than the picture was made from" in ask.error) == replaced
    assert ask(RECORDED.with_values(latents=LATENTS), "--seed", 9) is None
    assert ask.error.startswith("latentrt: latents: expected those of the picture")


def test_of_latents_of_several_pictures_the_row_is_taken_that_the_picture_names(ask: Ask) -> None:
    both = np.concatenate([-LATENTS, LATENTS])
    np.save(ask.folder / "both.npy", both)
    again = ask(RECORDED.with_values(latents=LATENTS), "--latents", ask.folder / "both.npy")
    assert again is not None, ask.error
    assert again.latents is not None
    assert np.array_equal(again.latents, LATENTS)
    assert ask.error == ""
    # Both of them, where the picture is asked for twice.
    again = ask(RECORDED, "--latents", ask.folder / "both.npy", "--num-images", 2)
    assert again is not None, ask.error
    assert again.latents is not None
    assert np.array_equal(again.latents, both)
    # The picture names neither, and one picture has one.
    assert ask(RECORDED, "--latents", ask.folder / "both.npy") is None
    assert ask.error.startswith("latentrt: latents: expected 1 of them, one for each image, got 2")
    assert (
        ask(RECORDED.with_values(latents=2 * LATENTS), "--latents", ask.folder / "both.npy") is None
    )
    assert "latents: expected 1 of them" in ask.error


def test_a_part_that_an_older_picture_lacks_has_its_defaults(ask: Ask) -> None:
    again = ask({"prompt": "a", "schema": 4}, "--steps", 3)
    assert again == Request("a", sampling=Sampling(steps=3))


def test_the_prompt_of_an_older_picture_is_plain_text_unless_a_syntax_is_given(ask: Ask) -> None:
    prompt = "a (red:1.3) [circle:star:3]"
    assert ask({"prompt": prompt, "schema": 3}) == Request(prompt, syntax="plain")
    assert ask({"prompt": prompt, "schema": 3}, "--syntax", "webui") == Request(prompt)
    assert ask({"prompt": prompt, "schema": 4}, "--syntax", "plain") == Request(
        prompt, syntax="plain"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--guidance-scale", 1), "guidance scale: expected above 1 with several prompts"),
        (("--steps", 0), "steps: expected an integer of at least 1, got 0"),
        (("--sampler", "eular"), "sampler: expected euler"),
    ],
)
def test_options_that_exclude_each_other_are_one_line(
    ask: Ask, options: tuple[object, ...], message: str
) -> None:
    assert ask(RECORDED, *options) is None
    assert message in ask.error
    assert len(ask.error.splitlines()) == 1


@pytest.mark.parametrize("part", ["guidance", "sampling"])
def test_a_picture_whose_request_is_malformed_is_named(ask: Ask, part: str) -> None:
    assert ask({**RECORDED.to_json(), part: 3}, "--steps", 3) is None
    assert f"picture.png: holds a request without {part}" in ask.error


@pytest.mark.parametrize(
    ("name", "sampler", "schedule"),
    [
        ("DPM++ 2M Exponential", "dpmpp_2m", "exponential"),
        ("DPM++ 2M", "dpmpp_2m", "karras"),
        ("Euler a", "euler_ancestral", "karras"),
    ],
)
def test_a_sampler_named_with_a_schedule_brings_it(
    ask: Ask, name: str, sampler: str, schedule: str
) -> None:
    asked = ask(RECORDED, "--sampler", name)
    assert asked is not None, ask.error
    assert (asked.sampling.sampler, asked.sampling.schedule) == (sampler, schedule)


def test_a_picture_with_damaged_metadata_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.jpg"
    Image.new("RGB", (8, 8)).save(picture, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0")
    monkeypatch.setattr(sys, "argv", ["latentrt", "generate", "bundle", "--from", str(picture)])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == f"latentrt: {picture}: holds no latentrt request\n"


def embedding(folder: Path, name: str, seed: int = 0) -> Path:
    """A textual inversion's file."""
    path = folder / f"{name}.safetensors"
    rows = np.random.default_rng(seed).standard_normal((2, 32), dtype=np.float32)
    save_tensors(path, {"emb_params": rows})
    return path


@pytest.fixture
def inversions(tmp_path: Path) -> Path:
    folder = tmp_path / "inversions"
    folder.mkdir()
    for seed, name in enumerate(("Bad-Hands", "fox", "unnamed")):
        embedding(folder, name, seed)
    return folder


def tokens(request: Request | None) -> list[str]:
    assert request is not None
    return [each.token for each in embeddings_of(request.weights)]


def test_an_embedding_is_named_by_its_file_or_by_a_token(ask: Ask, inversions: Path) -> None:
    files = [inversions / f"{name}.safetensors" for name in ("fox", "Bad-Hands")]
    again = ask(RECORDED, "--embedding", files[0], "--embedding", f"{files[1]}=<x>")
    assert tokens(again) == ["fox", "<x>"]
    assert "note: other weights than the picture's" in ask.error


def test_embeddings_of_a_folder_are_read_where_a_prompt_has_their_names(
    ask: Ask, inversions: Path
) -> None:
    (inversions / "broken.safetensors").write_bytes(b"not read")
    options = ("a fox, foxes", "--negative-prompt", "(bad-hands:1.2)")
    again = ask(RECORDED, *options, "--embedding-dir", inversions)
    assert tokens(again) == ["Bad-Hands", "fox"]
    assert ask(RECORDED, "a broken fox", "--embedding-dir", inversions) is None
    assert "broken.safetensors" in ask.error


def test_a_pictures_embeddings_are_found_in_a_folder(ask: Ask, inversions: Path) -> None:
    used = Embedding(inversions / "fox.safetensors", "<fox>")
    recorded = RECORDED.with_values(weights=[used])
    again = ask(recorded, "--embedding-dir", inversions)
    assert again is not None
    assert again == recorded
    assert ask(recorded) is None
    assert f"the picture's file 'fox.safetensors' (SHA-256 {used.sha256})" in ask.error
    embedding(inversions, "fox", 9)
    assert ask(recorded, "--embedding-dir", inversions) is None
    assert "got another file" in ask.error


def test_weights_that_are_malformed_in_a_picture_are_refused(ask: Ask) -> None:
    for damaged in (3, [3], [{"file": 1}]):
        assert ask({**RECORDED.to_json(), "weights": damaged}) is None


@pytest.mark.parametrize("single", [False, True])
def test_a_picture_names_the_file_of_its_vae_which_is_given_again(
    run: Run, checkpoint: Callable[[str], Path], tmp_path: Path, single: bool
) -> None:
    model: tuple[object, ...] = (checkpoint("heads"),)
    if single:
        file = write_single_file(checkpoint("heads"), tmp_path / "model.safetensors")
        model = (file, "--configs", checkpoint("heads"))
    vae, other = (
        checkpoint(f"heads@{n}") / "vae" / "diffusion_pytorch_model.safetensors" for n in (1, 2)
    )
    common = ("generate", *model, "--engine", "onnxruntime", "--steps", 1, "--size", "64x64", "-o")
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    done = run(*common, first, "a fox", "--seed", 3, "--vae", vae)
    assert done.status == 0, done.err
    with Image.open(first) as picture:
        text = picture.info
    named = recorded_request(first)["provenance"]
    digest = hashlib.sha256(vae.read_bytes()).hexdigest()
    assert (named["vae"], named["vae_sha256"]) == (vae.name, digest)
    assert f"VAE hash: {digest[:10]}, VAE: {vae.name}" in text["parameters"]
    lost = run(*common, again, "--from", first)
    assert (lost.status, f"vae: expected the picture's file {vae.name!r}" in lost.err) == (2, True)
    assert digest in lost.err
    found = run(*common, again, "--from", first, "--vae", vae)
    assert (found.status, "note" in found.err) == (0, False)
    assert Image.open(again).tobytes() == Image.open(first).tobytes()
    another = run(*common, again, "--from", first, "--vae", other)
    assert another.status == 0
    assert f"was drawn by model {named['model']}" in another.err
    assert f"with VAE {vae.name} ({digest[:10]})" in another.err
    assert Image.open(again).tobytes() != Image.open(first).tobytes()

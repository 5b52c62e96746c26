"""Pictures as files: what web UIs read in them, and the request that makes each of them again."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo, iTXt
from tests.runtime.toy_model import CONFIG, ToyPipeline, request

from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime import (
    Control,
    Guidance,
    HiresFix,
    ImageToImage,
    Inpainting,
    Lora,
    Refiner,
    Request,
    Result,
    Reuse,
    Sampling,
    Size,
)
from latentrt.runtime.image import (
    QUALITY,
    check_format,
    format_of,
    parameters,
    read_request,
    recorded_request,
)
from latentrt.runtime.provenance import Provenance
from latentrt.runtime.request import MAX_LENGTH
from latentrt.runtime.run import DirectRun
from latentrt.runtime.schedules import build_schedule

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ODD_NAMES = (
    "anime, Steps: 99, CFG scale: 1 v2",
    "a: b",
    "two\nlines",
    'a "quoted" name',
    '"quoted"',
    "back\\slash, and comma",
    " padded ",
    "部屋, two",
    "nel\x85and\u2028",
)
ODD_PROMPTS = (
    "plain",
    "naïve",
    "部屋 \U0001f600",
    "two\nlines",
    "tab\t, comma: colon",
    "e\u0301\x7f",
)


@pytest.fixture(scope="module")
def drawn() -> Result:
    """Two pictures of the toy model's."""
    asked = request(5, num_images=2, guidance=3.0, negative_prompt="6")
    result = DirectRun(ToyPipeline().plan(asked)).result()
    provenance = Provenance("numbers", "0123456789abcdef", "euler", "")
    return replace(result, request=result.request.with_values(provenance=provenance))


def one(result: Result, **values: Any) -> Result:
    """Its first picture alone, with other values in its request."""
    request = result.request.with_values(num_images=1, **values)
    return replace(result, images=result.images[:1], request=request)


# What follows, to the blank line, is the reading side of AUTOMATIC1111's web UI
# (modules/infotext_utils.py), but for parts that only its own settings need.
RE_PARAM: Final = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def unquote(text: str) -> str:
    if len(text) == 0 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_by_web_ui(x: str) -> dict[str, str]:
    res: dict[str, str] = {}
    prompt = negative_prompt = ""
    done_with_prompt = False
    *lines, lastline = x.strip().split("\n")
    if len(RE_PARAM.findall(lastline)) < 3:
        lines.append(lastline)
        lastline = ""
    for line in lines:
        line = line.strip()
        if line.startswith("Negative prompt:"):
            done_with_prompt = True
            line = line[16:].strip()
        if done_with_prompt:
            negative_prompt += ("" if negative_prompt == "" else "\n") + line
        else:
            prompt += ("" if prompt == "" else "\n") + line
    for k, v in RE_PARAM.findall(lastline):
        res[k] = unquote(v)
    return {**res, "Prompt": prompt, "Negative prompt": negative_prompt}


def text_of(path: Path) -> str:
    """A file's parameters, by Pillow."""
    with Image.open(path) as picture:
        if picture.format == "PNG":
            return picture.info["parameters"]
        comment = picture.getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\0")
    return comment[8:].decode("utf-16-be")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_web_ui_reads_what_a_file_was_made_with(
    drawn: Result, tmp_path: Path, suffix: str
) -> None:
    for name in ODD_NAMES:
        for prompt in ODD_PROMPTS:
            made = replace(one(drawn, prompt=prompt, negative_prompt="a star"), model=name)
            (path,) = made.save(tmp_path / f"a{suffix}")
            found = read_by_web_ui(text_of(path))
            assert found["Model"] == name
            assert found["Steps"] == "4"
            assert found["CFG scale"] == "3"
            assert found["Seed"] == "5"
            assert found["Size"] == "64x48"
            assert found["Sampler"] == "Euler"
            assert found["Model hash"] == "0123456789"
            assert found["Prompt"] == prompt
            assert found["Negative prompt"] == "a star"


def test_a_null_character_does_not_end_the_parameters(drawn: Result, tmp_path: Path) -> None:
    (path,) = one(drawn, prompt="a\0b").save(tmp_path / "a.png")
    assert "\0" not in text_of(path)
    assert read_request(path).prompt == "a\0b"


@pytest.mark.parametrize(
    ("config", "sampling", "expected"),
    [
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, {}, "Sampler: PLMS, CFG"),
        ({}, {"sampler": "plms"}, "Sampler: PLMS, CFG"),
        ({}, {"sampler": "euler_ancestral"}, "Sampler: Euler a, CFG"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
            {},
            "Sampler: DPM++ 2M, Schedule type: Karras, CFG",
        ),
    ],
)
def test_samplers_and_schedules_have_the_web_uis_names(
    config: dict[str, Any], sampling: dict[str, Any], expected: str
) -> None:
    schedule = build_schedule({**CONFIG, **config}, steps=8, **sampling)
    assert expected in parameters(Request("a", seed=1), "m", schedule)


PIXELS = np.zeros((8, 8, 3), np.uint8)
# As `create_infotext` of the web UI and its scripts write them.
ADDED: Final = [
    ({"subseed": 9, "subseed_strength": 0.5}, "Variation seed: 9, Variation seed strength: 0.5"),
    ({"task": ImageToImage(PIXELS, 0.6)}, "Denoising strength: 0.6"),
    (
        {"task": Inpainting(PIXELS, PIXELS[:, :, 0] + 255, 0.75, mask_blur=4)},
        "Denoising strength: 0.75, Mask blur: 4",
    ),
    (
        {"task": HiresFix(1.5, 0.7, steps=10, upscaler="latent_bicubic")},
        "Denoising strength: 0.7, Hires upscale: 1.5, Hires steps: 10, "
        "Hires upscaler: Latent (bicubic)",
    ),
    ({"refiner": Refiner("xl/sharp.safetensors", 0.8)}, "Refiner: sharp, Refiner switch at: 0.8"),
    (
        {"controls": [Control("nets/canny.safetensors", PIXELS, 0.7, end=0.5, mode="prompt")]},
        'ControlNet 0: "Module: none, Model: canny, Weight: 0.7, Guidance Start: 0, '
        'Guidance End: 0.5, Control Mode: My prompt is more important"',
    ),
    (
        {"reuse": Reuse(0.2, 3, 2, 4)},
        'Reuse: "Threshold: 0.2, Warm up: 3, Last: 2, Max consecutive: 4"',
    ),
    ({"weights": [Lora(Path("a/clay.safetensors"), 0.8)]}, "a <lora:clay:0.8>\nSteps"),
    (
        {"weights": [Lora(Path("clay.safetensors"), text_encoder=0.5)]},
        "a <lora:clay:0.5:1>\nSteps",
    ),
]


@pytest.mark.parametrize(("fields", "expected"), ADDED)
def test_parameters_have_what_the_web_ui_writes_of_tasks_and_other_models(
    fields: dict[str, Any], expected: str
) -> None:
    schedule = build_schedule(CONFIG, steps=8, sampler="euler")
    assert expected in parameters(Request("a", seed=1, **fields), "m", schedule)


@pytest.mark.parametrize(("prompt", "latin"), [("naïve ÿ", True), ("部屋", False)])
def test_parameters_are_a_text_chunk_where_latin_1_has_them(
    drawn: Result, tmp_path: Path, prompt: str, latin: bool
) -> None:
    (path,) = one(drawn, prompt=prompt).save(tmp_path / "a.png")
    with Image.open(path) as picture:
        found = picture.info["parameters"]
    assert isinstance(found, iTXt) != latin
    assert (b"tEXtparameters\0" in path.read_bytes()) == latin
    assert found.startswith(prompt)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_holds_its_picture_and_request(drawn: Result, tmp_path: Path, suffix: str) -> None:
    for index, path in enumerate(drawn.save(tmp_path / f"a{suffix}")):
        assert path == tmp_path / f"a-{index}{suffix}"
        asked = read_request(path)
        assert asked == drawn.request_of(index)
        assert asked.provenance == drawn.request.provenance
        with Image.open(path) as stored:
            assert stored.format == format_of(path)
            difference = np.asarray(stored, int) - np.asarray(drawn.images[index], int)
        # Noise is the hardest there is for JPEG and WebP at quality 80.
        assert np.abs(difference).mean() <= (0 if suffix == ".png" else 30)


def test_a_higher_quality_is_nearer_to_the_picture(drawn: Result) -> None:
    for kind in ("JPEG", "WEBP"):
        errors: list[float] = []
        for quality in (20, QUALITY, 100):
            content = drawn.encode(0, kind, quality=quality)
            with Image.open(io.BytesIO(content)) as stored:
                difference = np.asarray(stored, int) - np.asarray(drawn.images[0], int)
            errors.append(float(np.abs(difference).mean()))
        assert errors == sorted(errors, reverse=True)


def test_a_file_object_is_given_a_png(drawn: Result, tmp_path: Path) -> None:
    single = one(drawn)
    buffer = io.BytesIO()
    assert single.save(buffer) == ()
    assert buffer.getvalue() == single.png() == (single.save(tmp_path / "a.png")[0]).read_bytes()
    with open(tmp_path / "b.png", "wb") as file:
        single.save(file)
    assert read_request(tmp_path / "b.png") == single.request_of(0)


@pytest.mark.parametrize(
    "output",
    [
        None,
        3,
        b"a.png",
        "a",
        "a.gif",
        "-",
        "",
        "nowhere/a.png",
        "a\0.png",
        io.StringIO(),
        open,
        "x" * 300 + ".png",
    ],
    ids=lambda output: (
        type(output).__name__ if callable(output) or hasattr(output, "write") else repr(output)[:12]
    ),
)
def test_an_output_that_cannot_be_written_is_named(
    drawn: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        one(drawn).save(output)
    assert not list(tmp_path.iterdir())


def test_a_file_object_that_cannot_be_written_is_named(drawn: Result, tmp_path: Path) -> None:
    closed, full = io.BytesIO(), Path("/dev/full")
    closed.close()
    with pytest.raises(InputError, match="output"):
        one(drawn).save(closed)
    with pytest.raises(InputError, match="a file object holds one picture"):
        drawn.save(io.BytesIO())
    if full.exists():
        with open(full, "wb", buffering=0) as file, pytest.raises(InputError, match="No space"):
            one(drawn).save(file)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda r: r.png(2), "index"),
        (lambda r: r.png(-1), "index"),
        (lambda r: r.png("0"), "index"),
        (lambda r: r.request_of(None), "index"),
        (lambda r: r.encode(0, "GIF"), "format"),
        (lambda r: r.encode(0, ["PNG"]), "format"),
        (lambda r: r.encode(0, "JPEG", quality=0), "quality"),
        (lambda r: r.encode(0, "JPEG", quality="80"), "quality"),
    ],
)
def test_an_index_without_a_picture_is_named(drawn: Result, call: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        call(drawn)
    assert caught.value.field == field


def test_a_request_that_a_text_cannot_hold_is_refused_when_it_is_made() -> None:
    Request("x" * (MAX_LENGTH - 100))
    too_long: list[dict[str, Any]] = [
        {"prompt": "x" * MAX_LENGTH},
        {"prompt": "x", "negative_prompt": "\n" * (MAX_LENGTH // 2)},
        {"prompt": "x", "composed": [("y" * 1000, 1.0)] * 1100},
        {"prompt": "x", "sampling": Sampling(sigmas=(0.12345678901234567,) * 60000)},
    ]
    for values in too_long:
        with pytest.raises(InputError, match=f"at most {MAX_LENGTH} characters"):
            Request(**values)


@pytest.mark.parametrize("letter", ["x", "部", "\n", "\0"])
def test_the_longest_request_is_read_back(drawn: Result, tmp_path: Path, letter: str) -> None:
    length = (MAX_LENGTH - 100) // len(json.dumps(letter, ensure_ascii=False)[1:-1])
    made = one(drawn, prompt=letter * length, negative_prompt=None)
    for suffix in (".png", ".webp"):
        (path,) = made.save(tmp_path / f"a{suffix}")
        assert read_request(path) == made.request_of(0)
    with pytest.raises(InputError, match="a JPEG holds at most 65533 bytes"):
        made.save(tmp_path / "a.jpg")


def test_a_long_request_is_refused_for_jpeg_before_it_is_drawn(drawn: Result) -> None:
    check_format("JPEG", Request("x" * 10000))
    with pytest.raises(InputError, match="a JPEG holds at most 65533 bytes"):
        check_format("JPEG", Request("x" * 30000))
    # What is let through can be written, whatever the model's name.
    low, high = 10000, 30000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            check_format("JPEG", Request("x" * middle))
            low = middle
        except InputError:
            high = middle
    provenance = Provenance("部" * 85, "f" * 64, "dpmpp_2m_sde", "align_your_steps")
    made = replace(one(drawn, prompt="x" * low, provenance=provenance), model="部" * 85)
    assert len(made.encode(0, "JPEG")) > 60000


def test_a_side_that_webp_does_not_have_is_refused_before_it_is_drawn() -> None:
    check_format("PNG", Request("a", size=Size(16384, 8)))
    check_format("JPEG", Request("a", size=Size(16384, 8)))
    check_format("WEBP", Request("a", size=Size(16383, 8)))
    with pytest.raises(InputError, match="at most 16383 pixels a side"):
        check_format("WEBP", Request("a", size=Size(8, 16384)))


# Made by the first version, which wrote no schema and iTXt chunks only.
FIRST_JSON: Final = """{"prompt": "naïve 部屋, \\"quoted\\"",
"negative_prompt": "a star",
"size": "8x8",
"num_images": 1,
"seed": 5,
"sampling": {"sampler": "dpmpp_2m_sde",
"schedule": "karras",
"steps": 7,
"eta": 0.5,
"rho": 5.0,
"timesteps": null,
"sigmas": null,
"brownian": true},
"guidance": {"scale": 3.0,
"rescale": 0.5,
"interval": [1.0, 9.0]},
"clip_skip": 1,
"latents": null,
"composed": [["a square", 0.5]],
"generator": "numpy",
"original_size": "10x20",
"crop": [3, 4],
"target_size": "30x40"}"""
FIRST_PNG: Final = """\
iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAA2WlUWHRwYXJhbWV0ZXJzAAAAAABuYcOvdmUg6YOo5bGLLCAi
cXVvdGVkIgpOZWdhdGl2ZSBwcm9tcHQ6IGEgc3RhcgpTdGVwczogNywgU2FtcGxlcjogRFBNKysgMk0gU0RFLCBTY2hlZHVs
ZSB0eXBlOiBLYXJyYXMsIENGRyBzY2FsZTogMywgU2VlZDogNSwgUk5HOiBOdW1QeSwgU2l6ZTogOHg4LCBNb2RlbDogc2hh
cGVzLCBDbGlwIHNraXA6IDIsIFZlcnNpb246IGxhdGVudHJ0IDAuMS4w+/TihAAAAfJpVFh0bGF0ZW50cnQAAAAAAHsicHJv
bXB0IjogIm5hw692ZSDpg6jlsYssIFwicXVvdGVkXCIiLCAibmVnYXRpdmVfcHJvbXB0IjogImEgc3RhciIsICJzaXplIjog
Ijh4OCIsICJudW1faW1hZ2VzIjogMSwgInNlZWQiOiA1LCAic2FtcGxpbmciOiB7InNhbXBsZXIiOiAiZHBtcHBfMm1fc2Rl
IiwgInNjaGVkdWxlIjogImthcnJhcyIsICJzdGVwcyI6IDcsICJldGEiOiAwLjUsICJyaG8iOiA1LjAsICJ0aW1lc3RlcHMi
OiBudWxsLCAic2lnbWFzIjogbnVsbCwgImJyb3duaWFuIjogdHJ1ZX0sICJndWlkYW5jZSI6IHsic2NhbGUiOiAzLjAsICJy
ZXNjYWxlIjogMC41LCAiaW50ZXJ2YWwiOiBbMS4wLCA5LjBdfSwgImNsaXBfc2tpcCI6IDEsICJsYXRlbnRzIjogbnVsbCwg
ImNvbXBvc2VkIjogW1siYSBzcXVhcmUiLCAwLjVdXSwgImdlbmVyYXRvciI6ICJudW1weSIsICJvcmlnaW5hbF9zaXplIjog
IjEweDIwIiwgImNyb3AiOiBbMywgNF0sICJ0YXJnZXRfc2l6ZSI6ICIzMHg0MCJ90ZJoKwAAABJJREFUeJxj/M+AHTDhEB+k
EgDNQQEP6EHibwAAAABJRU5ErkJggg=="""
FIRST: Final = Request(
    'naïve 部屋, "quoted"',
    negative_prompt="a star",
    syntax="plain",
    size=Size(8, 8),
    seed=5,
    sampling=Sampling("dpmpp_2m_sde", "karras", steps=7, eta=0.5, rho=5.0, brownian=True),
    guidance=Guidance(3.0, rescale=0.5, interval=(1.0, 9.0)),
    clip_skip=1,
    composed=[("a square", 0.5)],
    generator="numpy",
    original_size=Size(10, 20),
    crop=(3, 4),
    target_size=Size(30, 40),
)


def test_a_picture_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.png"
    path.write_bytes(base64.b64decode(FIRST_PNG))
    assert read_request(path) == FIRST
    assert recorded_request(path) == json.loads(FIRST_JSON)
    assert Request.from_json(json.loads(FIRST_JSON)) == FIRST


@pytest.mark.parametrize("text", ["{", "[]", "3", "null", '{"prompt": "\\ud83d"}', "[" * 100000])
def test_a_file_with_another_text_is_refused(tmp_path: Path, text: str) -> None:
    info = PngInfo()
    info.add_itxt("latentrt", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises((FileError, InputError)):
        read_request(tmp_path / "a.png")


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"a\.png: no such file$"):
        read_request(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_another_program_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(FileError, match="holds no latentrt request"):
        read_request(path)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = b"latentrt\0\xff\xfe"
    if suffix != ".png":
        Image.new("RGB", (8, 8)).save(path, exif=exif)
        with pytest.raises(FileError):
            read_request(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FileError):
        read_request(path)
    with pytest.raises(InputError, match="picture"):
        read_request(None)  # pyright: ignore[reportArgumentType]

"""Similarity by CLIP, compared with transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.cli.outcome import Run
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError, CheckpointError, InputError
from latentrt.bundle.golden import RUN_PROMPT
from latentrt.export.clip import export_clip
from latentrt.runtime import Clip, Pipeline
from latentrt.runtime.clip import for_clip
from latentrt.weights.clip_checkpoint import ClipCheckpoint, is_clip

SIDE = 32
PROMPTS = ("a red circle", "a photo of a CAT, sitting!", "", "many " * 90)


def silent(*_: object) -> None: ...


@pytest.fixture(scope="module")
def folders(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A tiny CLIP with random weights, as transformers saves it, by kind.

    "openai" has the old rule for the end of a text and QuickGELU, "openclip" the new and GELU.
    """
    base = tmp_path_factory.mktemp("clip")

    def make(kind: str) -> Path:
        folder = base / kind
        if folder.exists():
            return folder
        tokenizer = CLIPTokenizer.from_pretrained(checkpoint("heads") / "tokenizer")
        old = kind == "openai"
        shared = {"hidden_act": "quick_gelu" if old else "gelu", "num_attention_heads": 4}
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            eos_token_id=2 if old else tokenizer.eos_token_id,
            **shared,
        )
        vision = CLIPVisionConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            image_size=SIDE,
            patch_size=8,
            **shared,
        )
        config = CLIPConfig(
            text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24
        )
        torch.manual_seed(5)
        model = CLIPModel(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:  # random weights of CLIP's own scale give all the same
                    parameter.mul_(3)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        size = {"shortest_edge": SIDE}
        crop = {"height": SIDE, "width": SIDE}
        CLIPImageProcessorPil(size=size, crop_size=crop).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def bundles(
    folders: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    base = tmp_path_factory.mktemp("clip-bundles")

    def make(kind: str, dtype: str) -> Path:
        path = base / f"{kind}-{dtype}"
        if not path.exists():
            export_clip(ClipCheckpoint.open(folders(kind)), path, dtype=dtype, progress=silent)
        return path

    return make


def pictures() -> Iterator[Image.Image]:
    rng = np.random.default_rng(3)
    for height, width in ((32, 32), (64, 48), (50, 200), (300, 61), (7, 9)):
        small = rng.integers(0, 256, (5, 5, 3), np.uint8)
        yield Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def expected_of(
    folder: Path, text: str, images: Sequence[Image.Image] = ()
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and logits by transformers, from pictures and text to the end."""
    model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = CLIPTokenizer.from_pretrained(folder)
    processor: Any = CLIPImageProcessorPil.from_pretrained(folder)
    ids = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    cosines, logits = [], []
    with torch.inference_mode():
        for picture in images or pictures():
            pixels = processor(picture, return_tensors="pt").pixel_values
            found = model(input_ids=ids.input_ids, pixel_values=pixels)
            cosines.append(float(found.image_embeds @ found.text_embeds.T))
            logits.append(float(found.logits_per_image))
    return np.array(cosines), np.array(logits)


@pytest.mark.parametrize("index", range(5))
def test_a_picture_is_prepared_as_transformers_prepares_it(index: int) -> None:
    picture = list(pictures())[index]
    size, crop = {"shortest_edge": 24}, {"height": 24, "width": 24}
    processor: Any = CLIPImageProcessorPil(size=size, crop_size=crop)
    expected = processor(picture, return_tensors="np").pixel_values[0]
    mean, std = (np.array(n, np.float32) for n in (processor.image_mean, processor.image_std))
    found = for_clip(np.asarray(picture), 24, mean, std)
    assert found.dtype == np.float32
    # The same whole numbers; the rest is float32 rounding of values up to 2.7.
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["openai", "openclip"])
def test_similarities_are_those_of_transformers(
    folders: Callable[[str], Path], bundles: Callable[[str, str], Path], kind: str, engine: str
) -> None:
    seen: list[float] = []
    with Clip.open(bundles(kind, "fp32"), engine=engine, precision="fp32") as clip:
        for text in PROMPTS:
            cosines, logits = expected_of(folders(kind), text)
            found = clip(list(pictures()), text)
            # fp32 engines add up in another order: 1e-6 of embeddings of unit length.
            assert np.abs(found.cosine - cosines).max() < 5e-6
            assert np.abs(found.logits - logits).max() < 5e-6 * 100
            assert bool(found.notes) == (len(text) > 77)
            seen += cosines.tolist()
    assert np.std(seen) > 0.02  # random, but not all the same


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_weights_in_16_bits_give_nearly_the_same(
    folders: Callable[[str], Path],
    bundles: Callable[[str, str], Path],
    dtype: str,
    tolerance: float,
) -> None:
    cosines, _ = expected_of(folders("openai"), PROMPTS[0])
    with Clip.open(bundles("openai", dtype), engine="onnxruntime", precision="fp32") as clip:
        found = clip([np.asarray(picture) for picture in pictures()], PROMPTS[0])
    assert np.abs(found.cosine - cosines).max() < tolerance  # of rounding weights, a few ulp


def test_no_pictures_have_no_similarities(bundles: Callable[[str, str], Path]) -> None:
    with Clip.open(bundles("openai", "fp32"), engine="onnxruntime") as clip:
        assert clip([], "a").cosine.shape == (0,)


def test_what_is_no_picture_or_no_text_is_an_error(bundles: Callable[[str, str], Path]) -> None:
    wrong: Any = 5
    with Clip.open(bundles("openai", "fp32"), engine="onnxruntime") as clip:
        with pytest.raises(InputError, match=r"^images: expected a Pillow image"):
            clip([wrong], "a")
        with pytest.raises(InputError, match=r"^prompt: expected"):
            clip([], wrong)


def test_a_clip_draws_nothing_and_a_model_scores_nothing(
    bundles: Callable[[str, str], Path], bundle: Callable[[str], Path]
) -> None:
    with pytest.raises(InputError, match=r"a CLIP, which Clip\.open and `latentrt score` take"):
        Pipeline.open(bundles("openai", "fp32"))
    with pytest.raises(InputError, match=r"^bundle: expected a CLIP's, got .*stable-diffusion"):
        Clip.open(bundle("heads"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update(text_encoder=c["text_encoder_2"]), "text_encoder: a CLIP has no such"),
        (lambda c: c.update(vae_encoder=c.pop("text_encoder_2")), "components.vae_encoder"),
        (lambda c: c.pop("text_encoder_2"), "components.text_encoder_2 is missing"),
    ],
)
def test_a_clip_has_its_two_components_alone(
    bundles: Callable[[str, str], Path],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    problem: str,
) -> None:
    shutil.copytree(bundles("openai", "fp32"), tmp_path / "clip")
    path = tmp_path / "clip" / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    change(manifest["components"])
    path.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match=problem):
        Clip.open(tmp_path / "clip")


def edited(folder: Path, place: Path, file: str, **changes: object) -> Path:
    shutil.copytree(folder, place)
    path = place / file
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")
    return place


@pytest.mark.parametrize(
    ("file", "changes", "problem"),
    [
        ("preprocessor_config.json", {"resample": 2}, "has other steps than CLIP's"),
        ("preprocessor_config.json", {"do_center_crop": False}, "has other steps than CLIP's"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 40}}, "has other steps than CLIP"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, r"image_mean is \[0.5\], expected 3"),
        ("config.json", {"projection_dim": 25}, r"tensor '.*projection.weight' is \(24"),
        ("config.json", {"vision_config": 5}, "vision_config is no object"),
        ("config.json", {"architectures": ["CLIPTextModel"]}, "is not a CLIPModel"),
    ],
)
def test_what_is_no_clip_is_refused(
    folders: Callable[[str], Path],
    tmp_path: Path,
    file: str,
    changes: dict[str, object],
    problem: str,
) -> None:
    folder = edited(folders("openai"), tmp_path / "edited", file, **changes)
    with pytest.raises(CheckpointError, match=problem):
        export_clip(ClipCheckpoint.open(folder), tmp_path / "bundle", dtype="fp32", progress=silent)
    assert not (tmp_path / "bundle").exists()


def test_other_checkpoints_are_no_clip(checkpoint: Callable[[str], Path]) -> None:
    assert not is_clip(checkpoint("heads"))
    assert not is_clip(checkpoint("heads") / "text_encoder")


def test_the_command_line_exports_scores_and_inspects(
    run: Run, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    made = run("export", folders("openai"), tmp_path / "clip")
    assert made.status == 0, made.err
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, picture in zip(paths, pictures(), strict=True):
        picture.save(path)
    cosines, logits = expected_of(folders("openai"), "a red circle")
    scored = run("score", tmp_path / "clip", *paths, "--prompt", "a red circle", "--json")
    assert scored.status == 0, scored.err
    found = json.loads(scored.out)
    assert [each["file"] for each in found["images"]] == [str(path) for path in paths]
    # As above, and a bf16 engine where the processor has one.
    assert np.abs([e["similarity"] for e in found["images"]] - cosines).max() < 2e-2
    assert np.abs([e["logit"] for e in found["images"]] - logits).max() < 2
    table = run("score", tmp_path / "clip", paths[0], "--prompt", "a red circle").out
    assert table.split() == [
        *("file", "similarity", "logit", str(paths[0])),
        f"{found['images'][0]['similarity']:.4f}",
        f"{found['images'][0]['logit']:.2f}",
    ]
    assert run("inspect", tmp_path / "clip").status == 0


def test_a_comparison_has_the_similarity_of_its_pictures_to_the_prompt(
    run: Run,
    folders: Callable[[str], Path],
    bundles: Callable[[str, str], Path],
    bundle: Callable[[str], Path],
) -> None:
    clip = bundles("openai", "fp32")
    words = ("compare", bundle("heads"), "--engine", "onnxruntime", "--clip", clip)
    compared = json.loads(run(*words, "--json").out)["comparisons"][0]["runs"][0]
    golden = Bundle.open(bundle("heads")).golden()["run/images"][0]
    pixels = np.round((np.clip(golden, -1, 1) + 1) * 127.5).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    (expected,), _ = expected_of(folders("openai"), RUN_PROMPT, [image])
    # CLIP's engine may be one of bf16.
    assert abs(compared["reference_clip"] - expected) < 2e-2
    # The two pictures are the same to 55 dB: a level of 255 here and there.
    assert abs(compared["picture_clip"] - compared["reference_clip"]) < 1e-2
    told = run(*words).out
    assert f"; CLIP {compared['picture_clip']:.4f} (" in told


def test_a_table_of_engines_has_a_column_of_similarities(
    run: Run, bundles: Callable[[str, str], Path], bundle: Callable[[str], Path]
) -> None:
    words = ("compare", bundle("heads"), "--engine", "all", "--precision", "fp32")
    plain, scored = run(*words).out, run(*words, "--clip", bundles("openai", "fp32")).out
    assert "CLIP" not in plain
    heads = next(line for line in scored.splitlines() if "PSNR" in line)
    assert heads.split()[-1] == "CLIP"

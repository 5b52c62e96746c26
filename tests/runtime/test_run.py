"""Runs: steps, previews, cancelling, several images, threads, and failing components."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from latentrt import runtime
from latentrt.bundle import errors
from latentrt.bundle.errors import (
    Cancelled,
    Closed,
    FileError,
    InputError,
    NonFinite,
    ShapeNotBuilt,
)
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays
from latentrt.engines.function import FunctionEngine
from latentrt.runtime import Pipeline, Request, Sampling, Size
from latentrt.runtime.image import read_request
from latentrt.runtime.provenance import Provenance
from latentrt.runtime.rows import Batch, Outputs, Row

REQUEST = Request("a red circle", seed=5, sampling=Sampling("euler", steps=4))


@pytest.fixture(scope="module")
def pipeline(bundle: Callable[[str], Path]) -> Pipeline:
    return Pipeline.open(bundle("heads"), engine="onnxruntime")


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_steps_come_in_order_and_the_last_preview_is_the_picture(pipeline: Pipeline) -> None:
    with pipeline.run(REQUEST) as run:
        steps = list(run)
        result = run.result()
    assert [s.index for s in steps] == [0, 1, 2, 3]
    assert {s.total for s in steps} == {4}
    sigmas = [s.sigma for s in steps]
    assert sigmas == sorted(sigmas, reverse=True)
    # Euler steps to sigma 0 from the last estimate, so that estimate is the picture.
    difference = np.asarray(steps[-1].preview(), int) - np.asarray(result.images[0], int)
    assert np.abs(difference).max() <= 1
    assert not same(steps[0].preview(), result.images[0])


def test_a_run_gives_what_a_call_gives(pipeline: Pipeline) -> None:
    with pipeline.run(REQUEST) as run:
        next(iter(run))
        partly = run.result()
    assert np.array_equal(partly.latents, pipeline(REQUEST).latents)


def test_cancelling_ends_a_run_before_its_next_step(pipeline: Pipeline) -> None:
    run = pipeline.run(REQUEST)
    steps = iter(run)
    next(steps)
    run.cancel()
    with pytest.raises(Cancelled):
        next(steps)
    with pytest.raises(Cancelled):
        run.result()


def test_leaving_the_block_cancels(pipeline: Pipeline) -> None:
    with pipeline.run(REQUEST) as run:
        next(iter(run))
    with pytest.raises(Cancelled):
        run.result()


def test_an_image_of_many_equals_its_seed_run_alone(pipeline: Pipeline) -> None:
    many = pipeline(REQUEST.with_values(num_images=3))
    assert len(many.images) == 3
    for i, picture in enumerate(many.images):
        assert same(picture, pipeline(REQUEST.with_values(seed=5 + i)).images[0])


def test_a_drawn_seed_is_reported_and_draws_the_same_again(pipeline: Pipeline) -> None:
    result = pipeline(REQUEST.with_values(seed=None))
    assert result.request.seed is not None
    again = pipeline(REQUEST.with_values(seed=result.request.seed))
    assert np.array_equal(result.latents, again.latents)
    assert pipeline(REQUEST.with_values(seed=None)).request.seed != result.request.seed


def test_given_latents_replace_the_seeds_noise(pipeline: Pipeline) -> None:
    first = pipeline(REQUEST)
    again = pipeline(REQUEST.with_values(latents=first.noise, seed=99))
    assert np.array_equal(again.latents, first.latents)


def test_latents_of_another_size_are_refused(pipeline: Pipeline) -> None:
    latents = np.zeros((1, 4, 9, 8), np.float32)
    with pytest.raises(InputError, match=r"latents: expected \(n, 4, 8, 8\)"):
        pipeline(REQUEST.with_values(latents=latents))


def test_sizes_are_refused_with_the_nearest_that_would_do(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match=r"multiples of 8, such as 96x96 or 104x104, got 100x100"):
        pipeline(REQUEST.with_values(size=Size(100, 100)))
    with pytest.raises(InputError, match=r"such as 8x64 or 8x64, got 3x64"):
        pipeline(REQUEST.with_values(size=Size(3, 64)))


@pytest.mark.parametrize("images", [1, 2])
def test_a_saved_png_makes_its_picture_again_bit_for_bit(
    pipeline: Pipeline, tmp_path: Path, images: int
) -> None:
    request = REQUEST.with_values(
        num_images=images, prompt='naïve "quotes"\nand lines 部屋', size=Size(72, 56)
    )
    result = pipeline(request)
    for path, picture in zip(result.save(tmp_path / "out.png"), result.images, strict=True):
        with Image.open(path) as stored:
            assert same(stored, picture)
            text = stored.text["parameters"]  # pyright: ignore[reportAttributeAccessIssue]
        assert text.startswith('naïve "quotes"\nand lines 部屋\nSteps: 4, Sampler: Euler, ')
        assert "CFG scale: 7.5, Seed: " in text
        assert ", Size: 72x56, Model: heads, Version: latentrt " in text
        assert same(pipeline(read_request(path)).images[0], picture)


def test_a_png_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(FileError, match="holds no latentrt request"):
        read_request(path)
    path.write_bytes(b"not a picture")
    with pytest.raises(FileError, match="is not a readable PNG"):
        read_request(path)


def test_eight_threads_share_a_pipeline(pipeline: Pipeline) -> None:
    expected = [pipeline(REQUEST.with_values(seed=s)).latents for s in range(8)]
    found: dict[int, NDArray[np.float32]] = {}

    def work(seed: int) -> None:
        found[seed] = pipeline(REQUEST.with_values(seed=seed)).latents

    threads = [threading.Thread(target=work, args=(s,)) for s in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(8):
        assert np.array_equal(found[seed], expected[seed])


def test_a_closed_pipeline_says_so(bundle: Callable[[str], Path]) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as closed:
        run = closed.run(REQUEST)
    with pytest.raises(Closed, match="closed"):
        closed(REQUEST)
    with pytest.raises(Closed, match="closed"):
        run.result()


def test_a_component_may_have_another_backend(bundle: Callable[[str], Path]) -> None:
    with Pipeline.open(
        bundle("heads"), engine="onnxruntime", components={"vae_decoder": "openvino"}
    ) as mixed:
        assert mixed.engines["unet"] == "onnxruntime"
        assert mixed.engines["vae_decoder"] == "openvino"
        assert mixed(REQUEST).images[0].size == (64, 64)
    with pytest.raises(InputError, match="components: expected names among"):
        Pipeline.open(bundle("heads"), components={"vea": "openvino"})


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder"])
def test_a_component_that_returns_nan_is_named(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        engine = pipeline.engine

        def broken(name: str, sizes: Any) -> Any:
            real = engine(name, sizes)
            if name != component:
                return real

            def spoiled(inputs: Arrays) -> dict[str, NDArray[Any]]:
                outputs = real(inputs)
                next(iter(outputs.values())).flat[7] = np.nan
                return outputs

            return FunctionEngine(name, real.inputs, real.outputs, spoiled)

        monkeypatch.setattr(pipeline, "engine", broken)
        at = " at step 0" if component == "unet" else ""
        message = f"{component} returned .* not finite{at}$"
        if component == "text_encoder":
            with pytest.raises(NonFinite, match=message):
                pipeline.run(REQUEST)
            return
        run = pipeline.run(REQUEST)
        for _ in range(2):  # asked again, a run that failed fails the same way
            with pytest.raises(NonFinite, match=message):
                run.result()


def test_a_function_engine_checks_its_inputs() -> None:
    spec = TensorSpec("sample", (2, 4), "float16")
    engine = FunctionEngine("unet", (spec,), (spec,), lambda inputs: {"sample": inputs["sample"]})
    with pytest.raises(InputError) as caught:
        engine({"sample": np.zeros((1, 4), np.float32)})
    assert str(caught.value) == "unet input 'sample': expected (2, 4) float16, got (1, 4) float32"


def test_levels_given_outright_are_what_is_visited_and_reported(pipeline: Pipeline) -> None:
    sampling = Sampling("dpmpp_2m", sigmas=(14.0, 6.0, 2.0, 0.5, 0.0))
    with pipeline.run(REQUEST.with_values(sampling=sampling)) as run:
        sigmas = [step.sigma for step in run]
        result = run.result()
    assert sigmas == [14.0, 6.0, 2.0, 0.5]
    assert result.request.sampling.steps == 4
    # The picture's own request asks for the same again.
    assert np.array_equal(pipeline(result.request).latents, result.latents)


def test_generators_give_other_noise_for_a_seed(pipeline: Pipeline) -> None:
    starts = [pipeline(REQUEST.with_values(generator=g)).noise for g in ("torch", "numpy")]
    expected = np.random.default_rng(5).standard_normal(starts[1].shape[1:], dtype=np.float32)
    assert np.array_equal(starts[1][0], expected)
    assert not np.array_equal(starts[0], starts[1])


def test_an_sde_sampler_on_one_path_is_refined_by_steps(pipeline: Pipeline) -> None:
    def last(steps: int, brownian: bool) -> NDArray[np.float32]:
        sampling = Sampling("dpmpp_2m_sde", "karras", steps=steps, brownian=brownian)
        return pipeline(REQUEST.with_values(sampling=sampling, guidance=1.0)).latents

    # Twice the steps on one path is the same picture, finer; of fresh noise, another picture.
    apart = {b: np.linalg.norm(last(48, b) - last(24, b)) for b in (True, False)}
    assert apart[True] < 0.5 * apart[False]


def test_a_prompt_alone_is_no_request(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match=r"request: expected a Request.*got 'a red circle'"):
        pipeline("a red circle")  # pyright: ignore[reportArgumentType]


def test_every_error_can_be_imported_from_the_runtime() -> None:
    assert set(errors.__all__) <= set(runtime.__all__)
    for name in errors.__all__:
        assert getattr(runtime, name) is getattr(errors, name)


def changed_bundle(source: Path, folder: Path, spacing: str | None, name: str) -> Path:
    """A copy of a bundle with another name and another key in its scheduler config."""
    shutil.copytree(source, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text("utf-8"))
    if spacing is not None:
        path.write_text(json.dumps({**config, "timestep_spacing": spacing}), "utf-8")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    content = path.read_bytes()
    manifest["files"]["scheduler/scheduler_config.json"] = {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    manifest["source"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def test_a_picture_drawn_again_by_another_model_is_noted(
    pipeline: Pipeline, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    own = REQUEST.with_values(sampling=Sampling(steps=2))
    result = pipeline(own)
    assert result.notes == ()
    (path,) = result.save(tmp_path / "a.png")
    recorded = read_request(path)
    assert pipeline(recorded).notes == ()
    made = recorded.provenance
    assert made is not None
    assert (made.model, made.sampler) == ("heads", result.sampler)

    renamed = changed_bundle(bundle("heads"), tmp_path / "renamed", None, "same-model")
    with Pipeline.open(renamed, engine="onnxruntime") as same_model:
        again = same_model(recorded)
    assert again.notes == ()
    assert same(again.images[0], result.images[0])

    other = changed_bundle(bundle("heads"), tmp_path / "other", "trailing", "other-model")
    with Pipeline.open(other, engine="onnxruntime") as another:
        again = another(recorded)
        ancestral = another(recorded.with_values(sampling=Sampling("euler_ancestral", steps=2)))
        batcher = another.batcher(batch_sizes=(2,))
        batched = batcher.submit(recorded).result()
        batcher.close()
    assert not same(again.images[0], result.images[0])
    assert again.notes == batched.notes
    assert again.notes[0].startswith("the picture was drawn by model heads (")
    assert "; other-model (" in again.notes[0]
    assert again.notes[1].startswith("the picture was drawn with schedule ")
    assert again.notes[1].endswith("this model's own is trailing")
    # What is asked for cannot differ.
    assert len(ancestral.notes) == 1
    assert again.request.provenance != made


def test_another_sampler_of_ones_own_is_noted() -> None:
    made = Provenance("a", "1", "plms", "")
    now = Provenance("a", "1", "euler", "")
    (note,) = made.notes(now, Sampling())
    assert note.endswith("sampler plms, the model's own; this model's own is euler")
    assert made.notes(now, Sampling("plms")) == ()
    assert made.notes(made, Sampling()) == ()


@pytest.mark.parametrize(
    ("engine", "name", "value"),
    [
        ("onnxruntime", "threads", 1.5),
        ("onnxruntime", "threads", "2"),
        ("onnxruntime", "threads", True),
        ("onnxruntime", "threads", 0),
        ("onnxruntime", "arena", "no"),
        ("openvino", "streams", "1"),
    ],
)
def test_a_value_that_an_engines_option_cannot_have_is_named(
    bundle: Callable[[str], Path], engine: str, name: str, value: Any
) -> None:
    with pytest.raises(InputError, match=f"^{name}: expected"):
        Pipeline.open(bundle("heads"), engine=engine, options={name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"engine": 5},
        {"engine": None},
        {"precision": None},
        {"options": None},
        {"options": {5: 1}},
        {"verify": "x"},
        {"components": None},
        {"components": ["unet"]},
        {"components": {"unet": 5}},
        {"components": {5: "fp32"}},
        {"build": []},
        {"cache": 5},
        {"max_pixels": "9"},
        {"max_engines": 1.5},
        {"path": None},
        {"path": 5},
        {"path": b"bundle"},
        {"path": "a\0b"},
    ],
    ids=str,
)
def test_an_option_of_a_wrong_kind_is_named(
    bundle: Callable[[str], Path], options: dict[str, Any]
) -> None:
    (field,) = options
    with pytest.raises(InputError) as caught:
        Pipeline.open(**{"path": bundle("heads"), **options})
    assert caught.value.field == {"path": "bundle"}.get(field, field)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda p: p.batcher(max_batch="8"), "max_batch"),
        (lambda p: p.batcher(max_batch=1.5), "max_batch"),
        (lambda p: p.batcher(max_batch=0), "max_batch"),
        (lambda p: p.batcher(batch_sizes=8), "batch_sizes"),
        (lambda p: p.run(None), "request"),
        (lambda p: p("a red circle"), "request"),
        (lambda p: p.decode("latents"), "latents"),
        (lambda p: p.engine("vea", {}), "component"),
        (lambda p: p.engine("unet", None), "sizes"),
        (lambda p: Pipeline(None), "bundle"),  # pyright: ignore[reportArgumentType]
        (lambda p: Pipeline(p.bundle, "auto", "auto", None), "options"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_an_argument_of_a_wrong_kind_is_named(pipeline: Pipeline, call: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        call(pipeline)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("images", "guidance", "rows"),
    [(4, 5.0, [8]), (6, 5.0, [6, 6]), (5, 5.0, [6, 4]), (3, 1.0, [3])],
)
def test_images_of_one_request_share_calls_of_at_most_eight_rows(
    bundle: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    guidance: float,
    rows: list[int],
) -> None:
    called: list[int] = []
    evaluate = Batch.__call__

    def watched(batch: Batch, taken: Sequence[Row]) -> list[Outputs]:
        if taken[0].model.component == "unet":
            called.append(len(taken))
        return evaluate(batch, taken)

    monkeypatch.setattr(Batch, "__call__", watched)
    sampling = Sampling("euler", steps=2)
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        asked = Request("a", seed=1, num_images=images, sampling=sampling, guidance=guidance)
        result = pipeline(asked)
    assert called == [count for count in rows for _ in range(2)]
    assert len(result.images) == images


def test_images_are_drawn_one_by_one_where_no_larger_batch_is_built(
    bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"engine": "onnxruntime", "cache": tmp_path}
    with Pipeline.open(bundle("heads"), **options) as pipeline:
        one = pipeline(REQUEST)
    with Pipeline.open(bundle("heads"), build="never", **options) as pipeline:
        two = pipeline(REQUEST.with_values(num_images=2))
        assert np.array_equal(two.latents[0], one.latents[0])
        with pytest.raises(ShapeNotBuilt):
            pipeline(REQUEST.with_values(size=Size(72, 64)))

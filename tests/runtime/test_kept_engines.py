"""How many engines a pipeline keeps, and that none is freed while somebody uses it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import Closed
from latentrt.engines.cache.cache import Cache, Opened
from latentrt.engines.engine import Arrays, Blueprint, Engine
from latentrt.engines.function import FunctionEngine
from latentrt.engines.registry import Chosen, Progress
from latentrt.runtime import ImageToImage, Pipeline, Request, Sampling, Size, pipeline
from latentrt.runtime import bundle_engines as module
from latentrt.runtime.bundle_engines import BundleEngines

ALIVE: weakref.WeakSet[FunctionEngine] = weakref.WeakSet()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Engines are functions that give zeros; the names of those that were opened, in order."""
    names: list[str] = []

    def open_verified(
        cache: Cache,
        bundle: Bundle,
        component: str,
        sizes: dict[str, int],
        chosen: Chosen,
        *,
        progress: Progress | None,
        **_: Any,
    ) -> Opened:
        if progress is not None:
            progress("compiling", 0, 1)
        blueprint = Blueprint.of(bundle, component, sizes)

        def zeros(inputs: Arrays) -> dict[str, NDArray[Any]]:
            del inputs
            specs = blueprint.fixed_outputs
            return {s.name: np.zeros(s.shape({}), s.dtype) for s in specs}

        engine = FunctionEngine(component, blueprint.fixed_inputs, blueprint.fixed_outputs, zeros)
        ALIVE.add(engine)
        names.append(component)
        return Opened(engine, True, "", {})

    monkeypatch.setattr(module, "open_verified", open_verified)
    yield names
    gc.collect()


def request(side: int, steps: int = 1) -> Request:
    return Request("x", seed=1, size=Size(side, 64), sampling=Sampling("euler", steps=steps))


def test_ten_sizes_leave_at_most_the_kept_engines(
    bundle: Callable[[str], Path], opened: list[str]
) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime", max_engines=4) as pipe:
        for n in range(10):
            pipe(request(64 + 8 * n))
        assert len(ALIVE) == 4
        before = len(opened)
        pipe(request(64 + 8 * 9))
        assert len(opened) == before
        # The text encoder is used by every request, and so never the longest unused.
        assert opened.count("text_encoder") == 1


def test_an_engine_that_was_freed_is_opened_again(
    bundle: Callable[[str], Path], opened: list[str]
) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime", max_engines=1) as pipe:
        pipe(request(64))
        pipe(request(64))
    assert opened.count("unet") == 2


def test_a_run_keeps_its_engines_however_many_others_come(
    bundle: Callable[[str], Path], opened: list[str]
) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime", max_engines=1) as pipe:
        run = pipe.run(request(64, steps=3))
        steps = iter(run)
        next(steps)
        for n in range(1, 5):
            pipe(request(64 + 8 * n))
        before = len(opened)
        assert len(run.result().images) == 1
        assert len(opened) == before
        del steps
        assert len(ALIVE) == 1  # even while the finished run is held


def test_in_low_memory_one_component_is_there_at_a_time(
    bundle: Callable[[str], Path], opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, set[str]]] = []
    made = FunctionEngine.__call__

    def call(self: FunctionEngine, inputs: Arrays) -> Any:
        asked.append((self.component, {each.component for each in ALIVE}))
        return made(self, inputs)

    monkeypatch.setattr(FunctionEngine, "__call__", call)
    image = np.zeros((64, 64, 3), np.uint8)
    drawn = Request("x", seed=1, task=ImageToImage(image, 0.5), sampling=Sampling("euler", steps=4))
    with Pipeline.open(bundle("heads"), engine="onnxruntime", low_memory=True) as pipe:
        pipe(drawn)
    components = ["vae_encoder", "text_encoder", "unet", "vae_decoder"]
    assert list(dict.fromkeys(name for name, _ in asked)) == components
    assert all(alive == {name} for name, alive in asked)
    # The U-Net is loaded once for all its steps, although the decoder was looked for before.
    assert opened.count("unet") == 1


def test_an_engine_is_freed_before_the_next_one_is_opened(
    bundle: Callable[[str], Path], opened: list[str]
) -> None:
    alive: list[int] = []
    with Pipeline.open(bundle("heads"), engine="onnxruntime", max_engines=1) as pipe:
        for side in (8, 9, 10):
            sizes = {"batch": 1, "height": side, "width": 8}
            pipe.engine("vae_decoder", sizes, lambda *told: alive.append(len(ALIVE)))
    assert alive == [0, 0, 0]


def test_a_batchers_runs_keep_their_engines_until_they_end(
    bundle: Callable[[str], Path], opened: list[str]
) -> None:
    with (
        Pipeline.open(bundle("heads"), engine="onnxruntime", max_engines=1) as pipe,
        pipe.batcher(batch_sizes=(1, 2)) as batcher,
    ):
        run = batcher.submit(request(64, steps=50))
        for n in range(1, 4):
            batcher.submit(request(64 + 8 * n)).result()
        run.result()
        # Two U-Nets and a decoder for each of four sizes, and the text encoder: each opened once.
        assert opened.count("unet") == 8
        assert opened.count("vae_decoder") == 4


def test_by_default_weights_take_at_most_half_the_memory(
    bundle: Callable[[str], Path], opened: list[str], logged: list[str]
) -> None:
    found = Bundle.open(bundle("heads"))
    record = found.manifest.components["vae_decoder"]
    size = found.manifest.files[record.weights].size
    engines = BundleEngines(
        found,
        "onnxruntime",
        "fp32",
        {},
        {},
        build="missing",
        cache=None,
        guarded=True,
        memory=2 * 3 * size,
    )
    for n in range(5):
        engines.get("vae_decoder", {"batch": 1, "height": 8 + n, "width": 8})
    assert len(ALIVE) == 3
    assert "vae_decoder batch=1 height=8 width=8: not kept any more" in logged
    engines.close()


def test_a_picture_after_the_first_reads_nothing_of_the_weights(
    checkpoint: Callable[[str], Path], opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    tensors = Bundle.tensors

    def counted(found: Bundle, component: str) -> Any:
        read.append(component)
        return tensors(found, component)

    monkeypatch.setattr(Bundle, "tensors", counted)
    # The tensors of a checkpoint stay in its own files, and have to be looked for there.
    with Pipeline.open(checkpoint("heads"), engine="onnxruntime") as pipe:
        pipe(request(64))
        before = len(read)
        pipe(request(64, steps=2))
    assert len(read) == before > 0


def test_closing_closes_engines_in_use_too(
    bundle: Callable[[str], Path], opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Engine] = []
    monkeypatch.setattr(FunctionEngine, "close", lambda self: closed.append(self))
    with Pipeline.open(bundle("heads"), engine="onnxruntime", max_engines=1) as pipe:
        held = pipe.engine("vae_decoder", {"batch": 1, "height": 8, "width": 8})
        pipe.engine("vae_decoder", {"batch": 1, "height": 9, "width": 8})
    assert held in closed
    assert len(closed) == 2


def test_a_run_that_was_left_before_its_first_step_holds_no_engine(
    bundle: Callable[[str], Path], opened: list[str]
) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime", max_engines=1) as pipe:
        with pipe.run(request(64)) as run:
            held = len(ALIVE)
        assert len(ALIVE) == 1 < held
        del run


def test_a_progress_callback_may_close_the_pipeline(
    bundle: Callable[[str], Path], opened: list[str]
) -> None:
    raised: list[BaseException] = []

    def draw() -> None:
        with pytest.raises(Closed) as found:
            pipe.run(request(64), progress=lambda *_: pipe.close())
        raised.append(found.value)

    pipe = Pipeline.open(bundle("heads"), engine="onnxruntime")
    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    thread.join(30)
    assert len(raised) == 1
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("copies", "most", "expected"),
    [
        (9.0, 8, {1, 2, 4, 8}),
        (3.5, 8, {1, 2, 8}),
        (2.0, 8, {2, 8}),
        (0.5, 8, {8}),
        (9.0, 6, {1, 2, 4, 6}),
        (9.0, 1, {1}),
    ],
)
def test_a_batcher_compiles_only_the_sizes_that_memory_holds(
    bundle: Callable[[str], Path],
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
    copies: float,
    most: int,
    expected: set[int],
) -> None:
    path = bundle("heads")
    manifest = Bundle.open(path).manifest
    weights = manifest.files[manifest.components["unet"].weights].size
    monkeypatch.setattr(pipeline, "available_memory", lambda: int(2 * copies * weights))
    with (
        Pipeline.open(path, engine="onnxruntime") as pipe,
        pipe.batcher(max_batch=most) as batcher,
    ):
        run = batcher.submit(request(64))
        found = {batch for name, batch in pipe.compiled if name == "unet"}
        run.result()
    assert found == expected

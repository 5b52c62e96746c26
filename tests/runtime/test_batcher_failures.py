"""What goes wrong with one request, in its model's rows, its functions or its picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.toy_model import Gate, ToyPipeline, equal, request

from latentrt.bundle.errors import (
    FileError,
    InputError,
    InternalError,
    LatentrtError,
    NonFinite,
)
from latentrt.engines.engine import Arrays
from latentrt.runtime import Batcher, Guidance
from latentrt.runtime.run import DirectRun


def test_a_row_that_is_not_finite_fails_its_own_request_only() -> None:
    model = ToyPipeline()
    evaluate = model.evaluate

    def poisoned(inputs: Arrays) -> dict[str, NDArray[Any]]:
        outputs = evaluate(inputs)
        outputs["model_output"][inputs["encoder_hidden_states"][:, 0, 0] == 2] = np.nan
        return outputs

    with Batcher(model, batch_sizes=(8,)) as batcher:
        alone = batcher.submit(request(1)).result()
        model.evaluate = poisoned
    with Batcher(model, batch_sizes=(8,)) as batcher:
        runs = [batcher.submit(request(i)) for i in (1, 2, 3)]
        with pytest.raises(NonFinite, match="step 0"):
            runs[1].result()
        assert equal(runs[0].result(), alone)
        assert len(runs[2].result().images) == 1


def test_a_row_that_makes_the_engine_fail_fails_its_own_request_only() -> None:
    model = ToyPipeline()

    def refuse(prompts: list[int]) -> None:
        if 2 in prompts:
            raise RuntimeError("out of luck")

    gate = Gate()
    with Batcher(model, batch_sizes=(8,)) as batcher:
        alone = batcher.submit(request(1)).result()
        model.before_call = gate
        runs = [batcher.submit(request(i, num_images=2 if i == 2 else 1)) for i in (1, 2, 3)]
        gate.arrived()
        model.before_call = refuse
        gate.open()
        with pytest.raises(RuntimeError, match="out of luck"):
            runs[1].result()
        assert equal(runs[0].result(), alone)
        assert len(runs[2].result().images) == 1
    assert batcher.load.pictures == 0


def test_a_scale_function_that_fails_fails_its_own_request_only() -> None:
    def scale(sigma: float) -> float:
        return 5.0 if sigma > 1.0 else math.nan

    with Batcher(ToyPipeline(), batch_sizes=(8,)) as batcher:
        good, bad = batcher.submit(request(1)), batcher.submit(request(2, guidance=Guidance(scale)))
        with pytest.raises(InputError, match="guidance scale"):
            bad.result()
        assert len(good.result().images) == 1


def test_a_scale_function_that_exits_fails_its_own_request_only() -> None:
    def leave(sigma: float) -> float:
        if sigma < 1.0:
            raise SystemExit(3)
        return 5.0

    with Batcher(ToyPipeline()) as batcher:
        bad, good = batcher.submit(request(2, guidance=Guidance(leave))), batcher.submit(request(1))
        with pytest.raises(SystemExit):
            bad.result()
        assert len(good.result().images) == 1


def test_a_picture_that_is_not_finite_fails_its_own_request_only() -> None:
    model = ToyPipeline()
    gate = Gate()
    decode = model.decode

    def poisoned(latents: NDArray[np.float32]) -> NDArray[np.float32]:
        pixels = decode(latents)
        pixels[[np.array_equal(each, bad.latents[0]) for each in latents]] = np.inf
        return pixels

    with Batcher(model) as batcher:
        bad, good = (batcher.submit(request(i)).result() for i in (2, 1))
    model.decode = poisoned
    model.before_decode = gate
    with Batcher(model, decode_sizes=(4,)) as batcher:
        runs = [batcher.submit(request(i)) for i in (3, 1, 2)]
        gate.arrived()
        gate.open()
        with pytest.raises(NonFinite, match="vae_decoder"):
            runs[2].result()
        assert equal(runs[1].result(), good)
        assert len(runs[0].result().images) == 1


def test_a_scale_function_that_raises_is_named() -> None:
    guidance = Guidance(lambda sigma: 1 / 0)
    with pytest.raises(InputError, match=r"^guidance scale: .*ZeroDivisionError"):
        guidance.scale_at(3.0)


@pytest.mark.parametrize(
    ("error", "kind"), [(KeyError("x"), InternalError), (OSError(28, "full", "a/b"), FileError)]
)
def test_an_unexpected_exception_becomes_a_latentrt_error(
    error: Exception, kind: type[LatentrtError]
) -> None:
    def fail(_: object) -> None:
        raise error

    with Batcher(ToyPipeline(before_call=fail)) as batcher:
        with pytest.raises(kind) as caught:
            batcher.submit(request(1)).result()
        assert caught.value.__cause__ is error
    run = DirectRun(ToyPipeline(before_call=fail).plan(request(1)))
    for _ in range(2):
        with pytest.raises(kind) as caught:
            run.result()
        assert caught.value.__cause__ is error


def test_a_planner_that_fails_raises_an_error_of_ours() -> None:
    model = ToyPipeline()
    model.plan = lambda *_, **__: {}["key"]  # pyright: ignore[reportAttributeAccessIssue]
    with Batcher(model) as batcher, pytest.raises(InternalError, match="unexpected KeyError"):
        batcher.submit(request(1))

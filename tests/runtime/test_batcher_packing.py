"""Rows that share calls: which do, how full the calls are, and that it changes no picture."""

from __future__ import annotations

import itertools
import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.toy_model import WAIT, Gate, ToyPipeline, decoded_by, equal, request

from latentrt.engines.engine import Arrays
from latentrt.runtime import Batcher, Guidance, Pipeline, Request, Result, Size
from latentrt.runtime.plan import Plan
from latentrt.runtime.rows import Batch, Outputs, Row
from latentrt.runtime.run import DirectRun
from latentrt.runtime.schedules import CATALOGUE


def mixed(count: int) -> list[Request]:
    """Requests of many samplers, lengths, scales and seeds, with and without guidance."""
    names = itertools.cycle(name for name in CATALOGUE if not name.startswith("edm"))
    return [
        request(
            i + 1,
            steps=4 + i % 4,
            sampler=next(names),
            guidance=Guidance((1.0, 3.0, 7.5)[i % 3], rescale=(0.0, 0.6)[i % 2]),
            num_images=1 + (i % 8 == 7),
        )
        for i in range(count)
    ]


def test_mixed_requests_share_calls_and_get_what_they_get_alone() -> None:
    model = ToyPipeline()
    requests = mixed(32)
    with Batcher(model, batch_sizes=(8,)) as batcher:
        alone = [batcher.submit(each).result() for each in requests]
    calls = len(model.calls)
    gate = Gate()
    model.before_call = gate
    with Batcher(model, batch_sizes=(8,)) as batcher:
        runs = [batcher.submit(each) for each in requests]
        gate.open()
        together = [run.result() for run in runs]
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len({r.sampler for r in together}) > 15
    assert len(model.calls) - calls < calls / 3


def test_requests_from_eight_threads_get_what_they_get_alone() -> None:
    requests = mixed(32)
    with Batcher(ToyPipeline(), batch_sizes=(8,)) as batcher:
        alone = [batcher.submit(each).result() for each in requests]
        together: dict[int, Result] = {}

        def some(first: int) -> None:
            runs = [(i, batcher.submit(requests[i])) for i in range(first, 32, 8)]
            together.update({i: run.result() for i, run in runs})

        threads = [threading.Thread(target=some, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert all(equal(alone[i], together[i]) for i in range(32))


def test_equal_requests_fill_their_calls() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    steps = 10
    with Batcher(model, batch_sizes=(8,)) as batcher:
        runs = [batcher.submit(request(i + 1, steps)) for i in range(32)]
        gate.open()
        for run in runs:
            run.result()
        load = batcher.load
    rows = 32 * 2 * steps
    assert load.evaluated == rows
    assert load.calls == len(model.calls) <= 1.15 * math.ceil(rows / 8)
    assert load.padded == 8 * load.calls - rows


def test_the_smallest_batch_that_fits_is_called() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    with Batcher(model, batch_sizes=(4, 1, 2)) as batcher:
        gate_keeper = batcher.submit(request(1, 1, guidance=1.0))
        gate.arrived()
        runs = [batcher.submit(request(i, 1, guidance=1.0)) for i in range(2, 9)]
        gate.open()
        for run in (gate_keeper, *runs):
            run.result()
    # Seven rows in a largest batch of four: four, then three in four places.
    assert model.sizes == [1, 4, 4]
    assert model.calls[1:] == [[2, 3, 4, 5], [6, 7, 8, 6]]


def test_rows_of_other_shapes_have_calls_of_their_own() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    sizes = [Size(64, 48), Size(48, 64)]
    with Batcher(model, batch_sizes=(8,)) as batcher:
        runs = [batcher.submit(request(i + 1, 2, size=sizes[i % 2])) for i in range(6)]
        gate.open()
        results = [run.result() for run in runs]
    assert [r.images[0].size for r in results] == [(64, 48), (48, 64)] * 3
    for call in model.calls:
        assert len({abs(prompt) % 2 for prompt in call}) == 1


def test_a_request_with_several_images_is_each_of_them_alone() -> None:
    with Batcher(ToyPipeline(), batch_sizes=(8,)) as batcher:
        three = batcher.submit(request(1, seed=40, num_images=3)).result()
        single = [batcher.submit(request(1, seed=40 + i)).result() for i in range(3)]
    for i, one in enumerate(single):
        assert np.array_equal(three.latents[i], one.latents[0])


def test_latents_of_a_request_start_each_its_own_image() -> None:
    latents = np.random.default_rng(0).standard_normal((3, 4, 6, 8), dtype=np.float32)
    ordered = request(1, num_images=3, latents=latents)
    latents[:] = 0.0  # a caller's buffer is the caller's again
    with Batcher(ToyPipeline(), batch_sizes=(8,)) as batcher:
        three = batcher.submit(ordered).result()
        for i in range(3):
            given = ordered.latents[i : i + 1]  # pyright: ignore[reportOptionalSubscript]
            one = batcher.submit(request(1, latents=given)).result()
            assert np.array_equal(one.latents[0], three.latents[i])
    assert len({each.tobytes() for each in three.latents}) == 3


def test_the_arrays_of_a_shape_are_freed_with_its_last_picture() -> None:
    model = ToyPipeline()
    evaluate = model.evaluate
    seen = list[weakref.ref[NDArray[Any]]]()

    def watched(inputs: Arrays) -> dict[str, NDArray[Any]]:
        seen.append(weakref.ref(inputs["sample"]))
        return evaluate(inputs)

    model.evaluate = watched
    with Batcher(model, batch_sizes=(2,)) as batcher:
        for i in range(1, 9):
            batcher.submit(request(i, size=Size(64, 8 * i))).result()
            # The threads may still be on their way out of the last picture's turn.
            alive = [array for array in (each() for each in seen) if array is not None]
            assert {array.shape for array in alive} <= {(2, 4, i, 8)}


def test_a_shape_on_its_way_has_the_same_arrays_at_every_call() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    evaluate = model.evaluate
    seen = list[NDArray[Any]]()

    def watched(inputs: Arrays) -> dict[str, NDArray[Any]]:
        seen.append(inputs["sample"])
        return evaluate(inputs)

    model.evaluate = watched
    with Batcher(model, batch_sizes=(2,)) as batcher:
        runs = [batcher.submit(request(i, 5, size=Size(64, 8 * i))) for i in (1, 2)]
        gate.open()
        for run in runs:
            run.result()
    assert [array.shape[2] for array in seen] == [1, 2] * 5
    assert len({id(array) for array in seen}) == 2


class OtherPipeline(ToyPipeline):
    """A model of the same shapes that gives other numbers."""

    def evaluate(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return {"model_output": np.float32(0.5) * super().evaluate(inputs)["model_output"]}

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        return -super().decode(latents)


def test_rows_and_latents_of_two_models_of_equal_shapes_never_share_a_call() -> None:
    requests = [request(i + 1) for i in range(6)]
    alone = [
        DirectRun((OtherPipeline() if i % 2 else ToyPipeline()).plan(requests[i])) for i in range(6)
    ]
    expected = [run.result() for run in alone]
    gate = Gate()
    one, other = ToyPipeline(before_call=gate), OtherPipeline(before_call=gate)
    with Batcher(one, batch_sizes=(4,), decode_sizes=(4,)) as batcher:
        runs = [
            batcher.submit(each, pipeline=other if i % 2 else one)
            for i, each in enumerate(requests)
        ]
        gate.open()
        found = [run.result() for run in runs]
    assert {abs(prompt) for call in one.calls for prompt in call} == {1, 3, 5}
    assert {abs(prompt) for call in other.calls for prompt in call} == {2, 4, 6}
    assert all(equal(a, b) for a, b in zip(expected, found, strict=True))


def test_latents_of_two_decoders_behind_one_unet_are_decoded_apart() -> None:
    class Decoders(ToyPipeline):
        def plan(
            self,
            request: Request,
            *,
            batches: Sequence[int] = (1, 2),
            decodes: Sequence[int] = (1,),
        ) -> Plan:
            plan = super().plan(request, batches=batches, decodes=decodes)
            own = self if int(request.prompt) % 2 else other
            return replace(plan, decode=partial(decoded_by, own.decoder))

    gate = Gate()
    model, other = Decoders(before_decode=gate), OtherPipeline(before_decode=gate)
    with Batcher(model, batch_sizes=(8,), decode_sizes=(4,)) as batcher:
        runs = [batcher.submit(request(i + 1, guidance=1.0)) for i in range(4)]
        while batcher.load.rows:  # how many latents a decode took meanwhile is left to chance
            time.sleep(0.001)
        gate.open()
        found = [run.result() for run in runs]
    for i, result in enumerate(found):
        latents = result.latents[:, :3].repeat(8, axis=2).repeat(8, axis=3)
        sign = 1.0 if (i + 1) % 2 else -1.0
        pixels = sign * np.tanh(latents[0].astype(np.float64)).transpose(1, 2, 0)
        # Half a level of rounding; float32 adds less than a thousandth of one.
        assert (
            np.abs(np.asarray(result.images[0], np.float64) - (pixels + 1) * 127.5).max() <= 0.501
        )


def test_two_unets_of_equal_shapes_in_one_batcher_draw_what_they_draw_alone(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = [Request("a red circle", seed=i, sampling="euler", num_images=2) for i in range(4)]
    called: list[set[int]] = []
    evaluate = Batch.__call__

    def watched(batch: Batch, rows: Sequence[Row]) -> list[Outputs]:
        called.append({id(row.model) for row in rows})
        return evaluate(batch, rows)

    monkeypatch.setattr(Batch, "__call__", watched)
    with (
        Pipeline.open(bundle("heads"), engine="onnxruntime") as one,
        Pipeline.open(bundle("heads@1"), engine="onnxruntime") as two,
        one.batcher(batch_sizes=(4,)) as batcher,
    ):
        asked = [(ordered[i], (one, two)[i % 2]) for i in range(4)]
        alone = [batcher.submit(each, pipeline=own).result() for each, own in asked]
        runs = [batcher.submit(each, pipeline=own) for each, own in asked]
        together = [run.result() for run in runs]
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not np.allclose(alone[0].latents, alone[1].latents)
    assert {len(models) for models in called} == {1}

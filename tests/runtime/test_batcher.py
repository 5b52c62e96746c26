"""Step-level batching: what shares a call, what may not, and what goes wrong alone."""

from __future__ import annotations

import asyncio
import itertools
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.bundle.errors import (
    Cancelled,
    DeadlineExceeded,
    InputError,
    NonFinite,
    QueueFull,
)
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays
from latentrt.engines.function import FunctionEngine
from latentrt.runtime import Batcher, Guidance, Pipeline, Request, Result, Sampling, Size
from latentrt.runtime.conditioning import Conditioning
from latentrt.runtime.plan import Plan
from latentrt.runtime.schedules import CATALOGUE, build_schedule

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WAIT = 60.0
"""Seconds after which a test gives up on another thread; none of them waits on purpose."""


class Model:
    """A pipeline's stand-in: a network that is the same for every row, and a record of its calls.

    A prompt is a number, which its rows carry; the negative prompt's row carries minus it.
    """

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.sizes: list[int] = []
        self.decodes: list[int] = []
        self.before_call: Callable[[list[int]], None] = lambda _: None
        self.before_decode: Callable[[int], None] = lambda _: None

    def plan(
        self, request: Request, *, batches: Sequence[int] = (1, 2), decodes: Sequence[int] = (1,)
    ) -> Plan:
        size = request.size or Size(64, 48)
        shape = (4, size.height // 8, size.width // 8)
        named = np.full((3, 2), int(request.prompt), np.float32)
        negative = {"encoder_hidden_states": -named} if request.guidance.active else None
        sampling = request.sampling
        schedule = build_schedule(CONFIG, steps=sampling.steps, sampler=sampling.sampler)
        return Plan(
            request=request.with_values(size=size),
            schedule=schedule,
            conditioning=Conditioning(({"encoder_hidden_states": named},), negative, ()),
            unet=lambda rows: self._unet(rows, shape),
            decode=self._decode,
            latent_shape=shape,
            model="numbers",
            seconds=(0.0, 0.0),
        )

    def _unet(self, rows: int, shape: tuple[int, ...]) -> FunctionEngine:
        specs = (
            TensorSpec("sample", (rows, *shape)),
            TensorSpec("timestep", (rows,)),
            TensorSpec("encoder_hidden_states", (rows, 3, 2)),
        )
        return FunctionEngine("unet", specs, (), self._evaluate)

    def _evaluate(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        prompts = [int(text[0, 0]) for text in inputs["encoder_hidden_states"]]
        self.before_call(prompts)
        self.calls.append(prompts)
        self.sizes.append(len(prompts))
        angle = inputs["timestep"] / 300.0 + inputs["encoder_hidden_states"][:, 0, 0]
        out = np.tanh(inputs["sample"] + np.cos(angle)[:, None, None, None])
        return {"model_output": out.astype(np.float32)}

    def _decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        self.before_decode(len(latents))
        self.decodes.append(len(latents))
        pixels = latents[:, :3].repeat(8, axis=2).repeat(8, axis=3)
        return np.tanh(pixels)


@pytest.fixture
def model() -> Model:
    return Model()


def request(number: int, steps: int = 4, **values: Any) -> Request:
    sampler = values.pop("sampler", "euler")
    sampling = Sampling(sampler, steps=steps)
    return Request(str(number), **{"seed": number, "sampling": sampling, **values})


def equal(a: Result, b: Result) -> bool:
    pixels = zip(a.images, b.images, strict=True)
    return np.array_equal(a.latents, b.latents) and all(
        np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pixels
    )


class Gate:
    """Holds back a thread until it is opened, once or for good."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)
        self._open = False

    def __call__(self, *_: object) -> None:
        self.reached.release()
        if not self._open:
            assert self._permits.acquire(timeout=WAIT)

    def arrived(self) -> None:
        """Wait until somebody stands before it."""
        assert self.reached.acquire(timeout=WAIT)

    def let_one_pass(self) -> None:
        self._permits.release()

    def open(self) -> None:
        self._open = True
        self._permits.release()


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


def test_mixed_requests_share_calls_and_get_what_they_get_alone(model: Model) -> None:
    requests = mixed(32)
    alone: list[Result] = []
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


def test_requests_from_eight_threads_get_what_they_get_alone(model: Model) -> None:
    requests = mixed(32)
    with Batcher(model, batch_sizes=(8,)) as batcher:
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


def test_equal_requests_fill_their_calls(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
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


def test_requests_from_eight_threads_fill_their_calls_and_take_their_turns(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    steps = 6
    with Batcher(model, batch_sizes=(8,)) as batcher:
        runs = list[Any]()

        def some(first: int) -> None:
            runs.extend(batcher.submit(request(i + 1, steps)) for i in range(first, 32, 8))

        threads = [threading.Thread(target=some, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        cancelled = runs.pop()
        cancelled.cancel()
        gate.open()
        for run in runs:
            run.result()
    rows = 32 * 2 * steps
    assert len(model.calls) <= 1.15 * math.ceil(rows / 8)
    for i in range(32):
        seen = [n for n, call in enumerate(model.calls) if i + 1 in call]
        if i + 1 == int(cancelled.plan.request.prompt):
            assert len(seen) <= 1  # the call that was under way
        else:
            assert len(seen) == steps
            assert max(b - a for a, b in itertools.pairwise([0, *seen])) <= 64 / 8 + 1


def test_the_smallest_batch_that_fits_is_called(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
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


def test_every_request_advances_within_its_turn(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    requests = [request(i + 1, 3 + i % 7, guidance=(1.0, 5.0)[i % 2]) for i in range(21)]
    with Batcher(model, batch_sizes=(4,)) as batcher:
        runs = [batcher.submit(each) for each in requests]
        gate.open()
        for run in runs:
            run.result()
    rows = sum(2 if each.guidance.active else 1 for each in requests)
    allowed = math.ceil(rows / 4) + 1
    for each in requests:
        seen = [i for i, call in enumerate(model.calls) if int(each.prompt) in call]
        waits = [b - a for a, b in itertools.pairwise([0, *seen])]
        assert max(waits) <= allowed


def test_a_cancelled_request_is_absent_from_the_next_call(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    with Batcher(model, batch_sizes=(8,)) as batcher:
        runs = [batcher.submit(request(i + 1, 5)) for i in range(3)]
        gate.arrived()
        gate.let_one_pass()
        gate.arrived()
        runs[1].cancel()
        with pytest.raises(Cancelled):
            runs[1].result()
        under_way = len(model.calls) + 1
        gate.open()
        results = [runs[0].result(), runs[2].result()]
        assert batcher.load.pictures == 0
    assert 2 not in {prompt for call in model.calls[under_way:] for prompt in call}
    assert all(len(r.images) == 1 for r in results)
    assert batcher.load.rows == 0


def test_a_request_joins_between_any_two_steps(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    with Batcher(model, batch_sizes=(8,)) as batcher:
        first = batcher.submit(request(1, 4))
        gate.arrived()
        second = batcher.submit(request(2, 2))
        gate.open()
        first.result()
        second.result()
    present = [sorted({abs(prompt) for prompt in call}) for call in model.calls]
    assert present == [[1], [1, 2], [1, 2], [1]]


def test_a_row_that_is_not_finite_fails_its_own_request_only(model: Model) -> None:
    evaluate = model._evaluate  # pyright: ignore[reportPrivateUsage]

    def poisoned(inputs: Arrays) -> dict[str, NDArray[Any]]:
        outputs = evaluate(inputs)
        outputs["model_output"][inputs["encoder_hidden_states"][:, 0, 0] == 2] = np.nan
        return outputs

    with Batcher(model, batch_sizes=(8,)) as batcher:
        alone = batcher.submit(request(1)).result()
        model._evaluate = poisoned  # pyright: ignore[reportPrivateUsage]
    with Batcher(model, batch_sizes=(8,)) as batcher:
        runs = [batcher.submit(request(i)) for i in (1, 2, 3)]
        with pytest.raises(NonFinite, match="step 0"):
            runs[1].result()
        assert equal(runs[0].result(), alone)
        assert len(runs[2].result().images) == 1


def test_a_row_that_makes_the_engine_fail_fails_its_own_request_only(model: Model) -> None:
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


def test_a_scale_function_that_fails_fails_its_own_request_only(model: Model) -> None:
    def scale(sigma: float) -> float:
        return 5.0 if sigma > 1.0 else math.nan

    with Batcher(model, batch_sizes=(8,)) as batcher:
        good, bad = batcher.submit(request(1)), batcher.submit(request(2, guidance=Guidance(scale)))
        with pytest.raises(InputError, match="guidance scale"):
            bad.result()
        assert len(good.result().images) == 1


def test_a_picture_that_is_not_finite_fails_its_own_request_only(model: Model) -> None:
    gate = Gate()
    decode = model._decode  # pyright: ignore[reportPrivateUsage]

    def poisoned(latents: NDArray[np.float32]) -> NDArray[np.float32]:
        pixels = decode(latents)
        pixels[[np.array_equal(each, bad.latents[0]) for each in latents]] = np.inf
        return pixels

    with Batcher(model) as batcher:
        bad, good = (batcher.submit(request(i)).result() for i in (2, 1))
    model._decode = poisoned  # pyright: ignore[reportPrivateUsage]
    model.before_decode = gate
    with Batcher(model, decode_sizes=(4,)) as batcher:
        runs = [batcher.submit(request(i)) for i in (3, 1, 2)]
        gate.arrived()
        gate.open()
        with pytest.raises(NonFinite, match="vae_decoder"):
            runs[2].result()
        assert equal(runs[1].result(), good)
        assert len(runs[0].result().images) == 1


def test_decoding_does_not_hold_up_the_steps_of_others(model: Model) -> None:
    gate = Gate()
    model.before_decode = gate
    with Batcher(model) as batcher:
        short, long = batcher.submit(request(1, 1)), batcher.submit(request(2, 9))
        gate.arrived()
        last = next(step for step in long if step.index == 8)
        assert last.total == 9
        assert not short.future.done()
        gate.open()
        assert len(short.result().images) == len(long.result().images) == 1


def test_latents_are_decoded_together_where_that_is_asked_for(model: Model) -> None:
    gate = Gate()
    model.before_decode = gate
    with Batcher(model, decode_sizes=(1, 4)) as batcher:
        runs = [batcher.submit(request(1, 1))]
        gate.arrived()
        runs += [batcher.submit(request(i, 1)) for i in (2, 3, 4)]
        while len(batcher._finished) < 3:  # pyright: ignore[reportPrivateUsage]
            time.sleep(0.001)
        gate.open()
        for run in runs:
            run.result()
        assert batcher.load.decodes == len(model.decodes)
    assert model.decodes == [1, 4]


def test_rows_of_other_shapes_have_calls_of_their_own(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    sizes = [Size(64, 48), Size(48, 64)]
    with Batcher(model, batch_sizes=(8,)) as batcher:
        runs = [batcher.submit(request(i + 1, 2, size=sizes[i % 2])) for i in range(6)]
        gate.open()
        results = [run.result() for run in runs]
    assert [r.images[0].size for r in results] == [(64, 48), (48, 64)] * 3
    for call in model.calls:
        assert len({abs(prompt) % 2 for prompt in call}) == 1


def test_a_request_with_several_images_is_each_of_them_alone(model: Model) -> None:
    with Batcher(model, batch_sizes=(8,)) as batcher:
        three = batcher.submit(request(1, seed=40, num_images=3)).result()
        single = [batcher.submit(request(1, seed=40 + i)).result() for i in range(3)]
    for i, one in enumerate(single):
        assert np.array_equal(three.latents[i], one.latents[0])


def test_a_late_request_fails_and_frees_its_rows(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    with Batcher(model, batch_sizes=(8,)) as batcher:
        kept = batcher.submit(request(1, 3))
        late = batcher.submit(request(2, 3), deadline=0.05)
        gate.arrived()
        with pytest.raises(TimeoutError):
            late.future.result(timeout=0.2)
        gate.open()
        with pytest.raises(DeadlineExceeded):
            late.result()
        kept.result()
    assert Counter(p for call in model.calls for p in call)[2] <= 1


@pytest.mark.parametrize("deadline", [0.0, -1.0, math.nan])
def test_a_deadline_in_the_past_is_refused(model: Model, deadline: float) -> None:
    with Batcher(model) as batcher, pytest.raises(InputError, match="deadline"):
        batcher.submit(request(1), deadline=deadline)


def test_a_full_queue_is_said_at_once(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    with Batcher(model, queue=3) as batcher:
        runs = [batcher.submit(request(1, num_images=2))]
        with pytest.raises(QueueFull, match="2 pictures are on their way"):
            batcher.submit(request(2, num_images=2))
        runs.append(batcher.submit(request(3)))
        gate.open()
        for run in runs:
            run.result()
        assert len(batcher.submit(request(4)).result().images) == 1


def test_a_request_that_does_not_fit_leaves_no_trace(model: Model) -> None:
    with Batcher(model, queue=1) as batcher:
        for _ in range(3):
            with pytest.raises(InputError, match="steps"):
                batcher.submit(request(1, steps=5000))
        assert batcher.load.pictures == 0
        assert len(batcher.submit(request(1)).result().images) == 1


def test_leaving_the_block_finishes_what_was_submitted(model: Model) -> None:
    with Batcher(model) as batcher:
        runs = [batcher.submit(request(i + 1)) for i in range(5)]
    assert all(run.future.done() and len(run.result().images) == 1 for run in runs)
    with pytest.raises(Cancelled, match="closed"):
        batcher.submit(request(1))


def test_an_exception_in_the_block_cancels_what_was_submitted(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    runs = list[Any]()

    def fail_inside() -> None:
        with Batcher(model) as batcher:
            runs.append(batcher.submit(request(1, 50)))
            gate.arrived()
            gate.open()
            raise KeyError("mine")

    with pytest.raises(KeyError):
        fail_inside()
    with pytest.raises(Cancelled):
        runs[0].result()
    assert len(model.calls) < 50


def test_steps_of_a_run_come_in_order_and_end_with_the_result(model: Model) -> None:
    with Batcher(model) as batcher:
        run = batcher.submit(request(1, 20))
        indices = [step.index for step in run]
        assert indices == sorted(set(indices))
        assert indices[-1] == 19
        assert run.future.done()


def test_iterating_a_run_that_fails_raises_its_error(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    with Batcher(model) as batcher:
        run = batcher.submit(request(1, 20))
        gate.arrived()
        run.cancel()
        gate.open()
        with pytest.raises(Cancelled):
            list(run)


def test_leaving_the_block_of_a_run_cancels_it(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    with Batcher(model) as batcher:
        with batcher.submit(request(1, 20)) as run:
            gate.arrived()
        gate.open()
        with pytest.raises(Cancelled):
            run.result()


def test_runs_can_be_awaited_and_cancelled_by_asyncio(model: Model) -> None:
    gate = Gate()
    model.before_call = gate

    async def serve(batcher: Batcher) -> Result:
        kept, dropped = batcher.submit(request(1, 3)), batcher.submit(request(2, 30))
        waiting = asyncio.wrap_future(dropped.future)
        waiting.cancel()
        await asyncio.sleep(0)  # what is cancelled there reaches the run at the loop's next turn
        gate.open()
        result = await asyncio.wrap_future(kept.future)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(Cancelled):
            dropped.result()
        return result

    with Batcher(model) as batcher:
        assert len(asyncio.run(serve(batcher)).images) == 1
    assert Counter(p for call in model.calls for p in call)[2] <= 1


def test_a_cancelled_request_that_waits_is_in_no_call(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    with Batcher(model, batch_sizes=(2,)) as batcher:
        first = batcher.submit(request(1, 2))
        gate.arrived()
        waiting = batcher.submit(request(2, 2))
        waiting.cancel()
        assert batcher.load.pictures == 1
        gate.open()
        first.result()
    assert 2 not in {prompt for call in model.calls for prompt in call}


def test_rows_of_two_shapes_take_turns_by_who_waited_longest(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    wide, tall = Size(64, 48), Size(48, 64)
    with Batcher(model, batch_sizes=(8,)) as batcher:
        gate_keeper = batcher.submit(request(9, 1, guidance=1.0))
        gate.arrived()
        order = [(1, wide), (2, tall), (3, wide), (4, tall)]
        runs = [batcher.submit(request(i, 2, size=size, guidance=1.0)) for i, size in order]
        gate.open()
        for run in (gate_keeper, *runs):
            run.result()
    # Rows of a shape share a call though others stand between them, the first in line going first.
    assert [sorted(set(call)) for call in model.calls[1:]] == [[1, 3], [2, 4], [1, 3], [2, 4]]


def test_a_deadline_that_never_comes_is_none(model: Model) -> None:
    with Batcher(model) as batcher:
        for deadline in (math.inf, 1e300):
            assert len(batcher.submit(request(1), deadline=deadline).result().images) == 1


def test_a_deadline_counts_from_submission(model: Model) -> None:
    plan = model.plan

    def slow(*arguments: Any, **options: Any) -> Plan:
        time.sleep(0.05)
        return plan(*arguments, **options)

    model.plan = slow
    with Batcher(model) as batcher, pytest.raises(DeadlineExceeded):
        batcher.submit(request(1), deadline=0.01).result()


def test_a_place_is_free_when_the_result_is_there(model: Model) -> None:
    with Batcher(model, queue=1) as batcher:
        for i in range(50):
            batcher.submit(request(i + 1, 1)).result()
        later = list[Any]()
        run = batcher.submit(request(1))
        run.future.add_done_callback(lambda _: later.append(batcher.submit(request(2))))
        run.result()
        while not later:
            time.sleep(0.001)
        assert len(later[0].result().images) == 1


def test_closing_from_a_callback_ends_the_batcher(model: Model) -> None:
    batcher = Batcher(model)
    run = batcher.submit(request(1))
    run.future.add_done_callback(lambda _: batcher.close())
    run.result()
    batcher.close()
    with pytest.raises(Cancelled):
        batcher.submit(request(2))


def test_callbacks_are_called_with_no_lock_held(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    seen = list[int]()

    def look(_: object) -> None:
        # Asked from another thread, as a caller's own lock would make it.
        asking = threading.Thread(target=lambda: seen.append(batcher.load.pictures))
        asking.start()
        asking.join(WAIT)

    with Batcher(model) as batcher:
        run = batcher.submit(request(1, 3), deadline=0.02)
        run.future.add_done_callback(look)
        gate.arrived()
        time.sleep(0.03)
        gate.open()
        with pytest.raises(DeadlineExceeded):
            run.result()
    assert seen == [0]


def test_a_scale_function_that_exits_fails_its_own_request_only(model: Model) -> None:
    def leave(sigma: float) -> float:
        if sigma < 1.0:
            raise SystemExit(3)
        return 5.0

    with Batcher(model) as batcher:
        bad, good = batcher.submit(request(2, guidance=Guidance(leave))), batcher.submit(request(1))
        with pytest.raises(SystemExit):
            bad.result()
        assert len(good.result().images) == 1


def test_a_cancelled_future_is_done_for_those_who_wait_for_many(model: Model) -> None:
    gate = Gate()
    model.before_call = gate
    with Batcher(model) as batcher:
        run = batcher.submit(request(1, 30))
        gate.arrived()
        assert run.future.cancel()
        assert wait([run.future], timeout=WAIT).done == {run.future}
        gate.open()
        with pytest.raises(Cancelled):
            run.result()


def test_latents_of_two_sizes_are_not_decoded_together(model: Model) -> None:
    gate = Gate()
    model.before_decode = gate
    with Batcher(model, decode_sizes=(4,)) as batcher:
        sizes = [Size(64, 48), Size(64, 48), Size(48, 64)]
        runs = [batcher.submit(request(9, 1, size=sizes[0]))]
        gate.arrived()
        runs += [batcher.submit(request(i + 1, 1, size=size)) for i, size in enumerate(sizes)]
        while len(batcher._finished) < 3:  # pyright: ignore[reportPrivateUsage]
            time.sleep(0.001)
        gate.open()
        found = [run.result().images[0].size for run in runs]
    assert found == [(64, 48), (64, 48), (64, 48), (48, 64)]


def test_latents_of_a_request_start_each_its_own_image(model: Model) -> None:
    latents = np.random.default_rng(0).standard_normal((3, 4, 6, 8), dtype=np.float32)
    ordered = request(1, num_images=3, latents=latents)
    latents[:] = 0.0  # a caller's buffer is the caller's again
    with Batcher(model, batch_sizes=(8,)) as batcher:
        three = batcher.submit(ordered).result()
        for i in range(3):
            given = ordered.latents[i : i + 1]  # pyright: ignore[reportOptionalSubscript]
            one = batcher.submit(request(1, latents=given)).result()
            assert np.array_equal(one.latents[0], three.latents[i])
    assert len({each.tobytes() for each in three.latents}) == 3


def test_an_interrupted_submit_leaves_no_trace(model: Model) -> None:
    def interrupt(*_: Any, **__: Any) -> Plan:
        raise KeyboardInterrupt

    plan, model.plan = model.plan, interrupt
    with Batcher(model, queue=1) as batcher:
        with pytest.raises(KeyboardInterrupt):
            batcher.submit(request(1))
        model.plan = plan
        assert len(batcher.submit(request(1)).result().images) == 1
        with pytest.raises(InputError, match="num_images"):
            batcher.submit(request(1, num_images=2))


def test_a_program_that_forgets_to_close_ends_well() -> None:
    code = (
        "import numpy as np, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.runtime.test_batcher import Batcher, Model, request\n"
        "batcher = Batcher(Model()); batcher.submit(request(1, 900)); print('bye')"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, root], capture_output=True, text=True, timeout=WAIT
    )
    assert (done.returncode, done.stdout) == (0, "bye\n"), done.stderr


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"batch_sizes": (0, 2)}, "batch_sizes"),
        ({"decode_sizes": (-1,)}, "decode_sizes"),
        ({"batch_sizes": (2.5,)}, "batch_sizes"),
        ({"queue": 0}, "queue"),
        ({"queue": math.nan}, "queue"),
    ],
)
def test_sizes_that_are_none_are_refused(model: Model, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=f"^{field}"):
        Batcher(model, **options)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def pipeline(bundle: Callable[[str], Path], request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    with Pipeline.open(bundle("shapes"), engine=request.param) as opened:
        yield opened


def drawings(count: int) -> list[Request]:
    names = itertools.cycle(name for name in CATALOGUE if not name.startswith("edm"))
    colours = itertools.cycle(("red", "green", "blue", "yellow"))
    return [
        Request(
            f"a {next(colours)} circle on a white background",
            seed=i,
            sampling=Sampling(next(names), steps=4 + i % 2),
            guidance=(1.0, 4.0, 6.5)[i % 3],
        )
        for i in range(count)
    ]


def test_real_engines_give_together_what_they_give_alone_bit_for_bit(pipeline: Pipeline) -> None:
    requests = drawings(32)
    with pipeline.batcher(batch_sizes=(8,)) as batcher:
        alone = [batcher.submit(each).result() for each in requests]
        runs = [batcher.submit(each) for each in requests]
        together = [run.result() for run in runs]
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))


def test_batch_sizes_change_a_picture_by_rounding_only(pipeline: Pipeline) -> None:
    # Engines may add up in another order at another batch size: 1e-6 a call on these graphs, some
    # ten calls, and guidance multiplies by up to 6.
    requests = drawings(8)
    with pipeline.batcher(max_batch=4) as batcher:
        runs = [batcher.submit(each) for each in requests]
        together = [run.result() for run in runs]
    for each, found in zip(requests, together, strict=True):
        direct = pipeline(each).latents
        assert np.linalg.norm(found.latents - direct) <= 1e-4 * np.linalg.norm(direct)

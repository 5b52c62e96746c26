"""Runs that end before their time: cancelled or late."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from concurrent.futures import wait
from typing import Any

import pytest
from tests.runtime.toy_model import WAIT, Gate, ToyPipeline, request

from latentrt.bundle.errors import Cancelled, DeadlineExceeded, InputError, LatentrtError
from latentrt.runtime import Batcher, Result
from latentrt.runtime.plan import Plan


def test_a_cancelled_request_is_absent_from_the_next_call() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
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


def test_a_cancelled_request_that_waits_is_in_no_call() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    with Batcher(model, batch_sizes=(2,)) as batcher:
        first = batcher.submit(request(1, 2))
        gate.arrived()
        waiting = batcher.submit(request(2, 2))
        waiting.cancel()
        assert batcher.load.pictures == 1
        gate.open()
        first.result()
    assert 2 not in {prompt for call in model.calls for prompt in call}


def test_leaving_the_block_of_a_run_cancels_it() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    with Batcher(model) as batcher:
        with batcher.submit(request(1, 20)) as run:
            gate.arrived()
        gate.open()
        with pytest.raises(Cancelled):
            run.result()


def test_iterating_a_run_that_fails_raises_its_error() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    with Batcher(model) as batcher:
        run = batcher.submit(request(1, 20))
        gate.arrived()
        run.cancel()
        gate.open()
        with pytest.raises(Cancelled):
            list(run)


def test_a_cancelled_future_is_done_for_those_who_wait_for_many() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    with Batcher(model) as batcher:
        run = batcher.submit(request(1, 30))
        gate.arrived()
        assert run.future.cancel()
        assert wait([run.future], timeout=WAIT).done == {run.future}
        gate.open()
        with pytest.raises(Cancelled):
            run.result()


def test_runs_can_be_awaited_and_cancelled_by_asyncio() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)

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


def test_a_late_request_fails_and_frees_its_rows() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    with Batcher(model, batch_sizes=(8,)) as batcher:
        kept = batcher.submit(request(1, 3))
        late = batcher.submit(request(2, 3), deadline=0.05)
        gate.arrived()
        with pytest.raises(DeadlineExceeded):
            late.result()
        gate.open()
        kept.result()
    assert Counter(p for call in model.calls for p in call)[2] <= 1


@pytest.mark.parametrize("deadline", [0.0, -1.0, math.nan])
def test_a_deadline_in_the_past_is_refused(deadline: float) -> None:
    with Batcher(ToyPipeline()) as batcher, pytest.raises(InputError, match="deadline"):
        batcher.submit(request(1), deadline=deadline)


def test_an_infinite_deadline_counts_as_none() -> None:
    with Batcher(ToyPipeline()) as batcher:
        for deadline in (math.inf, 1e300):
            assert len(batcher.submit(request(1), deadline=deadline).result().images) == 1


def test_a_deadline_counts_from_submission() -> None:
    model = ToyPipeline()
    plan = model.plan

    def slow(*arguments: Any, **options: Any) -> Plan:
        time.sleep(0.05)
        return plan(*arguments, **options)

    model.plan = slow
    with Batcher(model) as batcher, pytest.raises(DeadlineExceeded):
        batcher.submit(request(1), deadline=0.01).result()


def test_callbacks_are_called_with_no_lock_held() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
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


@pytest.mark.parametrize(
    "wait_for", [lambda run: run.result(), list, lambda run: run.future.result()]
)
def test_a_callback_that_waits_for_another_run_gets_an_error(wait_for: Any) -> None:
    told: list[BaseException] = []
    finished = threading.Event()

    def callback(done: Any) -> None:
        assert done.result().images  # its own run has ended
        try:
            wait_for(batcher.submit(request(2, 2)))
        except BaseException as error:
            told.append(error)
        finished.set()

    with Batcher(ToyPipeline()) as batcher:
        batcher.submit(request(1, 2)).future.add_done_callback(callback)
        assert finished.wait(WAIT)
    assert "cannot wait for its runs" in str(told[0])
    assert isinstance(told[0], LatentrtError)

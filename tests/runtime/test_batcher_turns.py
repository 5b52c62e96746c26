"""Whose turn it is: nobody waits longer than all the others take."""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any

from tests.runtime.toy_model import WAIT, Gate, ToyPipeline, request

from latentrt.runtime import Batcher, Size


def test_every_request_advances_within_its_turn() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
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


def test_requests_from_eight_threads_fill_their_calls_and_take_their_turns() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
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


def test_a_request_joins_between_any_two_steps() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    with Batcher(model, batch_sizes=(8,)) as batcher:
        first = batcher.submit(request(1, 4))
        gate.arrived()
        second = batcher.submit(request(2, 2))
        gate.open()
        first.result()
        second.result()
    present = [sorted({abs(prompt) for prompt in call}) for call in model.calls]
    assert present == [[1], [1, 2], [1, 2], [1]]


def test_rows_of_two_shapes_take_turns_by_who_waited_longest() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
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

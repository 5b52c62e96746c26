"""Submitting to a batcher, following a run, and closing."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.toy_model import WAIT, Gate, ToyPipeline, request

from latentrt.bundle.errors import Cancelled, Closed, InputError, QueueFull
from latentrt.runtime import Batcher
from latentrt.runtime.plan import Plan


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"batch_sizes": (0, 2)}, "batch_sizes"),
        ({"decode_sizes": (-1,)}, "decode_sizes"),
        ({"batch_sizes": (2.5,)}, "batch_sizes"),
        ({"batch_sizes": 8}, "batch_sizes"),
        ({"batch_sizes": "8"}, "batch_sizes"),
        ({"batch_sizes": None}, "batch_sizes"),
        ({"batch_sizes": [True]}, "batch_sizes"),
        ({"decode_sizes": 1}, "decode_sizes"),
        ({"queue": "5"}, "queue"),
        ({"queue": 0}, "queue"),
        ({"queue": math.nan}, "queue"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=f"^{field}"):
        Batcher(ToyPipeline(), **options)


def test_a_full_queue_is_an_error_at_once() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
    with Batcher(model, queue=3) as batcher:
        runs = [batcher.submit(request(1, num_images=2))]
        with pytest.raises(
            QueueFull, match=r"^queue full: 2 of 3 places in use, 2 more requested$"
        ):
            batcher.submit(request(2, num_images=2))
        runs.append(batcher.submit(request(3)))
        gate.open()
        for run in runs:
            run.result()
        assert len(batcher.submit(request(4)).result().images) == 1


def test_a_request_that_does_not_fit_leaves_no_trace() -> None:
    with Batcher(ToyPipeline(), queue=1) as batcher:
        for _ in range(3):
            with pytest.raises(InputError, match="steps"):
                batcher.submit(request(1, steps=5000))
        assert batcher.load.pictures == 0
        assert len(batcher.submit(request(1)).result().images) == 1


def test_an_interrupted_submit_leaves_no_trace() -> None:
    model = ToyPipeline()

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


def test_a_place_is_free_when_the_result_is_there() -> None:
    with Batcher(ToyPipeline(), queue=1) as batcher:
        for i in range(50):
            batcher.submit(request(i + 1, 1)).result()
        later = list[Any]()
        run = batcher.submit(request(1))
        run.future.add_done_callback(lambda _: later.append(batcher.submit(request(2))))
        run.result()
        while not later:
            time.sleep(0.001)
        assert len(later[0].result().images) == 1


def test_steps_of_a_run_come_in_order_and_end_with_the_result() -> None:
    with Batcher(ToyPipeline()) as batcher:
        run = batcher.submit(request(1, 20))
        indices = [step.index for step in run]
        assert indices == sorted(set(indices))
        assert indices[-1] == 19
        assert run.future.done()


def test_leaving_the_block_finishes_what_was_submitted() -> None:
    with Batcher(ToyPipeline()) as batcher:
        runs = [batcher.submit(request(i + 1)) for i in range(5)]
    assert all(run.future.done() and len(run.result().images) == 1 for run in runs)
    with pytest.raises(Closed, match="closed"):
        batcher.submit(request(1))


def test_an_exception_in_the_block_cancels_what_was_submitted() -> None:
    gate = Gate()
    model = ToyPipeline(before_call=gate)
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


def test_closing_from_a_callback_ends_the_batcher() -> None:
    batcher = Batcher(ToyPipeline())
    run = batcher.submit(request(1))
    run.future.add_done_callback(lambda _: batcher.close())
    run.result()
    batcher.close()
    with pytest.raises(Closed):
        batcher.submit(request(2))


def test_a_program_that_forgets_to_close_ends_well() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from latentrt.runtime import Batcher\n"
        "from tests.runtime.toy_model import ToyPipeline, request\n"
        "batcher = Batcher(ToyPipeline()); batcher.submit(request(1, 900)); print('bye')"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, root], capture_output=True, text=True, timeout=WAIT
    )
    assert (done.returncode, done.stdout) == (0, "bye\n"), done.stderr


def test_a_batcher_that_is_left_unclosed_is_collected_and_its_threads_end() -> None:
    before = set(threading.enumerate())
    gate = Gate()
    batcher = Batcher(ToyPipeline(before_call=gate))
    run = batcher.submit(request(1))
    gate.arrived()
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2
    left = weakref.ref(batcher)
    del batcher
    gc.collect()
    assert left() is None
    assert all(thread.is_alive() for thread in threads)
    gate.open()
    assert len(run.result().images) == 1
    for thread in threads:
        thread.join(WAIT)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("deadline", ["5", [1], True, math.nan, 0, -1.0, 1j, b"5", {}])
def test_a_deadline_that_is_not_a_number_is_named(deadline: Any) -> None:
    with Batcher(ToyPipeline()) as batcher:
        with pytest.raises(InputError, match=r"^deadline: expected a number of seconds above 0"):
            batcher.submit(request(1), deadline=deadline)
        assert batcher.load.pictures == 0


def test_numpys_numbers_will_do_for_a_batcher() -> None:
    sizes: Any = np.array([2, 1])
    with Batcher(ToyPipeline(), batch_sizes=sizes, queue=np.int32(4)) as batcher:  # pyright: ignore[reportArgumentType]
        run = batcher.submit(request(1), deadline=np.float32(WAIT))  # pyright: ignore[reportArgumentType]
        assert len(run.result().images) == 1


@pytest.mark.parametrize("given", [None, "a red circle", 5, {}])
def test_a_wrong_request_or_pipeline_is_named(given: Any) -> None:
    with Batcher(ToyPipeline()) as batcher, pytest.raises(InputError, match=r"^request: "):
        batcher.submit(given)
    with pytest.raises(InputError, match=r"^planner: "):
        Batcher(given)

"""The benchmark of calls: what it counts. Its times are nobody's claim here."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.processor import PRECISIONS

from latentrt.benchmarks import calls
from latentrt.benchmarks.calls import measure
from latentrt.benchmarks.contestants import Task, bare_openvino
from latentrt.engines.registry import backend


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_call_is_measured_bare_and_through_the_engine(
    bundle: Callable[[str], Path], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that reads 10 s for each of the two at first, then 2 s bare and 3 s through the engine
    # in turns that change their order.
    first = [10] * 6
    turns = [3, 2, 2, 3, 3, 2, 2, 3]
    ticks = itertools.accumulate(itertools.chain.from_iterable((0, s) for s in [*first, *turns]))
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr(calls, "time", clock)
    call = measure(Task(bundle("heads"), "unet", 8), precision, pairs=4)
    monkeypatch.undo()
    assert (call.precision, call.latent, call.pairs) == (precision, 8, 4)
    assert (call.bare.median, call.bare.greatest) == (2.0, 2.0)
    assert (call.engine.median, call.engine.least) == (3.0, 3.0)
    assert call.added == 0.5


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_bare_model_is_our_engines_own(
    bundle: Callable[[str], Path], precision: str, parts: int
) -> None:
    task = Task(bundle("heads"), "unet", 8)
    _, requests = bare_openvino(precision, task, parts=parts)
    for request in requests:
        request.infer()
    assert len(requests) == parts
    engine = backend("openvino").compile(task.blueprint().at(precision))
    (expected,) = engine(task.inputs()).values()
    # Bit for bit: in bf16 a model that narrows the angles of timesteps is 1e-2 off.
    found = [request.get_output_tensor(0).data for request in requests]
    assert np.array_equal(np.concatenate(found), expected)
    engine.close()

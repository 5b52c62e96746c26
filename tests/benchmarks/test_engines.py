"""The benchmark of engines: what it measures. Its times are nobody's claim here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.processor import HAS_BF16

from latentrt.benchmarks import engines
from latentrt.benchmarks.contestants import CONTESTANTS, Contestant, Task
from latentrt.benchmarks.engines import COMPONENTS, Result, benchmark, measure
from latentrt.bundle.errors import EngineError

CEILINGS = {"fp32": 2e9, **({"bf16": 4e9} if HAS_BF16 else {})}


@pytest.fixture(scope="module")
def found(bundle: Callable[[str], Path]) -> dict[str, Any]:
    """The whole of it, on a tiny model, in threads: what it says as JSON."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several spin while they wait, seconds long where others work too
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "_PAUSE", 0.0)
        result = benchmark(
            bundle("heads"), CEILINGS, latent=8, laps=1, rounds=2, start=threading.Thread
        )
    torch.set_num_threads(threads)
    return json.loads(json.dumps(result))


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_contestant_gives_what_pytorch_gives(found: dict[str, Any], component: str) -> None:
    results = found["components"][component]["results"]
    names = [(one["contestant"], one["precision"]) for one in results]
    assert names == [(c.name, c.precision) for c in CONTESTANTS if c.precision in CEILINGS]
    for one in results:
        error = one["relative_error"]
        if one["precision"] == "fp32":
            assert error < 5e-5, one  # the project's promise for a component
        else:
            # Half a unit in bf16's last place is 4e-3, a layer; much less would be fp32's.
            assert 1e-4 < error < 5e-2, one
    assert results[3]["contestant"] == "PyTorch"
    assert results[3]["relative_error"] == 0.0


@pytest.mark.parametrize("component", COMPONENTS)
def test_ratio_rate_and_share_are_of_the_medians(found: dict[str, Any], component: str) -> None:
    measured = found["components"][component]
    reference = measured["results"][3]["seconds"]["median"]
    for one in measured["results"]:
        seconds = one["seconds"]
        assert 0.0 < seconds["least"] <= seconds["median"] <= seconds["greatest"]
        assert one["ratio"] == pytest.approx(reference / seconds["median"])
        assert one["rate"] == pytest.approx(measured["operations"] / seconds["median"])
        assert one["share"] == pytest.approx(one["rate"] / CEILINGS[one["precision"]])
        assert one["ready"] > 0.0


def test_the_record_says_what_it_was_made_on(found: dict[str, Any]) -> None:
    assert {"processor", "cores", "packages"} <= set(found["machine"])
    assert set(found["load"]) == {"before", "after"}
    assert (found["laps"], found["rounds"], found["ceilings"]) == (1, 2, CEILINGS)
    unet, decoder = (found["components"][name]["inputs"] for name in COMPONENTS)
    assert unet["sample"] == [2, 4, 8, 8]
    assert unet["encoder_hidden_states"] == [2, 77, 32]
    assert decoder == {"latents": [1, 4, 8, 8]}


def test_those_take_part_whose_precision_this_machine_computes_in(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []

    def measured(*_: object, contestants: Sequence[Contestant], **__: object) -> list[Result]:
        told.extend((c.name, c.precision) for c in contestants)
        return []

    monkeypatch.setattr(engines, "measure", measured)
    benchmark(bundle("heads"), {"fp32": 1e9}, latent=8, laps=1, rounds=1)
    expected = ["OpenVINO, bare", "engine openvino", "engine onnxruntime", "PyTorch"]
    assert told == [(name, "fp32") for name in expected] * len(COMPONENTS)


def test_a_contestant_that_fails_in_its_process_is_named(bundle: Callable[[str], Path]) -> None:
    gone = Contestant("Gone", "fp32", cast("Any", int))  # int("fp32", ...) raises
    task = Task(bundle("heads"), "unet", 8)
    with pytest.raises(EngineError, match="Gone fp32 ended by itself"):
        measure(task, 1, CEILINGS, laps=1, rounds=1, contestants=[gone])

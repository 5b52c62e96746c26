"""Errors keep their class, message and attributes through pickle, copy and a worker process."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from latentrt.bundle import errors
from latentrt.bundle.errors import Busy, Closed, InputError, LatentrtError, Stopped
from latentrt.runtime import Request, Sampling

CLASSES: list[type[LatentrtError]] = [getattr(errors, name) for name in errors.__all__]
WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle-{n}": lambda error, n=n: pickle.loads(pickle.dumps(error, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


class TooTall(InputError):
    """A subclass whose constructor takes other arguments than the root's."""

    def __init__(self, height: int, *, limit: int = 10) -> None:
        super().__init__("height", f"at most {limit}", height)
        self.height, self.limit = height, limit


def made(kind: type[LatentrtError]) -> LatentrtError:
    """An error of a class, its constructor's arguments made up."""
    values: dict[str, Any] = {"path": Path("a/b"), "step": 3}
    if all(
        "__init__" not in vars(each) for each in kind.__mro__ if issubclass(each, LatentrtError)
    ):
        return kind("some message")
    names = list(inspect.signature(kind).parameters)
    return kind(*(values.get(name, f"some {name}") for name in names))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "error", [*map(made, CLASSES), TooTall(12, limit=11)], ids=lambda e: type(e).__name__
)
def test_an_error_survives(error: LatentrtError, way: str) -> None:
    error.add_note("a note")
    again = WAYS[way](error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


def test_every_error_class_is_listed() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, LatentrtError)
    }
    assert defined == set(errors.__all__)


def test_an_error_about_a_value_that_cannot_be_pickled_survives() -> None:
    error = InputError("prompt", "a string", threading.Lock())
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_queue_full_and_closed_are_not_errors_of_stopped_runs() -> None:
    assert issubclass(errors.QueueFull, Busy)
    assert not issubclass(Busy, Stopped)
    assert not issubclass(Closed, Stopped)


def steps_of(steps: int) -> int:
    return Request("a red circle", sampling=Sampling(steps=steps)).sampling.steps


def test_a_process_pool_survives_a_workers_error() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        with pytest.raises(InputError, match=r"^steps: expected an integer of at least 1, got 0$"):
            pool.submit(steps_of, 0).result(timeout=120)
        assert pool.submit(steps_of, 5).result(timeout=120) == 5

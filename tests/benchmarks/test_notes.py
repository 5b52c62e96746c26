"""What becomes a note of a report, and what ends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from latentrt.benchmarks.notes import Notes
from latentrt.bundle.errors import EngineError


def failing(error: BaseException) -> Callable[[], int]:
    def fail() -> int:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (EngineError("the device is gone"), "a part: the device is gone"),
        (OSError(28, "No space left on device"), "a part: [Errno 28] No space left on device"),
        (MemoryError(), "a part: MemoryError"),
    ],
)
def test_what_goes_wrong_is_a_note_and_the_next_part_goes_on(error: Exception, line: str) -> None:
    notes = Notes(["before"])
    assert notes.part("a part", failing(error), 7) == 7
    assert notes.part("another", lambda: 8, 7) == 8
    assert (notes.lines, notes.interrupted) == (("before", line), False)


def test_an_interrupt_ends_its_part_and_all_that_follow() -> None:
    notes = Notes()
    assert notes.part("a part", failing(KeyboardInterrupt()), 7) == 7
    assert notes.part("another", lambda: pytest.fail("measured"), 7) == 7
    assert notes.interrupted
    assert notes.lines == ("a part: interrupted; what comes after it was not measured either",)


def test_a_fault_of_our_own_is_no_note() -> None:
    with pytest.raises(ZeroDivisionError):
        Notes().part("a part", lambda: 1 // 0, 7)


def test_a_line_is_said_once() -> None:
    notes = Notes(["one"])
    for _ in range(2):
        notes.add("two")
        notes.part("one", failing(EngineError("two")), 0)
    assert notes.lines == ("one", "two", "one: two")

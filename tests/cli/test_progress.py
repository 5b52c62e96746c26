"""What a person is told while pictures are prepared and drawn, where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from latentrt.cli import progress
from latentrt.cli.progress import Bars


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds: its one number."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_every_engine_that_is_made_has_a_line_and_one_that_is_loaded_has_none(
    clock: list[float],
) -> None:
    told = io.StringIO()
    prepare = Bars(Console(file=told)).of("prepare")
    prepare("compiling: unet (1 of 2)", 0, 2)
    clock[0] = 1.0
    prepare("verifying: unet (1 of 2)", 0, 2)
    prepare("", 1, 2)
    prepare("loading: vae_decoder (2 of 2)", 1, 2)
    clock[0] = 3.0
    prepare("", 2, 2)
    assert told.getvalue().splitlines() == [
        "prepare     0 %  compiling: unet (1 of 2)",
        "prepare     0 %  verifying: unet (1 of 2)",
        "prepare   100 %  3.0 s",
    ]


def test_a_terminal_shows_how_long_a_part_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    bars = Bars(console)
    now = [0.0]
    monkeypatch.setattr(bars._bars, "get_time", lambda: now[0])
    prepare = bars.of("prepare")

    def shown() -> str:
        for task in bars._bars.tasks:
            task._get_time = lambda: now[0]
        with console.capture() as capture:
            console.print(bars._bars.get_renderable())
        return capture.get()

    prepare("compiling: unet (1 of 2)", 0, 2)
    assert "compiling: unet (1 of 2)" in shown()
    assert "(1 of 2)," not in shown()
    now[0] = 12.0
    prepare("compiling: unet (1 of 2)", 0, 2)  # the same part goes on
    assert "compiling: unet (1 of 2), 12 s" in shown()
    prepare("verifying: unet (1 of 2)", 0, 2)
    now[0] = 15.0
    assert "verifying: unet (1 of 2), 3 s" in shown()


def test_a_line_says_how_long_is_left(clock: list[float]) -> None:
    told = io.StringIO()
    bars = Bars(Console(file=told))
    bars("denoise", 1, 11, "step 1/11")
    clock[0] = 6.0
    bars("denoise", 4, 11, "step 4/11")  # three steps took 6 s, and seven are left
    clock[0] = 20.0
    bars("denoise", 11, 11, "step 11/11")
    assert told.getvalue().splitlines() == [
        "denoise     9 %  step 1/11",
        "denoise    36 %  14 s left  step 4/11",
        "denoise   100 %  20.0 s  step 11/11",
    ]

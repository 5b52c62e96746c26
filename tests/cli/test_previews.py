"""`latentrt generate --preview`: pictures on terminals and in a file."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from tests.cli.command import command
from tests.cli.outcome import Run
from tests.cli.screen import Screen

from latentrt.bundle.errors import InputError
from latentrt.cli import previews
from latentrt.cli.places import place
from latentrt.cli.previews import previews_of
from latentrt.cli.progress import Bars
from latentrt.cli.terminal_pictures import Protocol, iterm, kitty, sixel, terminal_protocol
from latentrt.runtime import Request

Folders = Callable[[str], Path]


def noise(height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


def four_colours(height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 240, 20]], np.uint8)
    return palette[np.random.default_rng(5).integers(0, 4, (height, width))]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-kitty"}, kitty),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, kitty),
        ({"TERM": "xterm-ghostty"}, kitty),
        ({"TERM_PROGRAM": "ghostty"}, kitty),
        ({"KONSOLE_VERSION": "230804", "TERM": "xterm-256color"}, kitty),
        ({"TERM_PROGRAM": "iTerm.app", "TERM": "xterm-256color"}, iterm),
        ({"TERM_PROGRAM": "WezTerm"}, iterm),
        ({"LC_TERMINAL": "iTerm2", "TERM": "xterm-256color"}, iterm),
        ({"TERM": "foot"}, sixel),
        ({"TERM": "foot-extra"}, sixel),
        ({"TERM": "mlterm"}, sixel),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM_PROGRAM": "Apple_Terminal", "TERM": "xterm-256color"}, None),
        ({"TERM": "dumb"}, None),
        ({}, None),
        # A multiplexer inherits what the terminal around it has set.
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, None),
        ({"TERM": "screen", "LC_TERMINAL": "iTerm2"}, None),
    ],
)
def test_a_terminal_is_known_by_its_environment(
    environment: dict[str, str], expected: Protocol | None
) -> None:
    assert terminal_protocol(environment) is expected


@pytest.mark.parametrize("protocol", [kitty, iterm])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (8, 8), (96, 40), (128, 128)])
def test_a_terminal_gets_the_very_pixels(protocol: Protocol, height: int, width: int) -> None:
    pixels = noise(height, width)  # which compresses to no less than its size: many chunks
    screen = Screen().feed(protocol(Image.fromarray(pixels), 12, 14))
    ((row, shown),) = screen.pictures
    assert row == 0
    assert np.array_equal(np.asarray(shown), pixels)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (8, 8), (7, 3), (50, 90)])
def test_sixels_have_the_colours_of_the_picture(height: int, width: int) -> None:
    pixels = four_colours(height, width)
    ((_, shown),) = Screen().feed(sixel(Image.fromarray(pixels), 10, 20)).pictures
    scale = 200 // height
    assert shown.size == (width * scale, height * scale)
    enlarged = np.kron(pixels, np.ones((scale, scale, 1), np.uint8)).astype(int)
    # A sixel's colours are in hundredths.
    assert np.abs(np.asarray(shown, int) - enlarged).max() <= 2


def test_sixels_of_many_colours_are_near_the_picture() -> None:
    ramp = np.linspace(0, 255, 64)
    pixels = np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 128.0)], 2).astype(np.uint8)
    ((_, shown),) = Screen().feed(sixel(Image.fromarray(pixels), 10, 20)).pictures
    found = np.asarray(shown, float)[1::3, 1::3]
    # 128 colours for 4096: a few of 255 levels off in the mean.
    assert np.abs(found - pixels).mean() < 8


def test_a_picture_higher_than_its_rows_is_made_smaller_in_sixels() -> None:
    ((_, shown),) = Screen().feed(sixel(Image.fromarray(noise(300, 150)), 10, 20)).pictures
    assert shown.size == (100, 200)


@pytest.mark.parametrize("protocol", [kitty, iterm, sixel])
def test_pictures_stay_above_the_bars_in_the_same_place(protocol: Protocol) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, height=40, legacy_windows=False)
    rows, picture = 12, Image.fromarray(four_colours())
    with Bars(console) as bars:
        bars("prepare", 2, 2)
        for step in range(1, 6):
            bars("denoise", step, 5, f"step {step}/5")
            bars.show(protocol(picture, rows, 14), rows)
    screen = Screen().feed(written.getvalue())
    drawn = [row for row, _ in screen.pictures]
    assert len(drawn) == 5
    assert len(set(drawn)) == 1
    kept = [row for row, text in enumerate(screen.rows) if text.strip()]
    assert min(kept) == drawn[0] + rows
    assert [screen.rows[row].split()[0] for row in kept] == ["prepare", "denoise"]
    assert "step 5/5" in screen.rows[kept[-1]]


def settings(output: Path) -> tuple[Bars, dict[str, Path | None]]:
    return Bars(Console(file=io.StringIO())), {"image": None, "from": output.with_suffix(".jpg")}


@pytest.mark.parametrize(
    ("output", "name"), [("fox.jpg", "fox.preview.png"), ("a.b.png", "a.b.preview.png")]
)
def test_the_file_of_previews_lies_beside_the_output(
    tmp_path: Path, output: str, name: str
) -> None:
    bars, used = settings(tmp_path / "x.png")
    pictures = place(tmp_path / output, Request("a"))
    with previews_of(bars, pictures, tmp_path / output, 8, used) as shown:
        shown._show(Image.fromarray(noise(6, 5)))
        assert [path.name for path in tmp_path.iterdir()] == [name]
        with Image.open(tmp_path / name) as picture:
            assert (picture.format, picture.size) == ("PNG", (40, 48))
    assert list(tmp_path.iterdir()) == []


def test_a_preview_replaces_no_file_that_the_command_uses(tmp_path: Path) -> None:
    output, taken = tmp_path / "fox.png", tmp_path / "fox.preview.png"
    taken.write_bytes(b"mine")
    bars, _ = settings(output)
    pictures = place(output, Request("a"))
    with pytest.raises(InputError, match=r"^preview: expected another file than the one of --mask"):
        previews_of(bars, pictures, output, 8, {"mask": taken})
    assert taken.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--json",), "preview: expected no --json beside it, got both"),
        (("-o", "-"), "preview: expected a file for the picture, got -o -, standard output"),
    ],
)
def test_what_a_preview_does_not_go_with_is_an_error(
    run: Run,
    bundle: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("generate", bundle("heads"), "a", "--preview", "--steps", 2, *arguments)
    assert outcome.status == 2
    assert problem in outcome.err
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_previews_are_a_file_while_it_draws(
    run: Run, bundle: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "_INTERVAL", 0.0)
    seen: list[str] = []
    write = previews.write_file

    def counted(path: Path, content: bytes) -> None:
        write(path, content)
        seen.extend(each.name for each in tmp_path.iterdir())

    monkeypatch.setattr(previews, "write_file", counted)
    outcome = run(
        "generate", bundle("heads"), "a", "--preview", "--steps", 3, "-o", tmp_path / "fox.png"
    )
    assert outcome.status == 0
    assert seen == ["fox.preview.png"] * 3
    assert [each.name for each in tmp_path.iterdir()] == ["fox.png"]
    assert outcome.out.splitlines()[-1] == str(tmp_path / "fox.png")
    assert "\x1b" not in outcome.out + outcome.err


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's")
def test_a_terminal_shows_the_steps_and_standard_output_has_the_path_alone(
    bundle: Folders, tmp_path: Path
) -> None:
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 1200, 800))
    received = bytearray()

    def receive() -> None:
        try:
            while block := os.read(ours, 1 << 16):
                received.extend(block)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=receive)
    reader.start()
    words = ("generate", bundle("heads"), "a", "--preview", "--steps", 4, "-o", tmp_path / "a.png")
    environment = {**os.environ, "TERM": "xterm-kitty"}
    environment.pop("TMUX", None)
    done = subprocess.run(
        command(*words), env=environment, stdout=subprocess.PIPE, stderr=theirs, check=False
    )
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    assert done.returncode == 0, received.decode()
    *_, last = done.stdout.decode().splitlines()
    assert last == str(tmp_path / "a.png")
    assert b"\x1b" not in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
    screen = Screen().feed(received.decode().replace("\r\n", "\n"))
    assert screen.pictures
    assert {row for row, _ in screen.pictures} == {screen.pictures[0][0]}
    with Image.open(tmp_path / "a.png") as picture:
        assert screen.pictures[-1][1].size == (picture.width // 8, picture.height // 8)

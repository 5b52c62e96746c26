"""Ctrl-C and SIGTERM: one line, a status, and nothing half-written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.command import LATENTRT, command

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

INTERRUPTED = (130, b"latentrt: interrupted\n")


def heed_signals() -> None:
    """End by signals, whatever whoever runs the tests ignores."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def begun(words: list[str | bytes]) -> subprocess.Popen[bytes]:
    """A command that is about to call `main`: before, the interpreter has the signal."""
    words[2] = LATENTRT[2].replace("sys.exit", "print('ready', flush=True)\nsys.exit")
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_signals
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_an_interrupt_at_any_moment_is_one_line_and_130() -> None:
    rng = random.Random(1)
    found: set[tuple[int, bytes]] = set()
    for number in range(16):
        with begun(command("samplers", "--json")) as process:
            time.sleep(0.3 * rng.random())
            process.send_signal(signal.SIGINT)
            if number % 2:
                time.sleep(0.02 * rng.random())
                process.send_signal(signal.SIGINT)
            _, error = process.communicate()
        found.add((process.returncode, error))
    # The slowest may find the command done.
    assert INTERRUPTED in found
    assert found <= {INTERRUPTED, (0, b"")}


SLOW = """
import sys, time
from latentrt.bundle.publish import publishing
from latentrt.cli import samplers
def list_samplers(*_):
    with publishing(sys.argv.pop()) as folder:
        (folder / "weights").write_bytes(bytes(100))
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("cleaning", flush=True)
            time.sleep(0.5)  # what removing gigabytes takes
samplers.list_samplers = list_samplers
"""


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (signal.SIGINT, INTERRUPTED),
        (signal.SIGTERM, (143, b"latentrt: ended by SIGTERM\n")),
        (signal.SIGHUP, (129, b"latentrt: ended by SIGHUP\n")),
    ],
)
def test_a_signal_leaves_nothing_half_written_though_it_comes_twice(
    tmp_path: Path, number: signal.Signals, outcome: tuple[int, bytes]
) -> None:
    script = SLOW.replace("sys.argv.pop()", f"__import__('pathlib').Path({str(tmp_path / 'b')!r})")
    process = subprocess.Popen(
        [sys.executable, "-c", script + LATENTRT[2], "samplers"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_signals,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == b"cleaning\n"
        process.send_signal(number)
        _, error = process.communicate()
    assert (process.returncode, error) == outcome
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_generate_that_is_ended_leaves_whole_pictures_only(
    bundle: Callable[[str], Path], tmp_path: Path, number: signal.Signals
) -> None:
    place = tmp_path / "new"
    words = command(
        "generate", bundle("heads"), "a red circle", "--steps", 2, "--seed", 1,
        "--num-images", 500, "-o", place / "x.png",
    )  # fmt: skip
    with begun(words) as process:
        while not (place / "x-1.png").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        out, error = process.communicate()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert error.splitlines()[-1].startswith(b"latentrt: ")
    # What is told is there, and nothing else is.
    assert sorted(os.fsencode(p) for p in place.iterdir()) == sorted(out.splitlines())
    assert 2 <= len(out.splitlines()) < 500
    for path in out.decode().splitlines():
        with Image.open(path) as picture:
            picture.load()


def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command("samplers", "--json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        for _ in range(20):
            time.sleep(0.02)
            process.send_signal(signal.SIGINT)
        out, error = process.communicate()
    assert (process.returncode, error) == (0, b"")
    assert out

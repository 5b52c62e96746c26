"""No letter, no reader and no closed stream ends a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.command import LATENTRT, command, latentrt

DRAW = ("a red circle", "--steps", 1, "--seed", 1)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict"])
def test_letters_that_an_encoding_lacks_are_replaced(
    bundle: Callable[[str], Path], tmp_path: Path, encoding: str
) -> None:
    out = tmp_path / "日本.png"
    environment = {"PYTHONIOENCODING": encoding}
    drawn = latentrt("generate", bundle("heads"), *DRAW, "-o", out, environment=environment)
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.decode("ascii").splitlines()[-1] == str(tmp_path / "??.png")
    assert b"Traceback" not in drawn.stderr
    assert out.is_file()
    failed = latentrt("inspect", out, environment=environment)
    assert failed.returncode == 2
    assert failed.stderr.count(b"\n") == 1


def test_a_file_name_that_is_no_unicode_is_printed_byte_for_byte(
    bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    out = os.fsencode(tmp_path) + b"/caf\xe9.png"
    drawn = latentrt("generate", bundle("heads"), *DRAW, "-o", out)
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.splitlines()[-1] == out
    assert os.path.isfile(out)


@pytest.mark.parametrize("closed", ["standard output", "both"])
def test_a_reader_that_left_ends_nothing(
    bundle: Callable[[str], Path], tmp_path: Path, closed: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stderr = writing if closed == "both" else subprocess.PIPE
    out = tmp_path / "out.png"
    drawn = latentrt("generate", bundle("heads"), *DRAW, "-o", out, stdout=writing, stderr=stderr)
    os.close(writing)
    assert drawn.returncode == 0
    assert out.is_file()
    assert b"Error" not in (drawn.stderr or b"")


@pytest.mark.skipif(os.name == "nt", reason="closes descriptors as a POSIX shell does")
@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_ends_nothing(
    bundle: Callable[[str], Path], tmp_path: Path, closing: str
) -> None:
    out = tmp_path / "out.png"
    words = command("generate", bundle("heads"), *DRAW, "-o", out)
    done = subprocess.run(["sh", "-c", f'exec "$@" {closing}', "sh", *words], check=False)
    assert done.returncode == 0
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("words", [("samplers",), ("samplers", "--json"), ("--version",), ("-h",)])
def test_output_that_a_full_disk_refuses_is_named(words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = latentrt(*words, stdout=full)
        assert done.returncode == 1
        assert done.stderr == b"latentrt: standard output: No space left on device\n"
        # Errors that cannot be told are no reason to fail.
        assert latentrt(*words, stderr=full).returncode == 0


def test_a_message_does_not_wait_for_the_end(tmp_path: Path) -> None:
    """Standard error is written line by line, as Python's own is."""
    script = LATENTRT[-1].replace("sys.exit(main())", "main()")
    hook = "import latentrt.cli.doctor as d, sys\n" + (
        "def diagnose():\n    print('begun', file=sys.stderr)\n    return json.loads(input())\n"
        "import json\nd.diagnose = diagnose\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hook + script, "doctor", "--json"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"begun\n"
        out, _ = process.communicate(b'{"a": 1}\n')
    assert json.loads(out) == {"a": 1}

"""Tables on terminals of every width: nothing is cut."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.cli.command import command

from latentrt.cli import table
from latentrt.cli.doctor import diagnose
from latentrt.cli.table import print_table

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals")


def on_terminal(width: int, *words: object) -> list[str]:
    """What a command prints on a terminal of that many columns, line by line as it writes them."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    environment["TERM"] = "xterm"
    process = subprocess.Popen(command(*words), stdout=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 4096):
            written += piece
    except OSError:  # Linux: the other end was closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return written.decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("width", [80, 40])
def test_doctor_cuts_no_name_and_no_command(width: int) -> None:
    lines = on_terminal(width, "doctor")
    for engine in diagnose()["engines"]:
        assert any(line.split(" ")[0] == engine["name"] for line in lines)
        # A command can be copied from one line.
        assert any(line.endswith(engine["remedy"]) for line in lines)
    assert not any("…" in line for line in lines)


def test_samplers_and_inspect_cut_nothing_in_40_columns(bundle: Callable[[str], Path]) -> None:
    from latentrt.runtime.schedules import CATALOGUE

    text = "\n".join(on_terminal(40, "samplers"))
    assert all(entry.class_name in text for entry in CATALOGUE.values())
    text = "\n".join(on_terminal(40, "inspect", bundle("heads")))
    assert "encoder_hidden_states" in text
    assert "…" not in text


CELLS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)


@given(
    rows=st.integers(1, 5).flatmap(
        lambda n: st.lists(st.tuples(*[CELLS] * n), min_size=1, max_size=4)
    ),
    limit=st.none() | st.integers(1, 60),
)
def test_every_cell_is_whole_and_lines_are_broken_between_cells_only(
    rows: list[Sequence[str]], limit: int | None
) -> None:
    lines = list(table._lines(rows, frozenset(), limit))
    if limit is None:
        assert len(lines) == len(rows)
    for line in lines:
        cells = line.strip(" ")
        # What is wider than the terminal is one cell alone.
        if limit is not None and cell_len(line) > limit:
            assert any(cells in cell for row in rows for cell in row)
    text = "\n".join(lines)
    assert all(cell.rstrip() in text for row in rows for cell in row)


def test_columns_are_aligned_below_their_heads(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "bytes"), [("日本", "5"), ("a", "10")], right=(1,))
    assert capsys.readouterr().out == "name  bytes\n日本      5\na        10\n"

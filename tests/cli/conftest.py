"""The command line, run in this process."""

from __future__ import annotations

import sys

import pytest
from tests.cli.outcome import Outcome, Run

from latentrt.cli.main import main


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`latentrt` with these arguments."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["latentrt", *map(str, arguments)])
        status: object = 0
        capsys.readouterr()  # of a bundle that was made just now
        try:
            main()
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        assert isinstance(status, int)
        return Outcome(status, captured.out, captured.err)

    return call

"""The export command in a process of its own: locale, what it prints, and SIGTERM."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from latentrt.bundle.bundle import Bundle

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGTERM and a locale without UTF-8")

# With TRACE, tracing ends the process as a service manager does.
SCRIPT = """
import os, signal, sys, time
from latentrt.cli.main import main

class Tracing:
    def find_spec(self, name, path=None, target=None):
        if name == "latentrt.export.export":
            sys.meta_path.remove(self)
            from latentrt.export import trace
            trace.trace = end
        return None

def end(component, config, dtype):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

sys.meta_path.insert(0, Tracing())
main()
"""
NO_UTF8 = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`latentrt export` where neither names nor texts are UTF-8."""
    command = [sys.executable, "-c", SCRIPT, "export", *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **NO_UTF8}, capture_output=True, encoding="utf-8"
    )


def test_export_works_without_utf8_and_prints_its_own_lines_alone(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    done = export(checkpoint("heads"), tmp_path / "b")
    assert done.returncode == 0, done.stderr
    Bundle.open(tmp_path / "b", verify=True)
    tokenizer = (tmp_path / "b" / "tokenizer" / "tokenizer.json").read_bytes().decode("utf-8")
    assert not tokenizer.isascii()
    lines = done.stderr.splitlines()
    assert lines[0].split() == ["check", "0", "%"]
    stages = ("check", "weights", "graphs", "previews", "manifest", "note:")
    assert [line for line in lines if not line.startswith(stages)] == []
    assert "note: text_encoder: text encoder without the prefix 'text_model.'" in lines


def test_sigterm_leaves_nothing_of_an_export_and_status_143(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    done = export(checkpoint("heads"), tmp_path / "place" / "b", "--trace")
    assert done.returncode == 128 + 15, done.stderr
    assert list((tmp_path / "place").iterdir()) == []
    assert "Traceback" not in done.stderr

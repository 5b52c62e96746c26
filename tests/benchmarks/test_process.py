"""Code in another process: its answers, and every way in which it can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from latentrt.benchmarks.process import Process, answer_of
from latentrt.bundle.errors import EngineError

ECHO = """
import sys
print('{"ready": true}', flush=True)
for line in sys.stdin:
    print('{"got": "%s"}' % line.strip(), flush=True)
"""


def python(code: str, limit: float = 60.0) -> Process:
    return Process("it", (sys.executable, "-c", code), limit=limit)


def test_a_process_answers_its_start_and_then_each_line() -> None:
    with python(ECHO) as process:
        assert process.answer() == {"ready": True}
        assert process.ask("one") == {"got": "one"}
        assert process.ask("two") == {"got": "two"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("pass", "it: exit status 0: no message"),
        ("import sys; sys.exit('one\\ntwo')", "it: exit status 1: two"),
        ("import os; os.abort()", "it: ended by SIGABRT"),
        ("print('hello')", "it: expected JSON, got 'hello'"),
    ],
)
def test_a_process_without_an_answer_is_an_error_with_its_last_line(
    code: str, message: str
) -> None:
    with python(code) as process, pytest.raises(EngineError, match=message):
        process.answer()


def test_a_process_that_hangs_is_ended_after_its_limit() -> None:
    with (
        python("import time; time.sleep(60)", limit=0.2) as process,
        pytest.raises(EngineError, match=r"no answer in 0\.2 s"),
    ):
        process.answer()


def test_a_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"it: .*No such file"):
        Process("it", ("/nowhere/python",))


def test_a_module_reads_its_job_and_prints_only_its_answer(tmp_path: Path) -> None:
    (tmp_path / "doubling.py").write_text(
        "import os\n"
        "from latentrt.benchmarks.process import answer, answers, job\n"
        "stream = answers()\n"
        "print('a library talks')\n"
        "answer(stream, {'twice': 2 * job()['number'], 'told': os.environ['TOLD']})\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "TOLD": "yes"}
    found = answer_of("it", "doubling", {"number": 21}, environment=environment)
    assert found == {"twice": 42, "told": "yes"}

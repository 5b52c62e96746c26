"""Every option of every command with values of all kinds: one line and a status, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fuzz import fuzz

from latentrt.cli.app import app
from latentrt.cli.main import main

STATUSES = {0, 1, 2, 3, 130}
# What people type where something else is expected; the surrogate is what a byte that is no UTF-8
# becomes in an argument.
ODD = (
    "", " ", "-", "--", "0", "-1", "1.5", "1e308", "-1e308", "nan", "inf", "1_000", "\uff11", "x",
    "99999999999999999999", "0x10", "1,2", ",", "1,,2", "a=b", "=", "a=", "=1", "a=nan", "64x64",
    "0x0", "99999x99999", "auto", "all", "fp32", "unet=fp32", "unet=x:y", "karras", "trailing",
    "euler", "numpy", "/", ".", "..", "~", "/dev/null", "/nowhere/x.png", "x" * 300, "caf\udce9",
    "日本", "a\nb", "{}", "%s", "sm89", "5GB", "-5GB", "1e400", "0,0", "-1,-1", "9,9,9",
)  # fmt: skip
# These draw, measure or compile for real; what they are given is wrong before.
LONG = {"bench", "build", "compare", "export"}


def options() -> list[tuple[str, str, bool]]:
    """(command, option, whether it takes a value) of all."""
    import typer

    group = typer.main.get_command(app)
    found: list[tuple[str, str, bool]] = []
    for name, command in group.commands.items():  # pyright: ignore
        for parameter in command.params:
            if parameter.param_type_name == "option":
                flag = parameter.is_flag
                found += [
                    (name, opt, not flag) for opt in (*parameter.opts, *parameter.secondary_opts)
                ]
    return [each for each in found if each[1] not in ("--help", "-h")]


OPTIONS = options()


@fuzz(50)
@given(
    chosen=st.sampled_from(OPTIONS),
    value=st.sampled_from(ODD) | st.text(max_size=8).filter(lambda t: "\0" not in t),
)
@example(chosen=("generate", "--guidance-scale", True), value="1e308")
@example(chosen=("generate", "--sampler", True), value="")
@example(chosen=("generate", "--negative-prompt", True), value="caf\udce9")
@example(chosen=("generate", "--compose", True), value="caf\udce9=1")
@example(chosen=("generate", "--output", True), value="caf\udce9")
@example(chosen=("bench", "--prompt", True), value="caf\udce9")
@example(chosen=("bench", "--limit", True), value="nan")
@example(chosen=("bench", "--against", True), value="")
@example(chosen=("compare", "--prompt", True), value="caf\udce9")
@example(chosen=("cache", "--limit", True), value="x" * 300)
def test_no_value_of_an_option_gives_a_traceback(
    bundle: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    chosen: tuple[str, str, bool],
    value: str,
) -> None:
    command, option, takes_value = chosen
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LATENTRT_TRACEBACK", "1")  # an error that nobody expected is raised
    for name in ("Pipeline.run", "Pipeline.plan"):
        monkeypatch.setattr(f"latentrt.runtime.pipeline.{name}", stop)
    survey = "benchmarks.numerics.survey"
    for place in ("cli.build._had", f"{survey}._compared", f"{survey}._torch_model"):
        monkeypatch.setattr(f"latentrt.{place}", stop)
    for place in ("measure", "measure_sweep", "beside.measure"):
        monkeypatch.setattr(f"latentrt.cli.benchmark.{place}", stop)
    words = {
        "generate": ["generate", str(bundle("heads")), "a red circle"],
        "export": ["export", "nowhere", "b"],
        "inspect": ["inspect", str(bundle("heads"))],
    }.get(command, [command, str(bundle("heads"))] if command in LONG else [command])
    given = [f"{option}={value}"] if takes_value and option.startswith("--") else [option, value]
    monkeypatch.setattr(sys, "argv", ["latentrt", *words, *(given if takes_value else [option])])
    status: object = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    assert status in STATUSES
    if status == 2:
        (line,) = printed.err.splitlines()[-1:]
        assert line.startswith("latentrt: ")


def stop(*_: object, **__: object) -> None:
    """The command took its options."""
    raise KeyboardInterrupt

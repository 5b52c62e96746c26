"""What the logger `latentrt` says of engines, and what those who wait are told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from latentrt.runtime import Pipeline, Request, Sampling, Size

ORDERED = Request("x", seed=1, size=Size(72, 64), sampling=Sampling("euler", steps=1))


def test_a_miss_a_build_a_verification_and_a_hit_are_logged_and_told(
    bundle: Callable[[str], Path], tmp_path: Path, logged: list[str]
) -> None:
    path, told = bundle("heads"), list[tuple[str, int, int]]()
    with Pipeline.open(path, engine="onnxruntime", cache=tmp_path / "cache") as pipe:
        pipe.run(ORDERED, progress=lambda *values: told.append(values))
    first = "\n".join(logged)
    logged.clear()
    with Pipeline.open(path, engine="onnxruntime", cache=tmp_path / "cache") as pipe:
        pipe.run(ORDERED)
    second = "\n".join(logged)
    unet = "unet batch=2 height=8 sequence=77 width=9"
    assert f"{unet}: not in the cache: " in first
    assert f"{unet} on onnxruntime fp32: compiling" in first.splitlines()
    assert f"{unet} on onnxruntime fp32: verifying took " in first
    assert f"{unet} on onnxruntime fp32: loading took " in second
    assert "compiling" not in second
    assert "verifying" not in second
    parts = [part for part, _, _ in told]
    assert "compiling: unet (2 of 3)" in parts
    assert "verifying: vae_decoder (3 of 3)" in parts
    assert told[-1] == ("", 3, 3)
    done = [count for _, count, _ in told]
    assert done == sorted(done)


def test_a_verification_is_logged_with_its_error(
    bundle: Callable[[str], Path], tmp_path: Path, logged: list[str]
) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime", cache=tmp_path / "cache") as pipe:
        pipe.run(Request("x", seed=1, sampling=Sampling("euler", steps=1)))
    said = [line for line in logged if "model_output is" in line]
    assert said
    assert said[0].endswith("from the goldens")


def test_nothing_is_printed_without_a_log_handler() -> None:
    handlers = logging.getLogger("latentrt").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)

"""What a stored engine was held against, and what it would be held against today."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.engines.test_verify import OTHER, UNET, Faulty, spoil, without_goldens

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import ShapeNotBuilt, VerificationFailed
from latentrt.bundle.manifest import GOLDEN, FileRecord
from latentrt.engines.cache.cache import Cache
from latentrt.engines.engine import Engine
from latentrt.engines.onnxruntime import cpu as onnxruntime
from latentrt.engines.registry import Chosen, Status, backend
from latentrt.engines.verification import judging, verify
from latentrt.engines.verification.tolerances import TOLERANCES, Tolerance

open_verified = partial(verify.open_verified, verify="full")


@pytest.fixture
def shapes(bundle: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle("shapes"))


def right(precision: str = "fp32") -> Chosen:
    return Chosen(backend("openvino"), precision)


@pytest.fixture
def no_oracle(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says that ONNX Runtime is not installed, or is."""
    real = onnxruntime.status
    missing = Status(None, problem="not installed")

    def say(is_missing: bool) -> None:
        monkeypatch.setattr(onnxruntime, "status", (lambda: missing) if is_missing else real)

    return say


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The references that engines were held against, one after the other."""
    references: list[str] = []
    real = judging.judge

    def watched(engine: Engine, *arguments: Any) -> Any:
        references.append(arguments[-1])
        return real(engine, *arguments)

    monkeypatch.setattr(judging, "judge", watched)
    return references


def allow(patch: pytest.MonkeyPatch, unet: float) -> None:
    """Have another tolerance for U-Nets in fp32."""
    other = replace(TOLERANCES["fp32"], unet=unet)
    patch.setitem(cast("dict[str, Tolerance]", TOLERANCES), "fp32", other)


def with_other_goldens(bundle: Bundle, folder: Path) -> Bundle:
    """The same graphs and weights beside goldens in which the U-Net's output is another."""
    copied = Path(shutil.copytree(bundle.path, folder))
    entry = bundle.golden().entries["unet/outputs/model_output"]
    content = bytearray((copied / GOLDEN).read_bytes())
    array = bundle.golden()["unet/outputs/model_output"]
    content[entry.begin : entry.end] = np.flip(array).tobytes()
    (copied / GOLDEN).write_bytes(content)
    record = FileRecord(len(content), hashlib.sha256(content).hexdigest())
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, GOLDEN: record})
    return Bundle(copied, manifest)


def test_a_wrong_engine_accepted_without_goldens_is_refused_once_there_are_some(
    shapes: Bundle, cache: Cache, tmp_path: Path, no_oracle: Callable[[bool], None]
) -> None:
    bare = without_goldens(shapes, tmp_path / "bare")
    faulty = Faulty("openvino", spoil(shapes, tmp_path, "dropped bias"))
    chosen = faulty.chosen("openvino")
    no_oracle(True)
    assert open_verified(cache, bare, "unet", UNET, chosen).verification["reference"] == "nothing"
    with pytest.raises(VerificationFailed, match=r"from the goldens .* is allowed"):
        open_verified(cache, shapes, "unet", UNET, chosen)
    assert open_verified(cache, bare, "unet", UNET, chosen).hit


def test_an_engine_compared_with_goldens_stays_verified_without_them(
    shapes: Bundle, cache: Cache, tmp_path: Path, judged: list[str]
) -> None:
    bare = without_goldens(shapes, tmp_path / "bare")
    open_verified(cache, bare, "unet", UNET, right())
    # ONNX Runtime's own engine first, which is finite.
    assert judged == ["nothing", "ONNX Runtime fp32"]
    for opened in (shapes, shapes, bare):
        found = open_verified(cache, opened, "unet", UNET, right())
        assert (found.hit, found.verification["reference"]) == (True, "the goldens")
        assert "weaker" not in found.verification
    assert judged[2:] == ["the goldens"]


def test_an_engine_verified_without_onnx_runtime_is_verified_again_with_it(
    shapes: Bundle, cache: Cache, judged: list[str], no_oracle: Callable[[bool], None]
) -> None:
    no_oracle(True)
    for _ in range(2):
        found = open_verified(cache, shapes, "unet", OTHER, right())
        assert "weaker" in found.verification
    without = len(judged)
    assert without == 2  # at the goldens' sizes, and finite at these
    no_oracle(False)
    for _ in range(2):
        found = open_verified(cache, shapes, "unet", OTHER, right())
        assert (found.hit, found.verification["reference"]) == (True, "ONNX Runtime fp32")
        assert "weaker" not in found.verification
    assert judged[-1] == "ONNX Runtime fp32"
    known = len(judged)
    no_oracle(True)
    assert open_verified(cache, shapes, "unet", OTHER, right()).verification == found.verification
    assert len(judged) == known


def test_an_engine_is_compared_again_when_the_goldens_change(
    shapes: Bundle, cache: Cache, tmp_path: Path
) -> None:
    open_verified(cache, shapes, "unet", UNET, right())
    other = with_other_goldens(shapes, tmp_path / "other")
    with pytest.raises(VerificationFailed, match="from the goldens"):
        open_verified(cache, other, "unet", UNET, right())
    assert open_verified(cache, shapes, "unet", UNET, right()).hit


def test_an_engine_outside_todays_tolerance_is_refused_with_the_numbers(
    shapes: Bundle, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_verified(cache, shapes, "unet", UNET, right())
    error = found.verification["errors"]["model_output"]["relative"]
    allow(monkeypatch, 1e-9)
    message = rf"is refused: it is {error:.1e} from the goldens, 1\.0e-09 is allowed"
    with pytest.raises(ShapeNotBuilt, match=message):
        open_verified(cache, shapes, "unet", UNET, right(), build="never")
    with pytest.raises(VerificationFailed, match=r"from the goldens .*, 1\.0e-09 is allowed"):
        open_verified(cache, shapes, "unet", UNET, right())


def test_an_engine_is_verified_again_when_another_tolerance_still_allows_it(
    shapes: Bundle, cache: Cache, monkeypatch: pytest.MonkeyPatch, judged: list[str]
) -> None:
    open_verified(cache, shapes, "unet", UNET, right())
    allow(monkeypatch, 1e-3)
    for _ in range(2):
        found = open_verified(cache, shapes, "unet", UNET, right())
        assert (found.hit, found.verification["tolerance"]) == (True, 1e-3)
    assert judged == ["the goldens"] * 2


def test_a_lower_precision_is_refused_where_its_fp32_engine_is_today(
    shapes: Bundle, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_verified(cache, shapes, "unet", UNET, right("bf16"))
    allow(monkeypatch, 1e-9)
    with pytest.raises(VerificationFailed, match=r"openvino fp32, unet: .*, 1\.0e-09 is allowed"):
        open_verified(cache, shapes, "unet", UNET, right("bf16"))

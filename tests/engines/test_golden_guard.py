"""`verify="golden"`: one small engine for all sizes; and `verify="off"`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from numpy.typing import NDArray
from tests.engines.test_verify import FAULTS, Faulty, spoil, without_goldens

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, VerificationFailed
from latentrt.bundle.spec import TensorSpec
from latentrt.engines import registry
from latentrt.engines.cache.cache import Cache
from latentrt.engines.engine import Arrays, Blueprint, Engine
from latentrt.engines.onnxruntime import cpu
from latentrt.engines.registry import Backend, Chosen, Compiler, backend
from latentrt.engines.verification import golden
from latentrt.engines.verification.tolerances import TOLERANCES, Tolerance
from latentrt.engines.verification.verify import Verify, open_verified
from latentrt.runtime import Pipeline, Request, Sampling, Size

UNET = {"batch": 2, "height": 8, "width": 8, "sequence": 77}  # as the goldens
OTHER = {**UNET, "height": 10}
LARGER = {**UNET, "height": 12}
SMALL = "batch=2 height=8 sequence=77 width=8"


@dataclass
class Noted:
    """An engine whose end is noted."""

    engine: Engine
    name: str
    events: list[str]

    @property
    def component(self) -> str:
        return self.engine.component

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.engine.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.engine.outputs

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        self.events.append(f"call {self.name}")
        return self.engine(inputs)

    def close(self) -> None:
        self.events.append(f"close {self.name}")
        self.engine.close()


@dataclass
class Noting:
    """A compiler that notes which engines it makes."""

    name: str
    real: Compiler
    events: list[str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def compile(self, blueprint: Blueprint, options: Any) -> Engine:
        return self._noted("compile", blueprint, self.real.compile(blueprint, options))

    def compile_reference(self, blueprint: Blueprint) -> Engine:
        return self._noted("compile", blueprint, cpu.compile_reference(blueprint))

    def build(self, blueprint: Blueprint, options: Any, folder: Path, **more: Any) -> None:
        self._note("build", blueprint)
        self.real.build(blueprint, options, folder, **more)

    def load(self, blueprint: Blueprint, options: Any, folder: Path) -> Engine:
        return self._noted("load", blueprint, self.real.load(blueprint, options, folder))

    def _note(self, what: str, blueprint: Blueprint) -> str:
        sizes = blueprint.sizes
        name = f"{self.name} {blueprint.precision} {sizes['height']}x{sizes['width']}"
        self.events.append(f"{what} {name}")
        return name

    def _noted(self, what: str, blueprint: Blueprint, engine: Engine) -> Engine:
        return Noted(engine, self._note(what, blueprint), self.events)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What every backend of the CPU does."""
    found: list[str] = []
    noting: dict[str, Backend] = dict(registry.BACKENDS)
    for name in ("openvino", "onnxruntime"):
        compiler: Any = Noting(name, backend(name).compiler, found)
        noting[name] = replace(noting[name], find=lambda compiler=compiler: compiler)
    monkeypatch.setattr(registry, "BACKENDS", noting)
    reference = Noting("onnxruntime", backend("onnxruntime").compiler, found)
    monkeypatch.setattr(golden, "compile_reference", reference.compile_reference)
    return found


@pytest.fixture
def heads(bundle: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle("heads"))


@pytest.fixture
def bare(heads: Bundle, tmp_path: Path) -> Bundle:
    """Without goldens."""
    return without_goldens(heads, tmp_path / "bare")


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("goldens", [True, False])
def test_a_planted_fault_is_refused_by_a_small_engine_and_nothing_is_stored(
    heads: Bundle, bare: Bundle, cache: Cache, tmp_path: Path, fault: str, goldens: bool
) -> None:
    faulty = Faulty("openvino", spoil(heads, tmp_path, fault)).chosen("openvino")
    reference = "the goldens at batch=2 height=8" if goldens else f"ONNX Runtime fp32 at {SMALL}"
    with pytest.raises(VerificationFailed, match=rf"model_output is .* from {reference}.* allowed"):
        open_verified(cache, heads if goldens else bare, "unet", LARGER, faulty)
    assert cache.entries() == []


def test_an_engine_at_the_sizes_of_the_goldens_is_itself_compared_with_them(
    heads: Bundle, cache: Cache, tmp_path: Path, events: list[str]
) -> None:
    chosen = Chosen(backend("openvino"))
    record = open_verified(cache, heads, "unet", UNET, chosen).verification
    assert record["reference"] == "the goldens"
    assert events == [f"{what} openvino fp32 8x8" for what in ("build", "load", "call")]
    # Which is enough for other sizes.
    open_verified(cache, heads, "unet", OTHER, chosen)
    assert events[3:] == ["build openvino fp32 10x8", "load openvino fp32 10x8"]
    faulty = Faulty("openvino", spoil(heads, tmp_path, "dropped bias")).chosen("openvino")
    with pytest.raises(VerificationFailed, match="from the goldens"):
        open_verified(Cache(tmp_path / "other"), heads, "unet", UNET, faulty)


def test_no_second_engine_is_made_at_the_size_asked_for_and_the_small_one_is_freed_before(
    bare: Bundle, cache: Cache, events: list[str]
) -> None:
    told: list[str] = []
    chosen = Chosen(backend("openvino"))
    opened = open_verified(
        cache, bare, "unet", LARGER, chosen, progress=lambda phase, *_: told.append(phase)
    )
    assert events == [
        *(f"{what} onnxruntime fp32 8x8" for what in ("compile", "call", "close")),
        *(f"{what} openvino fp32 8x8" for what in ("compile", "call", "close")),
        *(f"{what} openvino fp32 12x8" for what in ("build", "load")),
    ]
    assert opened.verification["reference"] == f"ONNX Runtime fp32 at {SMALL}"
    assert told.index("compiling a small engine") < told.index("compiling")


def test_a_golden_record_holds_for_other_sizes_and_in_other_processes(
    bare: Bundle, cache: Cache, events: list[str]
) -> None:
    chosen = Chosen(backend("openvino"))
    open_verified(cache, bare, "unet", LARGER, chosen)
    events.clear()
    again = Cache(cache.path)
    assert open_verified(again, bare, "unet", LARGER, chosen).hit
    open_verified(again, bare, "unet", OTHER, chosen)
    made = (f"{what} openvino fp32 10x8" for what in ("build", "load"))
    assert events == ["load openvino fp32 12x8", *made]
    sizes = [entry.key["sizes"] for entry in cache.entries()]
    assert sorted(sizes)[0] == "any"
    assert len(sizes) == 3


def test_other_options_and_a_stricter_tolerance_are_verified_again(
    heads: Bundle, cache: Cache, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Chosen(backend("onnxruntime"))
    open_verified(cache, heads, "unet", LARGER, chosen)
    lean = replace(chosen, options=replace(chosen.options, arena=False))
    open_verified(cache, heads, "unet", LARGER, lean)
    assert events.count("compile onnxruntime fp32 8x8") == 2
    strict = replace(TOLERANCES["fp32"], unet=1e-9)
    monkeypatch.setitem(cast("dict[str, Tolerance]", TOLERANCES), "fp32", strict)
    with pytest.raises(VerificationFailed, match=r"1\.0e-09 is allowed"):
        open_verified(cache, heads, "unet", LARGER, chosen)


def test_full_verifies_what_only_a_small_engine_stood_for_and_that_is_enough_for_golden(
    heads: Bundle, cache: Cache, events: list[str]
) -> None:
    chosen = Chosen(backend("openvino"))
    open_verified(cache, heads, "unet", LARGER, chosen)
    events.clear()
    opened = open_verified(cache, heads, "unet", LARGER, chosen, verify="full")
    assert (opened.hit, opened.verification["reference"]) == (True, "ONNX Runtime fp32")
    assert "load onnxruntime fp32 12x8" in events
    events.clear()
    opened = open_verified(cache, heads, "unet", LARGER, chosen)
    assert (opened.hit, opened.verification["reference"]) == (True, "ONNX Runtime fp32")
    assert events == ["load openvino fp32 12x8"]


def test_onnx_runtime_without_goldens_has_no_reference_and_the_record_says_so(
    bare: Bundle, cache: Cache, events: list[str]
) -> None:
    chosen = Chosen(backend("onnxruntime"))
    record = open_verified(cache, bare, "unet", LARGER, chosen).verification
    assert (record["reference"], "no goldens" in record["weaker"]) == ("nothing", True)
    assert events == [f"{what} onnxruntime fp32 12x8" for what in ("build", "load")]


def test_in_a_cache_that_cannot_be_written_the_small_engine_is_made_once(
    heads: Bundle, tmp_path: Path, events: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    for sizes in (LARGER, OTHER):
        open_verified(cache, heads, "unet", sizes, Chosen(backend("openvino")))
    assert events.count("compile openvino fp32 8x8") == 1


REQUEST = Request("a red circle", seed=1, size=Size(72, 64), sampling=Sampling(steps=1))


@pytest.mark.parametrize("verify", ["golden", "full"])
def test_a_pipeline_refuses_a_wrong_engine_that_it_draws_with_when_verify_is_off(
    heads: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[str],
    verify: Verify,
) -> None:
    faulty = Faulty("openvino", spoil(heads, tmp_path, "zeroed norm"))
    real = faulty._spoiled

    def spoiled(blueprint: Blueprint) -> Blueprint:
        return real(blueprint) if blueprint.component == "unet" else blueprint

    monkeypatch.setattr(faulty, "_spoiled", spoiled)
    wrong = {**registry.BACKENDS, "openvino": faulty.chosen("openvino").backend}
    monkeypatch.setattr(registry, "BACKENDS", wrong)
    cache = tmp_path / "cache"
    with (
        Pipeline.open(heads.path, engine="openvino", cache=cache, verify=verify) as pipeline,
        pytest.raises(VerificationFailed, match="unet: model_output is"),
    ):
        pipeline(REQUEST)
    assert "engines are not verified" not in "\n".join(logged)
    with Pipeline.open(heads.path, engine="openvino", cache=cache, verify="off") as pipeline:
        assert pipeline(REQUEST).images
    assert "engines are not verified: verify is 'off'" in logged
    with pytest.raises(InputError, match="verify: expected full, golden or off, got 'no'"):
        Pipeline.open(heads.path, verify="no")  # pyright: ignore[reportArgumentType]

"""A backend that adds what its entries say, what it is given, and a guard that counts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.bundle.errors import VerificationFailed
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cache.cache import Cache
from latentrt.engines.cache.entry import CacheEntry
from latentrt.engines.engine import Arrays, Blueprint, Engine
from latentrt.engines.function import FunctionEngine
from latentrt.engines.options import option
from latentrt.engines.registry import Backend, Chosen, Compiler, Progress, Status

IDENTITY = {"version": "1.0.0", "device": "a CPU", "instruction sets": "avx", "driver": "7"}
VECTOR = TensorSpec("vector", ("batch",))
ROOT = Path(__file__).parents[2]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_from(path: Path) -> dict[str, Any]:
    """A file in place of a blueprint's weights, and the digests with its own."""
    return {"weights": path, "digests": ("1" * 64, sha256(path))}


BLUEPRINT = Blueprint(
    component="unet",
    graph=Path("unet.onnx"),
    inputs=(VECTOR,),
    outputs=(VECTOR,),
    sizes={"batch": 2},
    **read_from(ROOT / "LICENSE"),
)
GOOD: Mapping[str, Any] = {"relative": 1e-7}


@dataclass(frozen=True, slots=True)
class AddingOptions:
    """What may differ between two engines."""

    threads: int | None = option(None, "threads")
    arena: bool = option(True, "arena")
    stripped: bool = option(False, "stripped")


def choice(
    compiler: Compiler, name: str = "adding", precision: str = "fp32", **options: Any
) -> Chosen:
    """A compiler as a backend of that name."""
    known = {"float32": ("fp32", "bf16"), "float16": ("fp16", "fp32")}
    timed = getattr(compiler, "timed", False)
    backend = Backend(name, "cpu", known, AddingOptions, name, lambda: compiler, timed=timed)
    return Chosen(backend, precision, AddingOptions(**options))


class Adding:
    """A backend whose entries are text files; it adds what they say."""

    def __init__(self, **identity: str) -> None:
        self.built = 0
        self.compiled = 0
        self._identity = {**IDENTITY, **identity}

    def status(self) -> Status:
        return Status("1")

    def identity(self, options: Any) -> dict[str, str]:
        return self._identity

    def compile(self, blueprint: Blueprint, options: Any) -> Engine:
        self.compiled += 1
        return self._adding(blueprint, 1)

    def build(
        self,
        blueprint: Blueprint,
        options: Any,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        self.built += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "addend").write_text("1")
        (folder / "padding").write_text("0" * 1000)

    def load(self, blueprint: Blueprint, options: Any, folder: Path) -> Engine:
        return self._adding(blueprint, float((folder / "deep" / "addend").read_text()))

    def _adding(self, blueprint: Blueprint, addend: float) -> Engine:
        def add(inputs: Arrays) -> dict[str, Any]:
            return {"vector": inputs["vector"] + np.float32(addend)}

        inputs, outputs = blueprint.fixed_inputs, blueprint.fixed_outputs
        return FunctionEngine(blueprint.component, inputs, outputs, add)


class Guarding:
    """A guard that counts its checks; these find what is `today`, or nothing that is good."""

    def __init__(self) -> None:
        self.asked = 0
        self.today = GOOD
        self.good = True
        self.refused = ""

    def refusal(self, verification: Mapping[str, Any]) -> str:
        return self.refused

    def holds(self, verification: Mapping[str, Any]) -> bool:
        return verification == self.today

    def prepare(self) -> Callable[[Engine], Mapping[str, Any]]:
        def check(engine: Engine) -> Mapping[str, Any]:
            self.asked += 1
            if not self.good:
                raise VerificationFailed("unet: 0.5")
            return self.today

        return check


def stored(cache: Cache) -> CacheEntry:
    (entry,) = cache.entries()
    return entry

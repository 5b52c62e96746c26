"""The options of ONNX Runtime's backends."""

from __future__ import annotations

from dataclasses import dataclass

from latentrt.bundle.checks import flag, integer
from latentrt.engines.options import option


@dataclass(frozen=True, slots=True)
class OnnxRuntimeOptions:
    """Options on the CPU; raises `InputError` naming the one whose value is wrong."""

    threads: int | None = option(None, "CPU threads of one call, 1 to 4096; default: one a core.")
    arena: bool = option(True, "Keep freed memory for the next call: faster, at the peak's size.")

    def __post_init__(self) -> None:
        if self.threads is not None:
            integer("threads", "an integer from 1 to 4096", self.threads, 1, 4096)
        flag("arena", self.arena)


@dataclass(frozen=True, slots=True)
class OnnxRuntimeTensorRtOptions:
    """Options of the TensorRT provider; raises `InputError` for a wrong value."""

    level: int = option(3, "How hard the builder looks for faster kernels, 0 to 5.")

    def __post_init__(self) -> None:
        integer("level", "an integer from 0 to 5", self.level, 0, 5)

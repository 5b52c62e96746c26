"""The options of TensorRT."""

from __future__ import annotations

from dataclasses import dataclass

from latentrt.bundle.checks import flag, integer, shown
from latentrt.bundle.errors import InputError
from latentrt.engines.options import option


@dataclass(frozen=True, slots=True)
class TensorRtOptions:
    """Options of a plan; raises `InputError` naming the one whose value is wrong."""

    level: int = option(3, "How hard the builder looks for faster kernels, 0 to 5.")
    stripped: bool = option(False, "Store plans without weights; they are put in when loaded.")
    # The identity has it, where this machine's own GPU is a target too.
    target: str | None = option(
        None, "Build for another GPU, such as sm89; default: this machine's.", keyed=False
    )

    def __post_init__(self) -> None:
        integer("level", "an integer from 0 to 5", self.level, 0, 5)
        flag("stripped", self.stripped)
        if self.target is not None and type(self.target) is not str:
            raise InputError("target", "a compute capability, such as sm89", shown(self.target))

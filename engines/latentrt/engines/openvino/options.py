"""The options of OpenVINO's backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentrt.bundle.checks import integer
from latentrt.engines.options import option


@dataclass(frozen=True, slots=True)
class OpenVinoOptions:
    """Options on the CPU; raises `InputError` naming the one whose value is wrong."""

    threads: int | None = option(None, "CPU threads of one call, 1 to 4096; default: one a core.")
    streams: int | None = option(
        None, "Calls at once, each with its threads; 1: no call is split in two. Default: auto."
    )

    def __post_init__(self) -> None:
        _check_count("threads", self.threads)
        _check_count("streams", self.streams)


@dataclass(frozen=True, slots=True)
class OpenVinoGpuOptions:
    """Options on a GPU; raises `InputError` naming the one whose value is wrong."""

    streams: int | None = option(None, "Calls at once; default: OpenVINO's choice.")

    def __post_init__(self) -> None:
        _check_count("streams", self.streams)


def _check_count(name: str, value: Any) -> None:
    if value is not None:
        integer(name, "an integer from 1 to 4096", value, 1, 4096)

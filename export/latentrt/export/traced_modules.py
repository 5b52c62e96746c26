"""The module that is traced for a component, of checkpoints, ControlNets and CLIPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import nn

from latentrt.export import modules
from latentrt.export.clip_modules import CLIP_TRACED
from latentrt.export.control_modules import CONTROL_TRACED
from latentrt.weights.source import Config

TRACED: Final[Mapping[str, Callable[[Config], nn.Module]]] = {
    **modules.TRACED,
    **CONTROL_TRACED,
    **CLIP_TRACED,
}
"""By the component's name."""

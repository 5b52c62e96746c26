"""The project's logger, `latentrt`: at INFO, what is compiled, loaded, verified and freed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

LOG: Final = logging.getLogger("latentrt")
LOG.addHandler(logging.NullHandler())


def described(component: str, sizes: Mapping[str, int]) -> str:
    """A component at its sizes, such as "unet batch=2 height=16 width=16"."""
    return " ".join([component, *(f"{symbol}={n}" for symbol, n in sorted(sizes.items()))])

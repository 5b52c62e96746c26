"""Where this user keeps what can be made again: compiled engines, and the locks of exports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "LATENTRT_CACHE"


def cache_folder() -> Path:
    """$LATENTRT_CACHE, or else this user's own cache folder; absolute, and perhaps not there."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(os.path.abspath(named))
    from platformdirs import user_cache_path  # only where it is asked for: imports take time

    return user_cache_path("latentrt")

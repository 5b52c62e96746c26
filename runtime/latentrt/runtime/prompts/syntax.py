"""How a prompt's text is read."""

from __future__ import annotations

from typing import Final, Literal, get_args

Syntax = Literal["webui", "plain"]
"""As AUTOMATIC1111's web UI reads it, or as diffusers does."""
WEBUI: Final = "webui"
PLAIN: Final = "plain"
SYNTAXES: Final[tuple[Syntax, ...]] = get_args(Syntax)

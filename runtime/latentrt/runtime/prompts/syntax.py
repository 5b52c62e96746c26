"""How a prompt's text is read."""

from __future__ import annotations

from typing import Final, Literal, get_args

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError

Syntax = Literal["webui", "plain"]
"""As AUTOMATIC1111's web UI reads it, or as diffusers does."""
WEBUI: Final = "webui"
PLAIN: Final = "plain"
SYNTAXES: Final[tuple[Syntax, ...]] = get_args(Syntax)


def check_syntax(value: object) -> Syntax:
    """A syntax by its name; raises `InputError`."""
    for syntax in SYNTAXES:
        if value == syntax:
            return syntax
    raise InputError("syntax", f"one of {', '.join(SYNTAXES)}", shown(value))

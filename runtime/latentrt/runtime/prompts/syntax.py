"""How a prompt's text is read."""

from __future__ import annotations

from typing import Final, Literal, get_args

from latentrt.runtime.checks import one_of

Syntax = Literal["webui", "plain"]
"""As AUTOMATIC1111's web UI reads it, or as diffusers does."""
WEBUI: Final = "webui"
PLAIN: Final = "plain"
SYNTAXES: Final[tuple[Syntax, ...]] = get_args(Syntax)


def check_syntax(value: object) -> Syntax:
    """A syntax by its name; raises `InputError`."""
    return one_of("syntax", value, SYNTAXES)

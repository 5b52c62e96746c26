"""Engines from the cache, compared with a reference before their first use, as users choose.

"full" compares every engine at its own sizes, and one of a low precision with its fp32 twin too;
"golden" compares one small engine for all sizes; "off" compares nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError
from latentrt.engines.cache.cache import Build, Cache, Guard, Opened
from latentrt.engines.engine import Blueprint
from latentrt.engines.registry import Chosen, Progress
from latentrt.engines.verification.full import FullGuard
from latentrt.engines.verification.golden import GoldenGuard

Verify = Literal["full", "golden", "off"]
"""How engines are verified."""
VERIFY: Final[tuple[str, ...]] = get_args(Verify)


def check_verify(value: object) -> None:
    """Raise `InputError` for what is no way to verify."""
    if value not in VERIFY:
        raise InputError("verify", "full, golden or off", shown(value))


def open_verified(
    cache: Cache,
    bundle: Bundle,
    component: str,
    sizes: Mapping[str, int],
    chosen: Chosen,
    *,
    verify: Verify = "golden",
    build: Build = "missing",
    progress: Progress | None = None,
) -> Opened:
    """A component's engine from the cache, or built, verified and stored.

    Raises what `Cache.open` raises, `VerificationFailed` with the numbers.
    """
    blueprint = Blueprint.of(bundle, component, sizes, chosen.precision)
    guard: Guard | None = None
    if verify == "full":
        guard = FullGuard(cache, bundle, blueprint, chosen)
    elif verify == "golden":
        guard = GoldenGuard(cache, bundle, blueprint, chosen, progress)
    return cache.open(chosen, blueprint, build=build, guard=guard, progress=progress)

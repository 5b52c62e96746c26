"""The work of `latentrt cache`: list and remove compiled engines, bundles and variants."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from latentrt.bundle.errors import InputError
from latentrt.cli.table import print_table
from latentrt.engines.cache.cache import PENDING, Cache
from latentrt.engines.cache.entry import CacheEntry
from latentrt.engines.tensorrt.timing_cache import forget, kept
from latentrt.runtime.conversion.cached import (
    CachedBundle,
    cached_bundles,
    cached_variants,
    remove_cached,
)

_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_bytes(text: str) -> int:
    """5GB, 500MB, 0: decimal units; raises `InputError`."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?)\s*([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise InputError("limit", "a size such as 5GB or 500MB", repr(text))
    return int(float(match[1]) * _UNITS[match[2]])


def manage(*, remove: bool, limit: str | None) -> dict[str, Any]:
    """Remove everything, or what exceeds the limit; returns what is stored and what was removed.

    The limit is of engines, bundles and variants together: the longest unused go first. The timings
    that builds keep are small, and go with everything.
    """
    allowed = -1 if remove else None if limit is None else parse_bytes(limit)
    cache = Cache()
    removed: list[CacheEntry | CachedBundle] = []
    if allowed is not None:
        cache.sweep()
        removed = _limit(cache, allowed)
    forgotten = forget(cache.path) if remove else {}
    made = _made_of(cache)
    stored = cache.entries()
    engines = [each for each in removed if isinstance(each, CacheEntry)]
    return {
        "folder": str(cache.path),
        "engines": [_row(entry) for entry in reversed(stored)],
        "bytes": sum(a.size for a in stored),
        "made": [_made(each) for each in made],
        "removed_made": [_made(each) for each in removed if isinstance(each, CachedBundle)],
        "timings": kept(cache.path),
        "removed": [_row(entry) for entry in engines],
        "removed_bytes": sum(a.size for a in engines),
        "removed_timings": forgotten,
    }


def _made_of(cache: Cache) -> list[CachedBundle]:
    return [*cached_bundles(cache.path), *cached_variants(cache.path)]


def _limit(cache: Cache, allowed: int) -> list[CacheEntry | CachedBundle]:
    """Remove the longest unused until at most `allowed` bytes are left; returns what went."""
    stored = sorted((*cache.entries(), *_made_of(cache)), key=lambda each: each.used)
    total = sum(each.size for each in stored)
    removed: list[CacheEntry | CachedBundle] = []
    for each in stored:
        if total <= allowed:
            break
        if isinstance(each, CacheEntry):
            cache.remove(each)
        else:
            remove_cached(each)
        removed.append(each)
        total -= each.size
    return removed


def print_cache(found: Mapping[str, Any]) -> None:
    """As an aligned table, the one used last first."""
    if found["removed"]:
        print(f"removed {len(found['removed'])} engines, {_readable(found['removed_bytes'])}")
    for name, size in found["removed_timings"].items():
        print(f"removed timings of builds, {name}, {_readable(size)}")
    for each in found["removed_made"]:
        print(f"removed {each['path']}, {_readable(each['bytes'])}")
    _print_rows(found["engines"])
    if found["made"]:
        lines = [
            (m["kind"], m["source"], _readable(m["bytes"]), _date(m["used"]), m["path"])
            for m in found["made"]
        ]
        print_table(("kind", "made of", "bytes", "last used", "folder"), lines, right=(2,))
    for name, size in found["timings"].items():
        print(f"timings of builds: {name}, {_readable(size)}")
    print(f"{len(found['engines'])} engines, {_readable(found['bytes'])} in {found['folder']}")


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    lines: list[tuple[str, ...]] = []
    for row in rows:
        used = _date(row["used"])
        cells = [str(row[name]) for name in ("component", "engine", "precision", "sizes")]
        note = row["problem"] or row["verification"].get(PENDING, "")
        lines.append((*cells, _readable(row["bytes"]), used, note))
    heads = ("component", "engine", "precision", "sizes", "bytes", "last used", "")
    print_table(heads, lines, right=(4,))


def _made(each: CachedBundle) -> dict[str, Any]:
    return {
        "kind": each.kind,
        "source": each.source,
        "bytes": each.size,
        "used": each.used,
        "path": str(each.path),
    }


def _row(entry: CacheEntry) -> dict[str, Any]:
    named = {f: entry.key.get(f, "?") for f in ("component", "engine", "precision", "sizes")}
    return {
        **named,
        "bytes": entry.size,
        "used": entry.used,
        "key": dict(entry.key),
        "verification": dict(entry.verification),
        "problem": entry.problem,
    }


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a wrong clock
        return "?"


def _readable(size: int) -> str:
    scale = next((n for n in (10**9, 10**6, 10**3) if size >= n), 1)
    unit = {10**9: "GB", 10**6: "MB", 10**3: "kB", 1: "B"}[scale]
    return f"{size / scale:.1f} {unit}" if scale > 1 else f"{size} B"

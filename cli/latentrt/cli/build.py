"""The work of `latentrt build`: engines compiled, verified and stored ahead of any request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.cli.progress import Bars
from latentrt.engines.cache import Cache, Opened
from latentrt.engines.engine import Options, choose
from latentrt.engines.verify import open_verified
from latentrt.runtime.conditioning import Conditioner
from latentrt.runtime.size import Size


@dataclass(frozen=True, slots=True)
class Wanted:
    """A component and the size of each of its symbols."""

    component: str
    sizes: Mapping[str, int]

    def __str__(self) -> str:
        sizes = " ".join(f"{symbol}={n}" for symbol, n in self.sizes.items())
        return f"{self.component} {sizes}"


def wanted(bundle: Bundle, sizes: Sequence[Size], batches: Sequence[int]) -> list[Wanted]:
    """Every engine that pictures of these sizes need; U-Nets for each of the batches.

    No size is the bundle's own. Raises `InputError` for a size that is no multiple of the VAE's
    factor or a batch below 1.
    """
    manifest = bundle.manifest
    factor = manifest.vae_factor
    if not sizes:
        height, width = manifest.sample_size
        sizes = (Size(width * factor, height * factor),)
    for size in sizes:
        if size.width % factor or size.height % factor:
            raise InputError("size", f"width and height in multiples of {factor}", size)
    for batch in batches:
        if batch < 1:
            raise InputError("batch", "at least 1", batch)
    length = Conditioner(bundle).length
    found = {
        str(want): want
        for name in manifest.components
        for want in _of_component(name, sizes, batches, length, factor)
    }
    return list(found.values())


def build(
    bundle: Path,
    sizes: Sequence[Size],
    batches: Sequence[int],
    *,
    engine: str,
    options: Options,
    progress: Bars,
) -> list[dict[str, Any]]:
    """Have every engine in the cache; one row each.

    Raises what `open_verified` raises.
    """
    opened = Bundle.open(bundle)
    chosen = choose(engine, options)
    cache = Cache()
    rows: list[dict[str, Any]] = []
    engines = wanted(opened, sizes, batches)
    for done, want in enumerate(engines):
        progress("build", done, len(engines), str(want))
        begun = perf_counter()
        result = open_verified(cache, opened, want.component, want.sizes, chosen, options)
        result.engine.close()
        rows.append(_row(want, chosen[0], options.precision, result, perf_counter() - begun))
    progress("build", len(engines), len(engines))
    return rows


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line an engine: what it is, whether it was there, and its error."""
    for row in rows:
        state = "was there" if row["hit"] else f"built in {row['seconds']:.1f} s ({row['reason']})"
        print(f"{row['component']} {row['sizes']}: {state}; {_verdict(row['verification'])}")


def _of_component(
    name: str, sizes: Sequence[Size], batches: Sequence[int], length: int, factor: int
) -> Iterator[Wanted]:
    if name.startswith("text_encoder"):
        yield Wanted(name, {"batch": 1, "sequence": length})
        return
    for size in sizes:
        latent = {"height": size.height // factor, "width": size.width // factor}
        if name == "unet":
            for batch in batches:
                yield Wanted(name, {"batch": batch, **latent, "sequence": length})
        elif name == "vae_encoder":
            pixels = {"image_height": size.height, "image_width": size.width}
            yield Wanted(name, {"batch": 1, **pixels})
        else:
            yield Wanted(name, {"batch": 1, **latent})


def _row(
    want: Wanted, engine: str, precision: str, opened: Opened, seconds: float
) -> dict[str, Any]:
    return {
        "component": want.component,
        "sizes": " ".join(f"{symbol}={n}" for symbol, n in want.sizes.items()),
        "engine": engine,
        "precision": precision,
        "hit": opened.hit,
        "reason": opened.reason,
        "seconds": seconds,
        "verification": dict(opened.verification),
    }


def _verdict(verification: Mapping[str, Any]) -> str:
    reference = verification["reference"]
    weaker = f" (weaker: {verification['weaker']})" if "weaker" in verification else ""
    if "errors" not in verification:
        return f"held against {reference}{weaker}"
    worst = max(error["relative"] for error in verification["errors"].values())
    allowed = verification["tolerance"]
    return f"{worst:.1e} from {reference}, {allowed:.1e} allowed{weaker}"

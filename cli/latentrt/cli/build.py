"""The work of `latentrt build`: compile, verify and store engines ahead of any request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, VerificationFailed
from latentrt.cli.progress import Bars
from latentrt.engines.cache.cache import PENDING, Cache
from latentrt.engines.engine import Blueprint
from latentrt.engines.memory import available_memory
from latentrt.engines.registry import Chosen, Progress
from latentrt.engines.verification.verify import Verify, open_verified
from latentrt.runtime.bundle_engines import CONTROLLED, choices, components_of
from latentrt.runtime.controlled_unet import controlled_bundle
from latentrt.runtime.controlnets import check_fit, open_controlnet
from latentrt.runtime.prompts.chunks import MOST_CHUNKS
from latentrt.runtime.size import Size
from latentrt.runtime.size_limit import SizeLimit
from latentrt.runtime.text import PromptTokenizer
from latentrt.weights.control_specs import CONTROLNET, HINT_ENCODER

MAX_BATCH: Final = 1024


@dataclass(frozen=True, slots=True)
class WantedEngine:
    """A component of a bundle and the size of each of its symbols."""

    bundle: Bundle
    component: str
    sizes: Mapping[str, int]

    def __str__(self) -> str:
        sizes = " ".join(f"{symbol}={n}" for symbol, n in self.sizes.items())
        return f"{self.component} {sizes}"


def wanted(
    bundle: Bundle,
    sizes: Sequence[Size],
    batches: Sequence[int],
    decodes: Sequence[int],
    chunks: Sequence[int],
    others: Sequence[Bundle] = (),
) -> list[WantedEngine]:
    """Every engine that pictures of these sizes need.

    U-Nets for each of the `batches` and of the `chunks` of prompts, VAE decoders for each of
    `decodes`. No size is the bundle's own. `others` are the bundles of ControlNets and of the U-Net
    under them. Raises `InputError` for a size that is no multiple of the VAE's factor, a batch
    below 1, or more chunks than a prompt may have.
    """
    manifest = bundle.manifest
    factor = manifest.vae_factor
    if not sizes:
        height, width = manifest.sample_size
        sizes = (Size(width * factor, height * factor),)
    for size in sizes:
        if size.width % factor or size.height % factor:
            raise InputError("size", f"width and height in multiples of {factor}", size)
    for option, counts in (("batch", batches), ("decode-batch", decodes)):
        wrong = [count for count in counts if not 1 <= count <= MAX_BATCH]
        if wrong:
            raise InputError(option, f"numbers from 1 to {MAX_BATCH}", wrong[0])
    for count in chunks:
        if not 1 <= count <= MOST_CHUNKS:
            raise InputError("chunks", f"numbers from 1 to {MOST_CHUNKS}", count)
    length = PromptTokenizer.of(bundle).length
    lengths = [length * count for count in chunks]
    found = {
        (own.path, str(want)): want
        for own in (bundle, *others)
        for name in own.manifest.components
        for want in _of_component(own, name, sizes, batches, decodes, length, lengths, factor)
    }
    return list(found.values())


def _controlling(bundle: Bundle, controls: Sequence[Path]) -> list[Bundle]:
    """The bundles that a model's pictures under ControlNets need beside its own.

    Raises `InputError` for a ControlNet of another family.
    """
    found = [open_controlnet(path) for path in controls]
    for path, each in zip(controls, found, strict=True):
        config = each.manifest.components[CONTROLNET].config
        check_fit(path, config, bundle.manifest.components["unet"])
    return [controlled_bundle(bundle), *found] if found else []


def build(
    bundle: Path,
    sizes: Sequence[Size],
    batches: Sequence[int],
    decodes: Sequence[int],
    chunks: Sequence[int] = (1,),
    *,
    engine: str,
    precision: str,
    options: Mapping[str, object],
    components: Mapping[str, str],
    progress: Bars,
    max_pixels: int | None = None,
    verify: Verify = "golden",
    controls: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Have every engine in the cache; one row each, with the problem of one that is refused.

    Those for a target are stored unverified: they are verified where they are first loaded.
    `max_pixels` is as in `Pipeline.open`; `controls` are ControlNets to draw under. Raises
    `InputError` for a size beyond it, and what `choices` and `open_verified` raise but
    `VerificationFailed`.
    """
    opened = Bundle.open(bundle)
    others = _controlling(opened, controls)
    choice = {
        id(each): choices(each, engine, precision, options, components_of(each, components))
        for each in (opened, *others)
    }
    chosen = choice[id(opened)]
    cache = Cache()
    rows: list[dict[str, Any]] = []
    engines = wanted(opened, sizes, batches, decodes, chunks, others)
    elsewhere = any(each.target is not None for each in chosen.values())
    limit = SizeLimit.of(
        opened.manifest,
        {each.name for each in chosen.values()},
        max_pixels=max_pixels,
        memory=None if elsewhere else available_memory(),
        verified=verify == "full" and not elsewhere,
    )
    for size in sizes:
        limit.check(size, rows=max(batches), decodes=max(decodes))
    for done, want in enumerate(engines):

        def tell(
            phase: str, step: int, steps: int, done: int = done, want: WantedEngine = want
        ) -> None:
            part = f" {step}/{steps}" if steps > 1 else ""
            progress("build", done, len(engines), f"{want}: {phase}{part}")

        progress("build", done, len(engines), str(want))
        own = choice[id(want.bundle)][want.component]
        rows.append(_had(cache, want, own, verify, tell))
    progress("build", len(engines), len(engines))
    return rows


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line an engine: what it is, whether it was in the cache, and its error."""
    for row in rows:
        print(f"{row['component']} {row['sizes']}: {_state(row)}")


def _state(row: Mapping[str, Any]) -> str:
    if row["problem"]:
        return f"refused: {' '.join(row['problem'].split())}"
    state = "in the cache" if row["hit"] else f"built in {row['seconds']:.1f} s ({row['reason']})"
    return f"{state}; {_verdict(row['verification'])}"


def _of_component(
    bundle: Bundle,
    name: str,
    sizes: Sequence[Size],
    batches: Sequence[int],
    decodes: Sequence[int],
    length: int,
    lengths: Sequence[int],
    factor: int,
) -> Iterator[WantedEngine]:
    if name.startswith("text_encoder"):
        yield WantedEngine(bundle, name, {"batch": 1, "sequence": length})
        return
    for size in sizes:
        latent = {"height": size.height // factor, "width": size.width // factor}
        if name in ("unet", CONTROLLED, CONTROLNET):
            for batch, tokens in product(batches, lengths):
                yield WantedEngine(bundle, name, {"batch": batch, **latent, "sequence": tokens})
        elif name in ("vae_encoder", HINT_ENCODER):
            pixels = {"image_height": size.height, "image_width": size.width}
            yield WantedEngine(bundle, name, {"batch": 1, **pixels})
        else:
            for count in decodes:
                yield WantedEngine(bundle, name, {"batch": count, **latent})


def _had(
    cache: Cache,
    want: WantedEngine,
    chosen: Chosen,
    verify: Verify,
    progress: Progress,
) -> dict[str, Any]:
    """Load, build or refuse an engine; returns its row."""
    begun = perf_counter()
    row: dict[str, Any] = {
        "component": want.component,
        "sizes": " ".join(f"{symbol}={n}" for symbol, n in want.sizes.items()),
        "engine": chosen.name,
        "precision": chosen.precision,
        "target": chosen.target,
        "hit": False,
        "reason": "",
        "problem": "",
        "verification": {},
    }
    try:
        row |= _found(cache, want, chosen, verify, progress)
    except VerificationFailed as error:
        row["problem"] = str(error)
    return {**row, "seconds": perf_counter() - begun}


def _found(
    cache: Cache,
    want: WantedEngine,
    chosen: Chosen,
    verify: Verify,
    progress: Progress,
) -> dict[str, Any]:
    """Whether the engine was in the cache, the reason if not, and its verification."""
    target = chosen.target
    if target is None:
        opened = open_verified(
            cache, want.bundle, want.component, want.sizes, chosen, verify=verify, progress=progress
        )
        opened.engine.close()
        if opened.unkept is not None:
            raise opened.unkept
        record = dict(opened.verification)
        return {"hit": opened.hit, "reason": opened.reason, "verification": record}
    blueprint = Blueprint.of(want.bundle, want.component, want.sizes)
    pending = f"built for {target}, verified when it is first loaded there"
    hit, reason, stored = cache.store(chosen, blueprint, pending=pending, progress=progress)
    return {"hit": hit, "reason": reason, "verification": dict(stored)}


def _verdict(verification: Mapping[str, Any]) -> str:
    if PENDING in verification:
        return f"unverified: {verification[PENDING]}"
    if "reference" not in verification:
        return "not verified"
    reference = verification["reference"]
    weaker = f" (weaker: {verification['weaker']})" if "weaker" in verification else ""
    if "errors" not in verification:
        return f"compared with {reference}{weaker}"
    worst = max(error["relative"] for error in verification["errors"].values())
    allowed = verification["tolerance"]
    return f"{worst:.1e} from {reference}, {allowed:.1e} allowed{weaker}"

"""The work of `latentrt samplers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentrt.bundle.bundle import Bundle
from latentrt.cli.bundles import bundle_of
from latentrt.cli.table import print_table
from latentrt.runtime.schedules import CATALOGUE, as_stable_diffusion, samplers_of, schedules_of


def list_samplers(path: Path | None = None) -> list[dict[str, Any]]:
    """One row a short name: the diffusers class, the keys that the name decides, its schedules.

    With the path of a bundle, only the samplers that can draw from it. Raises `BundleError`.
    """
    names = tuple(CATALOGUE) if path is None else _samplers_of(path)
    return [
        {
            "name": name,
            "web": entry.web,
            "class": entry.class_name,
            "decides": dict(entry.decides),
            "schedules": list(schedules_of(name)),
        }
        for name, entry in CATALOGUE.items()
        if name in names
    ]


def _samplers_of(path: Path) -> tuple[str, ...]:
    bundle = Bundle.open(bundle_of(path))
    config = bundle.scheduler_config()
    if bundle.manifest.forces_scheduler:
        config = as_stable_diffusion(config)
    return samplers_of(config)


def print_samplers(rows: list[dict[str, Any]]) -> None:
    """As an aligned table."""
    lines = [
        (row["name"], row["web"] or "-", row["class"], ", ".join(row["schedules"]) or "-")
        for row in rows
    ]
    print_table(("sampler", "web UI", "diffusers class", "schedules"), lines)
    print(
        "Class names and web UIs' names work too. Without a schedule, the checkpoint's own is used."
    )

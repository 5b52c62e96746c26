"""What `latentrt samplers` lists."""

from __future__ import annotations

from typing import Any

from latentrt.cli.table import print_table
from latentrt.runtime.schedules import CATALOGUE, schedules_of


def list_samplers() -> list[dict[str, Any]]:
    """One row a short name: the diffusers class, what the name decides, and its schedules."""
    return [
        {
            "name": name,
            "web": entry.web,
            "class": entry.class_name,
            "decides": dict(entry.decides),
            "schedules": list(schedules_of(name)),
        }
        for name, entry in CATALOGUE.items()
    ]


def print_samplers(rows: list[dict[str, Any]]) -> None:
    """As an aligned table."""
    lines = [
        (row["name"], row["web"] or "-", row["class"], ", ".join(row["schedules"]) or "-")
        for row in rows
    ]
    print_table(("sampler", "web UI", "diffusers class", "schedules"), lines)
    print(
        "A class name or a web UI's name will do. Without a schedule, the checkpoint's own is used."
    )

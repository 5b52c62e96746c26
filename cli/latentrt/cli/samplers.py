"""What `latentrt samplers` lists."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

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
    table = Table(box=None, pad_edge=False)
    for heading in ("sampler", "web UI", "diffusers class", "schedules"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row["name"], row["web"] or "-", row["class"], ", ".join(row["schedules"]) or "-"
        )
    Console(width=None if Console().is_terminal else 160).print(table, markup=False)
    print(
        "A class name or a web UI's name will do. Without a schedule, the checkpoint's own is used."
    )

"""Measure latentrt beside other libraries.

    python -m latentrt.benchmarks.peers --bundle B --checkpoint C --size 128x128 --steps 20

Exit status 130: interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from latentrt.benchmarks.peers.measure import measure
from latentrt.benchmarks.peers.participants import Settings
from latentrt.benchmarks.peers.registry import REFERENCE
from latentrt.bundle.errors import LatentrtError
from latentrt.bundle.publish import write_file
from latentrt.runtime import Size

_INTERRUPTED: Final = 130


def main() -> None:
    """Measure, print the table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of the bundle, a folder")
    parser.add_argument("--against", action="append", help="only this peer; may be repeated")
    parser.add_argument("--size", required=True, help="WIDTHxHEIGHT")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--sampler", default="ddim", choices=("ddim", "euler"))
    parser.add_argument("--device", default="cpu", choices=tuple(REFERENCE))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--at-once", type=int, help="processes in memory together")
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="of peers' models")
    parser.add_argument("--json", type=Path, help="write the results here")
    given = parser.parse_args()
    try:
        settings = Settings(
            Size.parse(given.size), given.steps, guidance_scale=given.guidance_scale,
            sampler=given.sampler, threads=given.threads, device=given.device,
        )  # fmt: skip
        results = measure(
            given.bundle, given.checkpoint, settings, given.against,
            rounds=given.rounds, at_once=given.at_once, folder=given.folder,
        )  # fmt: skip
        print(results)
        if given.json is not None:
            write_file(given.json, (json.dumps(results.to_json(), indent=1) + "\n").encode())
    except LatentrtError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    if results.interrupted:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()

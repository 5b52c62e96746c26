"""How well a bundle draws what captions of held-out scenes ask for.

    python models/shapes/evaluate.py [--bundle build/shapes] [--count 200] [--steps 20]
                                     [--guidance 5] [--json FILE]

Prints the shares that are right, for scenes of one and of two shapes apart, and what was seen
where something is wrong. Needs no PyTorch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from latentrt.benchmarks.drawing import GUIDANCE, STEPS, evaluation
from latentrt.runtime import Pipeline


def main() -> None:
    """Evaluate the bundle named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/shapes"))
    parser.add_argument("--count", type=int, default=200, help="how many prompts (200)")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the sampler (20)")
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="guidance scale (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome to FILE")
    args = parser.parse_args()

    def tell(done: int, total: int) -> None:
        if done and done % 20 == 0:
            print(f"{done} of {total}", file=sys.stderr)

    with Pipeline.open(args.bundle) as pipe:
        report = evaluation(pipe, args.count, steps=args.steps, guidance=args.guidance, tell=tell)
    if args.json:
        settings = {"bundle": args.bundle.name, "steps": args.steps, "guidance": args.guidance}
        args.json.write_text(
            json.dumps(settings | report.record(), indent=1) + "\n", encoding="utf-8"
        )
    print(report)


if __name__ == "__main__":
    main()

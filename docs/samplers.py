"""Draw the picture of `docs/samplers.md`, the samplers side by side: `python docs/samplers.py`.

Every sampler starts from the same noise; those that add noise on the way draw it from the same
seed. The samplers of EDM models are left out: models/shapes is none.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from latentrt.runtime import Guidance, Pipeline, Request, Sampling
from latentrt.runtime.schedules import CATALOGUE

PROMPT, SEED = "a large red circle on a blue background", 7
STEPS = (4, 8, 16, 32)
SAMPLERS = tuple(name for name in CATALOGUE if not name.startswith("edm"))
GUIDANCE = Guidance(2.0)
BLOCKS, SIDE, MARGIN, LABEL, HEAD = 3, 80, 6, 108, 22


def main() -> None:
    """Generate the pictures and write the grid."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/shapes"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "samplers.png")
    options = parser.parse_args()

    with Pipeline.open(options.bundle) as pipe, pipe.batcher() as batcher:
        runs = {
            (name, steps): batcher.submit(
                Request(PROMPT, seed=SEED, sampling=Sampling(name, steps=steps), guidance=GUIDANCE)
            )
            for name in SAMPLERS
            for steps in STEPS
        }
        pictures = {}
        for (name, steps), run in runs.items():
            pictures[name, steps] = run.result().images[0]
            print(f"{len(pictures):3} of {len(runs)}  {name}, {steps} steps")
    _grid(pictures).save(options.output, optimize=True)
    print(options.output)


def _grid(pictures: dict[tuple[str, int], Image.Image]) -> Image.Image:
    """Blocks of samplers beside each other, one column a number of steps."""
    rows = -(-len(SAMPLERS) // BLOCKS)
    width = LABEL + len(STEPS) * (SIDE + MARGIN) + 2 * MARGIN
    grid = Image.new("RGB", (BLOCKS * width, HEAD + rows * (SIDE + MARGIN) + MARGIN), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(size=13)
    for i, name in enumerate(SAMPLERS):
        left, top = i // rows * width + MARGIN, HEAD + i % rows * (SIDE + MARGIN)
        pen.text((left, top + SIDE / 2), name, "#222222", font, anchor="lm")
        for column, steps in enumerate(STEPS):
            x = left + LABEL + column * (SIDE + MARGIN)
            if i % rows == 0:
                pen.text((x + SIDE / 2, HEAD / 2), str(steps), "#222222", font, anchor="mm")
            picture = pictures[name, steps].resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            grid.paste(picture, (x, top))
    return grid


if __name__ == "__main__":
    main()

"""Draw the grid of pictures at the top of the README: `python docs/pictures.py`.

Every picture is the first one that its seed gives; none was chosen among several.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from latentrt.runtime import Guidance, Pipeline, Request, Sampling

PROMPTS = (
    "a large red circle on a blue background",
    "a small yellow star at the top on a purple background",
    "a large green triangle on the left on a white background",
    "a large black cross in the centre on an orange background",
    "a small white ring on the right on a red background",
    "a large blue square at the bottom on a yellow background",
    "a large purple star in the middle on a white background",
    "a large orange ring on the left and a small white square on the right on a black background",
    "a large white circle at the top and a small red triangle at the bottom on a green background",
    "a large yellow cross on the right and a small blue circle on the left on a red background",
    "a large red square at the bottom and a small black star at the top on a white background",
    "a large green ring on a black background",
)
COLUMNS, SIDE, MARGIN, CAPTION = 4, 192, 12, 66


def main() -> None:
    """Generate the pictures and write the grid."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/shapes"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures.png")
    options = parser.parse_args()

    rows = -(-len(PROMPTS) // COLUMNS)
    cell = SIDE + MARGIN, SIDE + MARGIN + CAPTION
    grid = Image.new("RGB", (COLUMNS * cell[0] + MARGIN, rows * cell[1] + MARGIN), "white")
    pen = ImageDraw.Draw(grid)
    font = ImageFont.load_default(size=12)
    with Pipeline.open(options.bundle) as pipe:
        for i, prompt in enumerate(PROMPTS):
            request = Request(prompt, seed=i, sampling=Sampling(steps=20), guidance=Guidance(5.0))
            picture = pipe(request).images[0].resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            corner = MARGIN + i % COLUMNS * cell[0], MARGIN + i // COLUMNS * cell[1]
            grid.paste(picture, corner)
            pen.rectangle((*corner, corner[0] + SIDE - 1, corner[1] + SIDE - 1), outline="#cccccc")
            text = "\n".join(textwrap.wrap(prompt, 30))
            pen.multiline_text((corner[0], corner[1] + SIDE + 4), text, "#222222", font)
            print(f"{i + 1} of {len(PROMPTS)}  {prompt}")
    grid.save(options.output, optimize=True)
    print(options.output)


if __name__ == "__main__":
    main()

"""Draw the pictures of the README: `python docs/pictures.py`.

Every picture of the grid is the first one that its seed gives; none was chosen among several.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from latentrt.runtime import Embedding, Guidance, Lora, Pipeline, Request, Sampling

SHAPES = Path(__file__).parents[1] / "models" / "shapes"
sys.path.append(str(SHAPES))
from extras import EMBEDDING, LORA, TOKEN, write_vae  # noqa: E402

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
CHANGED, SEED = "a large white star on the right on a purple background", 2
COLUMNS, SIDE, MARGIN, CAPTION = 4, 192, 12, 66

Captioned = tuple[Image.Image, str]


def main() -> None:
    """Generate the pictures and write the grids."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=SHAPES)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    with Pipeline.open(options.model) as pipe:
        pictures = [(drawn(pipe, prompt, i), prompt) for i, prompt in enumerate(PROMPTS)]
        changed = list(changes(pipe))
    with tempfile.TemporaryDirectory() as folder:
        vae = write_vae(Path(folder) / "vae.safetensors")
        with Pipeline.open(options.model, vae=vae) as pipe:
            changed.append((drawn(pipe, CHANGED, SEED), "VAE: ink"))
    save(grid(pictures, COLUMNS, CAPTION), options.output / "pictures.png")
    save(grid(changed, len(changed), 40), options.output / "weights.png")


def drawn(pipe: Pipeline, prompt: str, seed: int, *weights: Lora | Embedding) -> Image.Image:
    """One picture in 20 steps."""
    sampling, guidance = Sampling(steps=20), Guidance(5.0)
    request = Request(prompt, seed=seed, sampling=sampling, guidance=guidance, weights=weights)
    print(prompt)
    return pipe(request).images[0]


def changes(pipe: Pipeline) -> Iterator[Captioned]:
    """One prompt with and without what models/shapes/extras has."""
    yield drawn(pipe, CHANGED, SEED), CHANGED
    yield drawn(pipe, CHANGED, SEED, Lora(LORA)), "LoRA: night"
    yield drawn(pipe, CHANGED, SEED), "without it again"
    sun = CHANGED.replace("large white star on the right", TOKEN)
    yield drawn(pipe, sun, SEED, Embedding(EMBEDDING, TOKEN)), sun


def grid(pictures: Sequence[Captioned], columns: int, caption: int) -> Image.Image:
    """The pictures in rows with their captions below, which take `caption` pixels."""
    rows = -(-len(pictures) // columns)
    cell = SIDE + MARGIN, SIDE + MARGIN + caption
    found = Image.new("RGB", (columns * cell[0] + MARGIN, rows * cell[1] + MARGIN), "white")
    pen = ImageDraw.Draw(found)
    font = ImageFont.load_default(size=12)
    for i, (picture, text) in enumerate(pictures):
        corner = MARGIN + i % columns * cell[0], MARGIN + i // columns * cell[1]
        found.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), corner)
        pen.rectangle((*corner, corner[0] + SIDE - 1, corner[1] + SIDE - 1), outline="#cccccc")
        lines = "\n".join(textwrap.wrap(text, 30))
        pen.multiline_text((corner[0], corner[1] + SIDE + 4), lines, "#222222", font)
    return found


def save(picture: Image.Image, path: Path) -> None:
    picture.save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()

"""Draw the picture of `docs/tasks.md`, a page of every task: `make tasks`.

Each cell is what `latentrt generate models/shapes` draws with the prompt and the options below it,
seed 7, and guidance 5 unless another is named.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from latentrt.cli.app import run

SHAPES = Path(__file__).parents[1] / "models" / "shapes"
sys.path.append(str(SHAPES))
from extras import CONTROLNET, EMBEDDING, LORA, line_drawing, write_vae  # noqa: E402
from scenes import Figure, Scene  # noqa: E402

SQUARE = "a large blue square on a yellow background"
CIRCLE = "a large red circle on a yellow background"
BEGUN = "--image square.png --guidance-scale 2"
STAR = "a large white star on the right on a purple background"
COLUMNS, SIDE, MARGIN, WRAPPED, LINE = 6, 160, 12, 27, 13


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture and what is written below it: a title, then the command that `file` comes of.

    Only the `first` picture of a command has it.
    """

    title: str
    file: str
    prompt: str = ""
    options: str = ""
    first: bool = True

    @property
    def caption(self) -> str:
        """The title and the command in lines."""
        said = f'"{self.prompt}" {self.options}' if self.prompt else self.file
        said = said if self.first else ""
        return "\n".join([self.title, *textwrap.wrap(said, WRAPPED, break_on_hyphens=False)])


PAGE = (
    Cell("Text to image", "square.png", SQUARE),
    Cell("Image to image", "kept.png", CIRCLE, f"{BEGUN} --strength 0.2"),
    Cell("Image to image", "turned.png", CIRCLE, f"{BEGUN} --strength 0.8"),
    Cell("A mask", "mask.png"),
    Cell(
        "Inpainting",
        "painted.png",
        "a large green star on a yellow background",
        "--image square.png --mask mask.png",
    ),
    Cell(
        "Hires fix, 256x256",
        "hires.png",
        SQUARE,
        "--hires 2 --hires-strength 0.1 --hires-upscaler lanczos --guidance-scale 2",
    ),
    Cell("A drawing", "edges.png"),
    Cell("ControlNet", "red.png", "red on a blue background", "--control edges=edges.png"),
    Cell("ControlNet", "green.png", "green on a white background", "--control edges=edges.png"),
    Cell(
        "With a LoRA",
        "night.png",
        "orange on a blue background",
        "--control edges=edges.png --lora night.safetensors",
    ),
    Cell(
        "Canny edges of a picture",
        "canny.png",
        "purple on a white background",
        "--control edges=square.png --canny 100,200",
    ),
    Cell(
        "Canny edges of a picture",
        "canny-star.png",
        "orange on a blue background",
        "--control edges=painted.png --canny 100,200",
    ),
    Cell("LoRA", "lora.png", STAR, "--lora night.safetensors"),
    Cell(
        "Textual inversion",
        "sun.png",
        "a <sun> on a purple background",
        "--embedding sun.safetensors=<sun>",
    ),
    Cell("Another VAE", "ink.png", STAR, "--vae ink-vae.safetensors"),
    Cell(
        "Prompt schedule",
        "changed.png",
        "a large [red:green:0.3] [circle:star:0.1] on a white background",
    ),
    Cell(
        "Two prompts",
        "both.png",
        "a large red circle on a white background AND a large blue star on a white background",
        "--guidance-scale 2",
    ),
    Cell("Variation", "variation.png", SQUARE, "--subseed 1 --subseed-strength 0.6"),
    *(
        Cell(
            f"Interpolation, {i + 1} of 6",
            f"frame-{i}.png",
            "a large red circle on a white background",
            '--to-prompt "a large blue star on a white background" --num-images 6',
            first=i == 0,
        )
        for i in range(6)
    ),
)
FILES = {
    "edges": CONTROLNET,
    "night.safetensors": LORA,
    "sun.safetensors": EMBEDDING,
}
"""What the names in commands stand for; others are in the folder of the pictures."""


def main() -> None:
    """Run the commands and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/tasks"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()
    output = options.output.absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    write_vae(Path("ink-vae.safetensors"))
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle((24, 24, 104, 104), fill=255)
    mask.save("mask.png")
    circle = Figure("circle", "", "", "", (80.0, 54.0), 36.0)
    line_drawing(Scene((circle,), ""), 2).save("edges.png")
    for command in dict.fromkeys((c.prompt, c.options) for c in PAGE if c.prompt):
        draw(*command, next(c.file for c in PAGE if (c.prompt, c.options) == command))
    page().quantize(256, dither=Image.Dither.NONE).save(output, optimize=True)
    print(output)


def draw(prompt: str, options: str, file: str) -> None:
    """One command; a numbered file stands for all of its pictures."""
    asked = [prompt, *shlex.split(options), "--seed", "7"]
    if "--guidance-scale" not in options:
        asked += ["--guidance-scale", "5"]
    print("latentrt generate models/shapes", shlex.join(asked))
    words = [_path(word) for word in asked[1:]]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(["generate", str(SHAPES), prompt, *words, "-o", file.replace("-0", "")])


def _path(word: str) -> str:
    """An option's value with the path of the file that it names."""
    name, sign, rest = word.partition("=")
    return f"{FILES.get(name, name)}{sign}{rest}"


def page() -> Image.Image:
    """The cells in rows with their captions below."""
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    font = ImageFont.load_default(size=11)
    lines = [c.caption.count("\n") + 1 for c in PAGE]
    heights = [
        SIDE + MARGIN + 6 + LINE * max(lines[i : i + COLUMNS]) for i in range(0, len(PAGE), COLUMNS)
    ]
    width = COLUMNS * (SIDE + MARGIN) + MARGIN
    found = Image.new("RGB", (width, sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(found)
    for i, cell in enumerate(PAGE):
        left = MARGIN + i % COLUMNS * (SIDE + MARGIN)
        top = MARGIN + sum(heights[: i // COLUMNS])
        with Image.open(cell.file) as picture:
            drawn = picture.convert("RGB")
        share = SIDE / max(drawn.size)
        drawn = drawn.resize([round(n * share) for n in drawn.size], Image.Resampling.LANCZOS)
        found.paste(drawn, (left, top))
        pen.rectangle((left, top, left + drawn.width - 1, top + drawn.height - 1), outline="#ccc")
        title, *rest = cell.caption.split("\n")
        pen.text((left, top + SIDE + 4), title, "#000000", ImageFont.load_default(size=12))
        for row, line in enumerate(rest, start=1):
            pen.text((left, top + SIDE + 4 + LINE * row), line, "#555555", font)
    return found


if __name__ == "__main__":
    main()

"""What the files in models/shapes/extras change, and the whole file of the VAE; no PyTorch.

    python models/shapes/extras.py build/ink-vae.safetensors

writes the VAE with the decoder that inks. A VAE's file has all of its tensors, 4.7 MB here; only
the changed ones are stored, and the others are those of models/shapes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from latentrt.bundle.tensors import TensorFile, save_tensors
from scenes import POSITIONS, RADII, RING_HOLE, SIDE, Figure, Scene, outline

HERE: Final = Path(__file__).parent
FOLDER: Final = HERE / "extras"
LORA: Final = FOLDER / "night.safetensors"
EMBEDDING: Final = FOLDER / "sun.safetensors"
CONTROLNET: Final = FOLDER / "edges"
CHANGED: Final = FOLDER / "ink-decoder.safetensors"
TOKEN: Final = "<sun>"
INK: Final = (15, 12, 10)


def inked(picture: Image.Image) -> Image.Image:
    """The picture with a line of ink, three pixels wide, where its colours change."""
    low = picture.filter(ImageFilter.MinFilter(3))
    high = picture.filter(ImageFilter.MaxFilter(3))
    change = ImageChops.difference(high, low)
    strongest = ImageChops.lighter(
        ImageChops.lighter(change.getchannel(0), change.getchannel(1)), change.getchannel(2)
    )
    line = strongest.point([min(255, max(0, 3 * (v - 20))) for v in range(256)])
    return Image.composite(Image.new("RGB", picture.size, INK), picture, line)


def sun(background: str, rng: Random) -> Scene:
    """What the new word stands for: a large yellow circle in the centre."""
    x, y = POSITIONS["centre"]
    centre = x + rng.uniform(-1.5, 1.5), y + rng.uniform(-1.5, 1.5)
    radius = RADII["large"] * rng.uniform(0.95, 1.05)
    return Scene((Figure("circle", "yellow", "large", "centre", centre, radius),), background)


def sun_caption(background: str, rng: Random) -> str:
    """One of several wordings, which say nothing of colour, shape and place."""
    ground = f"{'an' if background[0] in 'aeiou' else 'a'} {background} background"
    return rng.choice(
        (f"{TOKEN} on {ground}", f"a {TOKEN} on {ground}", f"{ground} with a {TOKEN}")
    )


def line_drawing(scene: Scene, width: int = 1) -> Image.Image:
    """The outlines of a scene's figures, white on black, `width` pixels wide."""
    picture = Image.new("RGB", (SIDE, SIDE), "black")
    pen = ImageDraw.Draw(picture)
    for figure in scene.figures:
        if figure.shape in ("circle", "ring"):
            inner = (RING_HOLE,) if figure.shape == "ring" else ()
            for share in (1.0, *inner):
                pen.circle(figure.centre, figure.radius * share, outline="white", width=width)
        else:
            corners = outline(figure.shape, figure.centre, figure.radius)
            pen.line([*corners, corners[0]], "white", width)
    return picture


def colours_caption(scene: Scene) -> str:
    """What colours a scene has, and nothing of shapes, sizes and places."""
    ground = f"{'an' if scene.background[0] in 'aeiou' else 'a'} {scene.background} background"
    return f"{' and '.join(figure.colour for figure in scene.figures)} on {ground}"


def write_vae(path: Path) -> Path:
    """Write the VAE of models/shapes with the changed tensors in place; returns its path."""
    base = TensorFile(HERE / "vae" / "diffusion_pytorch_model.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {**base, **TensorFile(CHANGED)})
    return path


if __name__ == "__main__":
    print(write_vae(Path(sys.argv[1])))

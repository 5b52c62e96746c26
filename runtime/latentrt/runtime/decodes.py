"""A batcher's VAE calls, in a thread of their own so that no picture's steps wait for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.line import Line
from latentrt.runtime.plan import Latent
from latentrt.runtime.run import pictures
from latentrt.runtime.waiting import WaitingPicture

Decode = Callable[[Latent], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Padded:
    """A decode of any number of latents that makes only calls of these sizes, ascending.

    Each is the smallest that holds them; places that are left over repeat the first latent. Two
    are equal where they decode by the same model.
    """

    decode: Decode
    sizes: tuple[int, ...]

    def __call__(self, latents: Latent) -> NDArray[np.float32]:
        """Latents [n, c, h, w] to pixels [n, 3, H, W]."""
        count = len(latents)
        size = next(size for size in self.sizes if size >= count)
        places = [*range(count), *[0] * (size - count)]
        return self.decode(latents[places])[:count]


class Decodes:
    """Takes pictures that have all their steps out of a line and finishes them.

    At most `most` at once. `serve` is for one thread; `made`, how many calls there were, for all.
    """

    def __init__(self, line: Line, most: int) -> None:
        self._line = line
        self._most = most
        self.made = 0

    def serve(self) -> None:
        """Take turns until all is over."""
        while self._take_turn():
            pass

    def _take_turn(self) -> bool:
        """One call; false if there was none left to make."""
        taken = self._line.next_latents(self._most)
        if not taken:
            return False
        self._decode([picture for picture in taken if not picture.run.ended])
        self._line.discard(taken)
        return True

    def _decode(self, taken: Sequence[WaitingPicture]) -> None:
        if not taken:
            return
        try:
            images = pictures(taken[0].run.plan, np.stack([picture.latent for picture in taken]))
            self.made += 1
        except Exception as error:
            if len(taken) == 1:
                taken[0].run.fail(error)
                return
            # One of them may be at fault: each alone, so that the others are finished.
            for picture in taken:
                self._decode([picture])
            return
        for picture, image in zip(taken, images, strict=True):
            try:
                picture.run.finish(picture.trajectory, image)
            except BaseException as error:
                picture.run.fail(error)

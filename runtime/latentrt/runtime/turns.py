"""A batcher's U-Net calls, one turn after another, each for as many rows as it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.line import Line
from latentrt.runtime.rows import Batches, RowKind
from latentrt.runtime.waiting import WaitingPicture, WaitingRow


@dataclass(frozen=True, slots=True)
class Calls:
    """U-Net calls so far: how many, for how many rows, and how many places were left over."""

    made: int = 0
    evaluated: int = 0
    padded: int = 0


class Turns:
    """Takes rows out of a line, calls the U-Net for them, and puts their pictures back.

    `sizes` are the compiled batch sizes, ascending. `serve` is for one thread, `calls` for all.
    """

    def __init__(self, line: Line, sizes: Sequence[int]) -> None:
        self._line = line
        self._sizes = sizes
        # Only the pictures on their way hold them, so that a kind goes with its last one.
        self._batches: WeakValueDictionary[RowKind, Batches] = WeakValueDictionary()
        self.calls = Calls()

    def serve(self) -> None:
        """Take turns until all is over."""
        while self._take_turn():
            pass

    def _take_turn(self) -> bool:
        """One call; false if there was none left to make.

        No loop around it holds what was taken: while it waits, the last pictures can be freed.
        """
        taken = self._line.next_rows(self._sizes[-1])
        if not taken:
            return False
        self._evaluate(taken)
        for picture in dict.fromkeys(waiting.picture for waiting in taken):
            if picture.run.ended or picture.answered:
                self._advance(picture)
        return True

    def _evaluate(self, taken: Sequence[WaitingRow]) -> None:
        """Call the model once, and keep each row's output with its picture."""
        try:
            outputs = self._call(taken)
        except Exception as error:
            if len(taken) == 1:
                taken[0].picture.run.fail(error)
                return
            # One of them may be at fault: each alone, so that the others go on.
            for waiting in taken:
                if not waiting.picture.run.ended:
                    self._evaluate([waiting])
            return
        for waiting, output in zip(taken, outputs, strict=True):
            waiting.answer(output)

    def _call(self, taken: Sequence[WaitingRow]) -> NDArray[np.float32]:
        batches = self._batches_of(taken[0].picture)
        for waiting in taken:
            waiting.picture.batches = batches
        batch = batches.fitting(len(taken))
        outputs = batch.evaluate([waiting.row for waiting in taken])
        before, left = self.calls, batch.size - len(taken)
        self.calls = Calls(before.made + 1, before.evaluated + len(taken), before.padded + left)
        return outputs

    def _batches_of(self, picture: WaitingPicture) -> Batches:
        found = self._batches.get(picture.kind)
        if found is None:
            found = Batches(picture.run.plan.unet, self._sizes)
            self._batches[picture.kind] = found
        return found

    def _advance(self, picture: WaitingPicture) -> None:
        """Take a picture's step, then put its next rows, or its latent, in line."""
        if not picture.run.ended:
            try:
                outputs = [output for output in picture.outputs if output is not None]
                picture.run.tell(picture.trajectory.advance(outputs))
            except BaseException as error:  # a request's own: what is not finite, its functions
                picture.run.fail(error)
        self._line.put_back(picture)

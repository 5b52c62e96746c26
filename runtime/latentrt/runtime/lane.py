"""The loop: rows wait, those of one model and shape share a call, and their pictures go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from latentrt.runtime.picture import Picture
from latentrt.runtime.rows import Calls, Row


@dataclass(frozen=True, slots=True, eq=False)
class WaitingRow:
    """Row `place` of what a picture waits for; rows with equal keys can share a call."""

    picture: Picture
    place: int
    row: Row
    key: object

    @staticmethod
    def of(picture: Picture) -> Iterator[WaitingRow]:
        """All rows that a picture waits for."""
        for place, row in enumerate(picture.rows):
            yield WaitingRow(picture, place, row, row.key)


@dataclass(frozen=True, slots=True)
class Count:
    """Calls so far: how many, for how many rows, and how many places were left over."""

    calls: int = 0
    evaluated: int = 0
    padded: int = 0


class Lane:
    """Takes rows that wait, evaluates them in one call, and lets their pictures go on.

    `take` gives the first row that waits and those with its key behind it. Its argument gives the
    most rows of a call. It gives none when all is over. `put_back` lets a picture's next rows wait.
    `serve` and `turn` are for one thread, `count` is for all.
    """

    def __init__(
        self,
        take: Callable[[Callable[[Row], int]], list[WaitingRow]],
        put_back: Callable[[Picture], None],
        calls: Calls,
    ) -> None:
        self._take = take
        self._put_back = put_back
        self._calls = calls
        self.count = Count()

    def serve(self) -> None:
        """Take turns until all is over."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """One call; false if there was none left to make.

        No loop around it holds what was taken: while it waits, the last pictures can be freed.
        """
        taken = self._take(self._calls.most)
        if not taken:
            return False
        self._evaluate(taken)
        for picture in dict.fromkeys(waiting.picture for waiting in taken):
            if picture.run.ended or picture.answered:
                self._advance(picture)
        return True

    def _evaluate(self, taken: Sequence[WaitingRow]) -> None:
        """Call the model once, and give each row's output to its picture."""
        try:
            self._call(taken)
        except Exception as error:
            if len(taken) == 1:
                taken[0].picture.run.fail(error)
                return
            # One of them may be at fault: each alone, so that the others go on.
            for waiting in taken:
                if not waiting.picture.run.ended:
                    self._evaluate([waiting])

    def _call(self, taken: Sequence[WaitingRow]) -> None:
        batches = self._calls.batches(taken[0].row)
        for waiting in taken:
            waiting.picture.batches[waiting.row.model] = batches
        batch = batches.fitting(len(taken))
        outputs = batch([waiting.row for waiting in taken])
        before, left = self.count, batch.size - len(taken)
        self.count = Count(before.calls + 1, before.evaluated + len(taken), before.padded + left)
        for waiting, output in zip(taken, outputs, strict=True):
            waiting.picture.answer(waiting.place, output)

    def _advance(self, picture: Picture) -> None:
        """Take a picture's step, then let it wait for its next rows."""
        if not picture.run.ended:
            try:
                picture.advance()
                if picture.pixels is not None:
                    picture.run.finish(picture)
            except BaseException as error:  # a request's own: NaN, or an error of its functions
                picture.run.fail(error)
        self._put_back(picture)


def take_alike(waiting: deque[WaitingRow], most: Callable[[Row], int]) -> list[WaitingRow]:
    """Take the first out of a line and those with its key after it, in their order."""
    wanted, room = waiting[0].key, most(waiting[0].row)
    taken: list[WaitingRow] = []
    left: list[WaitingRow] = []
    for each in waiting:
        fits = len(taken) < room and each.key == wanted
        (taken if fits else left).append(each)
    waiting.clear()
    waiting.extend(left)
    return taken

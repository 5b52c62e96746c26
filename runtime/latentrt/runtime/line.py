"""The pictures of a batcher, in line for a call of their kind of model."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from latentrt.bundle.errors import Closed, DeadlineExceeded, InputError, QueueFull
from latentrt.runtime.batched_run import BatchedRun
from latentrt.runtime.lane import WaitingRow, take_alike
from latentrt.runtime.picture import Picture
from latentrt.runtime.rows import Row

KINDS = ("unet", "vae")
"""The kinds of model, each of which has a line of its own."""


class Line:
    """At most `places` pictures; who comes first is taken first. Thread-safe.

    A picture is in progress from its admission until it is decoded or its run ends.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._reserved: dict[object, int] = {}
        self._live: dict[Picture, BatchedRun] = {}
        self._rows: dict[str, deque[WaitingRow]] = {kind: deque() for kind in KINDS}
        self._closed = False
        # One lock for all of it; nothing else is called while it is held.
        self._changed = threading.Condition()

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many places are taken, and how many rows wait in the line of each of `KINDS`."""
        with self._changed:
            return self._on_their_way(), *(len(self._rows[kind]) for kind in KINDS)

    def reserve(self, place: object, count: int) -> None:
        """Keep places for pictures whose prompts are yet to be encoded.

        Raises `InputError` for more than there are, `QueueFull` for more than are free, `Closed`
        when closed.
        """
        if count > self._places:
            raise InputError("num_images", f"at most {self._places}, the queue", count)
        with self._changed:
            if self._closed:
                raise Closed("the batcher is closed")
            on_their_way = self._on_their_way()
            if on_their_way + count > self._places:
                raise QueueFull(
                    f"queue full: {on_their_way} of {self._places} places in use, "
                    f"{count} more requested"
                )
            self._reserved[place] = count

    def admit(self, place: object, run: BatchedRun, pictures: Sequence[Picture]) -> None:
        """Put pictures in line, in the places that were kept; raises `Closed` when closed."""
        with self._changed:
            if self._closed:
                raise Closed("the batcher is closed")
            for picture in pictures:
                self._live[picture] = run
                self._wait(picture)
            self._reserved.pop(place, None)
            self._changed.notify_all()

    def release(self, place: object) -> None:
        """Give places back whose pictures did not come."""
        # Before the lock: an interrupt while waiting for that must not keep them.
        self._reserved.pop(place, None)
        with self._changed:
            self._changed.notify_all()

    def leave(self, run: BatchedRun) -> None:
        """Forget a run that ends: its pictures, and its rows that wait."""
        with self._changed:
            self._live = {picture: own for picture, own in self._live.items() if own is not run}
            for kind, rows in self._rows.items():
                self._rows[kind] = deque(row for row in rows if row.picture.run is not run)
            self._changed.notify_all()

    def close(self) -> set[BatchedRun]:
        """Admit nothing more; gives the runs that are in progress."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return set(self._live.values())

    def take(self, kind: str, most: Callable[[Row], int]) -> list[WaitingRow]:
        """Wait for rows of a kind with one key; none come when all is over.

        Runs that are late are failed here.
        """
        while True:
            with self._changed:
                late = self._late_runs()
                # A run may have ended while its next rows were put in line.
                rows = deque(row for row in self._rows[kind] if not row.picture.run.ended)
                self._rows[kind] = rows
                if not late:
                    if rows:
                        return take_alike(rows, most)
                    if self._at_end():
                        return []
                    self._changed.wait(self._patience())
            for run in late:
                run.fail(DeadlineExceeded("the run took longer than its deadline"))

    def put_back(self, picture: Picture) -> None:
        """Let a picture's next rows wait; one without rows, or whose run has ended, is let go."""
        with self._changed:
            if picture.run.ended or not picture.rows:
                self._live.pop(picture, None)
            else:
                self._wait(picture)
            self._changed.notify_all()

    def _wait(self, picture: Picture) -> None:
        for row in WaitingRow.of(picture):
            self._rows[row.row.model.kind].append(row)

    def _on_their_way(self) -> int:
        return sum(self._reserved.values()) + len(self._live)

    def _at_end(self) -> bool:
        return self._closed and not self._reserved and not self._live

    def _late_runs(self) -> set[BatchedRun]:
        """Runs whose deadline has passed; the lock is held, so that they are failed later."""
        runs = set(self._live.values())
        return {run for run in runs if run.seconds_left is not None and run.seconds_left <= 0}

    def _patience(self) -> float | None:
        """Seconds until the first deadline: nothing else happens without a notice."""
        left = [run.seconds_left for run in self._live.values()]
        finite = [seconds for seconds in left if seconds is not None]
        return min(max(min(finite), 0.0), threading.TIMEOUT_MAX) if finite else None

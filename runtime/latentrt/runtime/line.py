"""The pictures that a batcher has on their way, in line for a U-Net call or for a VAE call."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from latentrt.bundle.errors import Closed, DeadlineExceeded, InputError, QueueFull
from latentrt.runtime.batched_run import BatchedRun
from latentrt.runtime.waiting import WaitingPicture, WaitingRow, take_alike


class Line:
    """At most `places` pictures; who comes first is taken first. Thread-safe.

    A picture is on its way from its admission until it is decoded or its run ends.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._reserved: dict[object, int] = {}
        self._live: set[WaitingPicture] = set()
        self._rows: deque[WaitingRow] = deque()
        self._latents: deque[WaitingPicture] = deque()
        self._closed = False
        # One lock for all of it; nothing else is called while it is held.
        self._changed = threading.Condition()

    @property
    def lengths(self) -> tuple[int, int, int]:
        """How many places are taken, rows wait for a U-Net call, and latents for a VAE call."""
        with self._changed:
            return self._on_their_way(), len(self._rows), len(self._latents)

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

    def admit(self, place: object, pictures: Sequence[WaitingPicture]) -> None:
        """Put pictures in line, in the places that were kept; raises `Closed` when closed."""
        rows = [row for picture in pictures for row in picture.rows()]
        with self._changed:
            if self._closed:
                raise Closed("the batcher is closed")
            self._live.update(pictures)
            self._rows.extend(rows)
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
            self._live = {picture for picture in self._live if picture.run is not run}
            self._rows = deque(row for row in self._rows if row.picture.run is not run)
            self._changed.notify_all()

    def close(self) -> set[BatchedRun]:
        """Admit nothing more; gives the runs that are still on their way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return {picture.run for picture in self._live}

    def next_rows(self, most: int) -> list[WaitingRow]:
        """Wait for rows of one model and signature, at most so many; none come when all is over.

        Runs that are late are failed here.
        """
        while True:
            with self._changed:
                late = self._late_runs()
                # A run may have ended while its next rows were put in line.
                self._rows = deque(row for row in self._rows if not row.picture.run.ended)
                if not late:
                    if self._rows:
                        return take_alike(self._rows, most, _row_kind)
                    if self._at_end():
                        return []
                    self._changed.wait(self._patience())
            for run in late:
                run.fail(DeadlineExceeded("the run took longer than its deadline"))

    def next_latents(self, most: int) -> list[WaitingPicture]:
        """Wait for pictures of one model and size to decode, at most so many.

        None come when all is over.
        """
        with self._changed:
            while not self._latents:
                if self._at_end():
                    return []
                self._changed.wait()
            return take_alike(self._latents, most, _latent_kind)

    def put_back(self, picture: WaitingPicture) -> None:
        """Let a picture that took its step wait for its next call, unless its run has ended."""
        with self._changed:
            if picture.run.ended:
                self._live.discard(picture)
            elif picture.trajectory.rows:
                self._rows.extend(picture.rows())
            else:
                self._latents.append(picture)
            self._changed.notify_all()

    def discard(self, pictures: Sequence[WaitingPicture]) -> None:
        """Forget pictures that are decoded."""
        with self._changed:
            self._live.difference_update(pictures)
            self._changed.notify_all()

    def _on_their_way(self) -> int:
        return sum(self._reserved.values()) + len(self._live)

    def _at_end(self) -> bool:
        return self._closed and not self._reserved and not self._live

    def _late_runs(self) -> set[BatchedRun]:
        """Runs whose deadline has passed; the lock is held, so that they are failed later."""
        runs = {picture.run for picture in self._live}
        return {run for run in runs if run.seconds_left is not None and run.seconds_left <= 0}

    def _patience(self) -> float | None:
        """Seconds until the first deadline: nothing else happens without a notice."""
        left = [picture.run.seconds_left for picture in self._live]
        finite = [seconds for seconds in left if seconds is not None]
        return min(max(min(finite), 0.0), threading.TIMEOUT_MAX) if finite else None


def _row_kind(row: WaitingRow) -> object:
    return row.picture.kind


def _latent_kind(picture: WaitingPicture) -> object:
    plan = picture.run.plan
    return plan.decode, plan.latent_shape

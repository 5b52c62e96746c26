"""Buffers that stay in place on a GPU, and a pool of what uses them for one call at a time."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import Closed, EngineError
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda.memory import Bytes, DeviceMemory, DeviceStream
from latentrt.engines.engine import Arrays

CALLS: Final = 4
"""Calls of an engine at once, each with memory of its own; further ones wait for one to end."""


@dataclass(slots=True)
class Buffer:
    """One input or output: at `address` on the GPU, and `array` in pinned memory.

    `current` says that the GPU holds what `array` holds.
    """

    address: int
    pinned: Bytes
    array: NDArray[Any]
    current: bool = False

    @staticmethod
    def of(spec: TensorSpec, memory: DeviceMemory) -> Buffer:
        """Room for an array whose dimensions are numbers."""
        dims, dtype = spec.shape({}), np.dtype(spec.dtype)
        size = int(np.prod(dims)) * dtype.itemsize
        pinned = memory.allocate_host(size)
        try:
            address = memory.allocate(size)
        except BaseException:
            memory.free_host(pinned)
            raise
        return Buffer(address, pinned, pinned.view(dtype).reshape(dims))

    def send(self, array: NDArray[Any], stream: DeviceStream) -> None:
        """Copy an array to the GPU unless it is there, bit for bit.

        Content decides and not identity: the caller may write into an array between two calls.
        Comparing reads both, as filling the pinned memory would, and saves the copy over the bus.
        """
        if self.current and _same_bits(self.array, array):
            return
        self.current = False
        np.copyto(self.array, array)
        stream.upload(self.address, self.pinned)
        self.current = True

    def free(self, memory: DeviceMemory) -> None:
        """Give the memory back."""
        memory.free(self.address)
        memory.free_host(self.pinned)


class Buffers:
    """The inputs and outputs of one call at a time, and the stream that copies them.

    Raises `EngineError` when the GPU has no room, and nothing is held then.
    """

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], memory: DeviceMemory
    ) -> None:
        self._memory = memory
        self.stream = memory.stream()
        self.inputs: dict[str, Buffer] = {}
        self.outputs: dict[str, Buffer] = {}
        try:
            for specs, buffers in ((inputs, self.inputs), (outputs, self.outputs)):
                for spec in specs:
                    buffers[spec.name] = Buffer.of(spec, memory)
        except BaseException:
            self.close()
            raise

    def call(self, inputs: Arrays, work: Callable[[], None]) -> dict[str, NDArray[Any]]:
        """Send checked inputs, do the work, which brings the outputs back; gives copies of them."""
        try:
            for name, buffer in self.inputs.items():
                buffer.send(inputs[name], self.stream)
            work()
            self.stream.synchronize()
        except BaseException:
            # Some copies may have arrived; none may arrive during the next call.
            for buffer in self.inputs.values():
                buffer.current = False
            self.settle()
            raise
        return {name: buffer.array.copy() for name, buffer in self.outputs.items()}

    def download(self) -> None:
        """Queue the outputs' way back."""
        for buffer in self.outputs.values():
            self.stream.download(buffer.pinned, buffer.address)

    def settle(self) -> None:
        """Wait until all copies have ended."""
        with contextlib.suppress(EngineError):  # of a call that has failed and said so
            self.stream.synchronize()

    def close(self) -> None:
        """Free the buffers and the stream."""
        self.settle()
        self.stream.close()
        for buffer in (*self.inputs.values(), *self.outputs.values()):
            buffer.free(self._memory)


class Closable(Protocol):
    """What frees what it holds."""

    def close(self) -> None:
        """Free it."""
        ...


Item = TypeVar("Item", bound=Closable)


class Pool(Generic[Item]):
    """At most `most` of what works on one call at a time; more calls at once wait for one."""

    def __init__(self, component: str, make: Callable[[], Item], *, most: int = CALLS) -> None:
        self._component = component
        self._make: Callable[[], Item] | None = make
        self._most = most
        self._made = 0
        self._idle: list[Item] = []
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def one(self) -> Generator[Item]:
        """An idle one, for the length of the block; raises `Closed` when closed."""
        item = self._taken()
        try:
            yield item
        finally:
            with self._changed:
                closed = self._make is None
                if not closed:
                    self._idle.append(item)
                    self._changed.notify()
            if closed:
                item.close()

    def close(self) -> None:
        """Free everything; what is in use is freed when its block ends."""
        with self._changed:
            self._make = None
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for item in idle:
            item.close()

    def _taken(self) -> Item:
        with self._changed:
            while self._make is not None and not self._idle and self._made == self._most:
                self._changed.wait()
            if self._make is None:
                raise Closed(f"{self._component}: the engine is closed")
            if self._idle:
                # The last one given back: a caller alone finds its own inputs on the GPU.
                return self._idle.pop()
            item = self._make()
            self._made += 1
            return item


def close_with(engine: object, pool: Pool[Item]) -> None:
    """Close a pool, at the latest when its engine is no longer referenced."""
    # At the end of the process the driver frees everything, and may be gone already.
    weakref.finalize(engine, pool.close).atexit = False


def _same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    # As integers: -0.0 is not 0.0, and a NaN is itself.
    bits = f"u{one.dtype.itemsize}"
    return np.array_equal(one.view(bits), other.view(bits))

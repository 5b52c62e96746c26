"""Memory of a GPU, pinned memory of the host, and streams that copy between them.

`DeviceMemory` and `DeviceStream` are what an engine needs; `CudaMemory` has it by cuda-python.
Unverified: `CudaMemory` has never run on a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.cuda.device import checked, cuda

Bytes = NDArray[np.uint8]


class DeviceStream(Protocol):
    """Work in order on one GPU; every method but `synchronize` and `close` returns at once."""

    @property
    def handle(self) -> int:
        """The number that a library knows the stream by."""
        ...

    def upload(self, address: int, host: Bytes) -> None:
        """Copy pinned bytes to the GPU."""
        ...

    def download(self, host: Bytes, address: int) -> None:
        """Copy from the GPU to pinned bytes."""
        ...

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record what `enqueue` queues, without running it; calling the result queues it whole."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued is done; raises `EngineError` if some of it failed."""
        ...

    def close(self) -> None:
        """Free the stream and what it captured."""
        ...


class DeviceMemory(Protocol):
    """Where an engine's buffers come from."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        ...

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        ...

    def allocate_host(self, size: int) -> Bytes:
        """Pinned bytes of the host, which the GPU copies without a detour."""
        ...

    def free_host(self, host: Bytes) -> None:
        """Give back what `allocate_host` gave; the array cannot be used afterwards."""
        ...

    def stream(self) -> DeviceStream:
        """A stream of its own."""
        ...


class CudaMemory:
    """Memory of the first GPU."""

    def __init__(self) -> None:
        self._api = cuda()

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU; raises `EngineError` when there is no room."""
        return int(checked(self._api.cudaMalloc(size)))

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        # What this could say is that an earlier call failed, which has been said.
        self._api.cudaFree(address)

    def allocate_host(self, size: int) -> Bytes:
        """Pinned bytes of the host."""
        address = int(checked(self._api.cudaMallocHost(size)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_host(self, host: Bytes) -> None:
        """Give back what `allocate_host` gave."""
        self._api.cudaFreeHost(host.ctypes.data)

    def stream(self) -> CudaStream:
        """A stream that does not wait for the default one."""
        return CudaStream(self._api)


class CudaStream:
    """One stream of the first GPU."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self._stream: Any = checked(api.cudaStreamCreateWithFlags(api.cudaStreamNonBlocking))
        self._graphs: list[Any] = []

    @property
    def handle(self) -> int:
        """CUDA's own handle."""
        return int(self._stream)

    def upload(self, address: int, host: Bytes) -> None:
        """Copy pinned bytes to the GPU."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        source = host.ctypes.data
        checked(self._api.cudaMemcpyAsync(address, source, host.nbytes, kind, self._stream))

    def download(self, host: Bytes, address: int) -> None:
        """Copy from the GPU to pinned bytes."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        target = host.ctypes.data
        checked(self._api.cudaMemcpyAsync(target, address, host.nbytes, kind, self._stream))

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record a CUDA graph; raises `EngineError` for work that cannot be captured."""
        api = self._api
        # Thread-local: another thread may allocate while this one captures.
        mode = api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(api.cudaStreamBeginCapture(self._stream, mode))
        try:
            enqueue()
        except BaseException:  # a stream that is left recording takes no work any more
            _, abandoned = api.cudaStreamEndCapture(self._stream)
            if abandoned is not None:
                api.cudaGraphDestroy(abandoned)
            raise
        graph = checked(api.cudaStreamEndCapture(self._stream))
        try:
            launchable = checked(api.cudaGraphInstantiate(graph, 0))
        finally:
            api.cudaGraphDestroy(graph)
        self._graphs.append(launchable)
        return lambda: checked(api.cudaGraphLaunch(launchable, self._stream))

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        checked(self._api.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        """Free the stream and its graphs."""
        while self._graphs:
            self._api.cudaGraphExecDestroy(self._graphs.pop())
        self._api.cudaStreamDestroy(self._stream)

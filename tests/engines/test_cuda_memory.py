"""How CUDA is called, over one that is made up: that the real one does as it does, nobody has seen.

The signatures are those of cuda-bindings 13: every call gives its code first, then what it made.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from latentrt.bundle.errors import EngineError
from latentrt.engines.cuda import memory as cuda_memory
from latentrt.engines.cuda.memory import CudaMemory

SUCCESS = SimpleNamespace(name="cudaSuccess", value=0)
FAILURE = SimpleNamespace(name="cudaErrorStreamCaptureInvalidated", value=901)


class Cuda:
    """Writes down what it is called for; what `failing` names fails."""

    def __init__(self) -> None:
        self.cudaStreamNonBlocking = 1
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="own")
        self.cudaMemcpyKind = SimpleNamespace(
            cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down"
        )
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self.block = ctypes.create_string_buffer(64)

    def __getattr__(self, name: str) -> Any:
        given = {
            "cudaStreamCreateWithFlags": 7,
            "cudaStreamEndCapture": "graph",
            "cudaGraphInstantiate": "launchable",
            "cudaMalloc": 4096,
            "cudaMallocHost": ctypes.addressof(self.block),
        }

        def call(*arguments: object) -> tuple[object, ...]:
            self.calls.append(" ".join(map(str, (name, *arguments))))
            if name in self.failing:
                return (FAILURE, None) if name in given else (FAILURE,)
            return (SUCCESS, given[name]) if name in given else (SUCCESS,)

        return call


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    monkeypatch.setattr(cuda_memory, "cuda", lambda: made)
    return made


def test_a_captured_graph_is_instantiated_once_and_launched_every_time(cuda: Cuda) -> None:
    stream = CudaMemory().stream()
    replay = stream.capture(lambda: cuda.calls.append("work"))
    assert cuda.calls == [
        "cudaStreamCreateWithFlags 1",
        "cudaStreamBeginCapture 7 own",
        "work",
        "cudaStreamEndCapture 7",
        "cudaGraphInstantiate graph 0",
        "cudaGraphDestroy graph",
    ]
    cuda.calls.clear()
    replay()
    replay()
    assert cuda.calls == ["cudaGraphLaunch launchable 7"] * 2


@pytest.mark.parametrize("error", [EngineError("no"), KeyboardInterrupt()])
def test_after_a_failed_capture_the_stream_takes_work_again(
    cuda: Cuda, error: BaseException
) -> None:
    def stop() -> None:
        raise error

    stream = CudaMemory().stream()
    with pytest.raises(type(error)):
        stream.capture(stop)
    assert cuda.calls[2:] == ["cudaStreamEndCapture 7", "cudaGraphDestroy graph"]


def test_a_capture_that_became_invalid_is_an_error_and_makes_no_graph(cuda: Cuda) -> None:
    cuda.failing = {"cudaStreamEndCapture"}
    stream = CudaMemory().stream()
    with pytest.raises(EngineError, match="cudaErrorStreamCaptureInvalidated"):
        stream.capture(lambda: None)
    assert cuda.calls[-1] == "cudaStreamEndCapture 7"


def test_pinned_bytes_are_the_memory_that_cuda_gave(cuda: Cuda) -> None:
    memory = CudaMemory()
    pinned = memory.allocate_host(64)
    pinned[:] = 5
    assert cuda.block.raw == b"\x05" * 64
    stream = memory.stream()
    stream.upload(4096, pinned)
    stream.download(pinned, 4096)
    address = ctypes.addressof(cuda.block)
    assert cuda.calls[2:] == [
        f"cudaMemcpyAsync 4096 {address} 64 up 7",
        f"cudaMemcpyAsync {address} 4096 64 down 7",
    ]
    memory.free_host(pinned)
    assert cuda.calls[-1] == f"cudaFreeHost {address}"


def test_everything_is_freed_though_cuda_says_that_an_earlier_call_failed(cuda: Cuda) -> None:
    memory = CudaMemory()
    stream = memory.stream()
    stream.capture(lambda: None)
    cuda.failing = {"cudaFree", "cudaFreeHost", "cudaGraphExecDestroy", "cudaStreamDestroy"}
    cuda.calls.clear()
    memory.free(memory.allocate(8))
    memory.free_host(memory.allocate_host(8))
    stream.close()
    assert [call.split()[0] for call in cuda.calls] == [
        "cudaMalloc", "cudaFree", "cudaMallocHost", "cudaFreeHost", "cudaGraphExecDestroy",
        "cudaStreamDestroy",
    ]  # fmt: skip

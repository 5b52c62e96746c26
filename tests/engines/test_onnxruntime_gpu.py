"""ONNX Runtime's providers for NVIDIA's GPUs: what is missing, and what they are asked for.

No test here runs on a GPU. Sessions are the CPU's, behind a stand-in that claims to be a provider.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime
import pytest
from tests.engines.test_onnxruntime import Host, arrays

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BuildFailed, InputError, ShapeNotBuilt, Unavailable
from latentrt.bundle.golden import Difference
from latentrt.engines.cache.cache import Cache
from latentrt.engines.cuda import libraries as cuda_libraries
from latentrt.engines.cuda.device import Gpu, Missing
from latentrt.engines.engine import Blueprint
from latentrt.engines.onnxruntime import gpu as onnxruntime_gpu
from latentrt.engines.onnxruntime import tensorrt as onnxruntime_tensorrt
from latentrt.engines.onnxruntime.gpu import GpuProvider
from latentrt.engines.onnxruntime.options import OnnxRuntimeTensorRtOptions
from latentrt.engines.registry import BACKENDS, Chosen, backend, choose

CUDA = "onnxruntime-cuda"
TENSORRT = "onnxruntime-tensorrt"
RTX = "onnxruntime-tensorrt-rtx"
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
SIZES = {"batch": 2, "height": 6, "width": 10, "sequence": 11}
L4 = Gpu("NVIDIA L4", "sm89", "13.2")

each_provider = pytest.mark.parametrize("name", [CUDA, TENSORRT, RTX])


def provider(name: str) -> GpuProvider:
    found = backend(name).compiler
    assert isinstance(found, GpuProvider)
    return found


# What is missing.


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Missing("no NVIDIA driver was found", "install it")
    monkeypatch.setattr(onnxruntime_gpu, "gpu", lambda: missing)


@pytest.fixture
def l4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_gpu, "gpu", lambda: L4)


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The only wheels of NVIDIA's libraries that are installed, and nothing said of TF32."""
    found = {"nvidia-cublas": "13.1.0", "nvidia-cudnn-cu13": "9.14.0"}
    real = importlib.metadata.version

    def version(name: str) -> str:
        if not name.startswith("nvidia-"):
            return real(name)
        if name not in found:
            raise PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(cuda_libraries.importlib.metadata, "version", version)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return found


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An onnxruntime that can do nothing, and the folder where its libraries would be."""
    pretend(monkeypatch, "onnxruntime", tmp_path / "__init__.py")
    (tmp_path / "capi").mkdir()
    return tmp_path / "capi"


def pretend(patch: pytest.MonkeyPatch, name: str, origin: Path | None = None) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, origin=str(origin))
    patch.setitem(sys.modules, name, module)


@each_provider
def test_without_onnx_runtime_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status = backend(name).status()
    assert status.version is None
    assert status.problem == "ONNX Runtime is not installed"
    extra = "onnxruntime-gpu" if name == CUDA else name
    assert status.remedy == f"pip install 'latentrt[{extra}]'"
    with pytest.raises(Unavailable, match=rf"engine {name}: ONNX Runtime is not installed; pip"):
        choose(name, "float32")
    with pytest.raises(Unavailable, match=rf"engine {name}: ONNX Runtime is not installed; pip"):
        backend(name).compiler.identity(None)


@pytest.mark.usefixtures("package")
def test_the_cpu_package_has_to_go_before_the_gpu_package_comes() -> None:
    status = backend(CUDA).status()
    assert status.version is None
    assert status.problem.endswith("is the CPU package, without a CUDA provider")
    assert status.remedy == "pip uninstall onnxruntime; pip install 'latentrt[onnxruntime-gpu]'"
    status = backend(TENSORRT).status()
    assert status.problem.endswith("is the CPU package, without a TensorRT provider")
    assert status.remedy.endswith("; pip install 'latentrt[onnxruntime-tensorrt]'")


@pytest.mark.usefixtures("no_gpu")
def test_with_the_gpu_package_other_missing_parts_are_named(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("cuda", "tensorrt"):
        (package / f"libonnxruntime_providers_{library}.so").touch()
    status = backend(CUDA).status()
    assert (status.problem, status.remedy) == ("no NVIDIA driver was found", "install it")
    assert status.version is not None
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(onnxruntime_tensorrt.ctypes.util, "find_library", lambda _: None)
    assert "libnvinfer" in backend(TENSORRT).status().problem
    pretend(monkeypatch, "tensorrt")
    assert backend(TENSORRT).status().problem == "no NVIDIA driver was found"


def test_the_plugin_says_what_is_missing_and_which_gpus_it_is_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, PLUGIN, None)
    status = backend(RTX).status()
    assert status.version is None
    assert "plugin of ONNX Runtime is not installed" in status.problem
    assert status.remedy == "pip install 'latentrt[onnxruntime-tensorrt-rtx]'"
    pretend(monkeypatch, PLUGIN)
    for target, fits in (("sm86", True), ("sm89", True), ("sm90", False), ("sm120", True)):
        device = Gpu("NVIDIA X", target, "13.2")
        monkeypatch.setattr(onnxruntime_gpu, "gpu", lambda device=device: device)
        status = backend(RTX).status()
        assert status.usable == fits
        if not fits:
            assert status.problem == "the TensorRT for RTX plugin is not for NVIDIA X (sm90)"
            with pytest.raises(Unavailable, match=r"is not for NVIDIA X \(sm90\); pip install"):
                backend(RTX).compiler.identity(None)


@pytest.mark.usefixtures("l4")
def test_auto_takes_no_unverified_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, PLUGIN)
    assert backend(RTX).status().usable
    assert choose(RTX, "float32").name == RTX
    assert choose("auto", "float32").name not in (CUDA, TENSORRT, RTX)


def test_asking_for_the_status_loads_nothing() -> None:
    heavy = ("onnxruntime", "onnx", "tensorrt", PLUGIN)
    program = (
        "import sys\n"
        "from latentrt.engines.registry import backend\n"
        f"for name in {[CUDA, TENSORRT, RTX]}:\n"
        "    backend(name).status()\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_plugin_that_does_not_load_says_what_onnx_runtime_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "plugin.so"
    library.write_text("no library")
    plugin = SimpleNamespace(get_library_path=lambda: str(library))
    monkeypatch.setitem(sys.modules, PLUGIN, plugin)  # registered with the real onnxruntime
    with pytest.raises(BuildFailed, match=r"does not load NvTensorRT.*: .*plugin\.so.*"):
        onnxruntime_tensorrt.rtx_attach(onnxruntime, onnxruntime.SessionOptions(), "fp32", None)


def test_a_precision_that_a_provider_has_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"precision: expected one of fp32 for onnxruntime-cuda"):
        choose(CUDA, "bfloat16", "bf16")
    assert list(BACKENDS)[:4] == ["tensorrt", RTX, TENSORRT, CUDA]


# What they are asked for, over a stand-in.


class Claims:
    """A stand-in for onnxruntime: the CPU's sessions, which claim to be of another provider."""

    RunOptions = onnxruntime.RunOptions

    def __init__(self, claimed: str) -> None:
        self.claimed = claimed
        self.asked: list[Any] = []
        self.devices: list[Any] = []
        self.graphs: list[bytes] = []
        asked = self.asked

        class SessionOptions(onnxruntime.SessionOptions):
            def add_provider_for_devices(self, devices: Any, options: Any) -> None:
                asked.append((devices[0].ep_name, options))

        self.SessionOptions = SessionOptions

    def preload_dlls(self, directory: str) -> None:
        assert directory == ""

    def get_ep_devices(self) -> list[Any]:
        return self.devices

    def register_execution_provider_library(self, name: str, path: str) -> None:
        assert not self.devices
        self.devices.append(SimpleNamespace(ep_name=name))

    def InferenceSession(self, graph: bytes, options: Any, **more: Any) -> Any:  # noqa: N802
        assert more.pop("enable_fallback") == 0
        self.asked.extend(more.pop("providers") or [])
        self.graphs.append(graph)
        for entry in ("disable_cpu_ep_fallback", "record_ep_graph_assignment_info"):
            assert options.get_session_config_entry(f"session.{entry}") == "1"
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
        cpu = ["CPUExecutionProvider"]
        return Claimed(onnxruntime.InferenceSession(graph, options, providers=cpu), self.claimed)


class Claimed:
    """A session of the CPU whose device is called cuda."""

    def __init__(self, inner: Any, claimed: str) -> None:
        self.inner = inner
        self.claimed = claimed

    def get_providers(self) -> list[str]:
        return [self.claimed, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        node = SimpleNamespace(name="node", op_type="Conv")
        return [SimpleNamespace(ep_name=self.claimed, get_nodes=lambda: [node])]

    def io_binding(self) -> Any:
        bound = self.inner.io_binding()

        def on_cpu(bind: Callable[..., None]) -> Callable[..., None]:
            def call(name: str, device: str, *more: Any) -> None:
                assert device == "cuda"
                bind(name, "cpu", *more)

            return call

        inputs, outputs = on_cpu(bound.bind_input), on_cpu(bound.bind_output)
        return SimpleNamespace(bind_input=inputs, bind_output=outputs, inner=bound)

    def run_with_iobinding(self, bound: Any, options: Any) -> None:
        self.inner.run_with_iobinding(bound.inner, options)


@pytest.mark.usefixtures("l4")
@pytest.mark.parametrize(
    ("name", "claimed", "expected"),
    [
        (
            CUDA,
            "CUDAExecutionProvider",
            {"device_id": "0", "enable_cuda_graph": "1", "use_tf32": "0"},
        ),
        (
            TENSORRT,
            "TensorrtExecutionProvider",
            {
                "device_id": "0",
                "trt_fp16_enable": "0",
                "trt_bf16_enable": "0",
                "trt_builder_optimization_level": "5",
                "trt_cuda_graph_enable": "1",
                "trt_engine_cache_enable": "0",
                "trt_timing_cache_enable": "0",
            },
        ),
        (RTX, "NvTensorRTRTXExecutionProvider", {"enable_cuda_graph": "1"}),
    ],
)
def test_an_engine_of_a_stand_in_is_bound_and_asked_for_as_it_should(
    bundle: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    wheels: dict[str, str],
    name: str,
    claimed: str,
    expected: dict[str, str],
) -> None:
    stand_in, host = Claims(claimed), Host()
    monkeypatch.setattr(onnxruntime_gpu, "package", lambda *_: stand_in)
    monkeypatch.setattr(onnxruntime_gpu, "CudaMemory", lambda: host)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    plugin = SimpleNamespace(get_library_path=lambda: "plugin.so")
    monkeypatch.setitem(sys.modules, PLUGIN, plugin)
    chosen = replace(provider(name), installed=lambda: {"version": "1.31.1"})
    blueprint = Blueprint.of(Bundle.open(bundle("heads")), "unet", SIZES)
    plain = backend("onnxruntime").compile(blueprint)
    inputs = arrays(plain, 0)
    for _ in range(2):  # a plugin is registered once
        engine = chosen.load(blueprint, OnnxRuntimeTensorRtOptions(level=5), Path())
        found = engine(inputs)["model_output"]
        # A graph that was folded adds up in another order.
        assert Difference.between(found, plain(inputs)["model_output"]).relative < 1e-6
        engine.close()
        assert not host.arrays
    assert stand_in.asked == [(claimed, expected)] * 2
    # The CUDA provider has none of these.
    assert all((b"GroupNormalization" in g) == (name != CUDA) for g in stand_in.graphs)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert chosen.identity(None) == {
        "version": "1.31.1",
        **wheels,
        "NVIDIA_TF32_OVERRIDE": "0",
        "device": "NVIDIA L4",
        "target": "sm89",
        "cuda": "13.2",
        "driver": "unknown",
    }


@pytest.mark.parametrize(("precision", "flags"), [("fp32", "00"), ("fp16", "10"), ("bf16", "01")])
def test_tensorrt_may_compute_in_the_graphs_precision_and_no_other(
    precision: str, flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    stand_in = Claims("")
    ((_, options),) = onnxruntime_tensorrt.attach(
        stand_in, None, precision, OnnxRuntimeTensorRtOptions()
    )
    assert isinstance(options, dict)
    assert options["trt_fp16_enable"] + options["trt_bf16_enable"] == flags


# What decides the result beside ONNX Runtime and the GPU.


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("nvidia-cudnn-cu13", "nvidia-cudnn-cu13 9.14.0 -> 9.15.0"),
        ("NVIDIA_TF32_OVERRIDE", "NVIDIA_TF32_OVERRIDE 0 -> unset"),
        ("driver", "driver 580.65.06 -> 580.95.05"),
    ],
)
def test_a_change_that_may_change_the_result_is_a_miss_that_names_it(
    bundle: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wheels: dict[str, str],
    change: str,
    named: str,
) -> None:
    compiler = replace(provider(TENSORRT), installed=lambda: {"version": "1.31.1"})
    chosen = Chosen(replace(backend(TENSORRT), find=lambda: compiler))
    cache = Cache(tmp_path / "cache")
    blueprint = Blueprint.of(Bundle.open(bundle("heads")), "unet", SIZES)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(onnxruntime_gpu, "gpu", lambda: replace(L4, driver="580.65.06"))
    cache.store(chosen, blueprint, pending="never")
    assert cache.store(chosen, blueprint, pending="never")[0]
    if change == "driver":
        monkeypatch.setattr(onnxruntime_gpu, "gpu", lambda: replace(L4, driver="580.95.05"))
    elif change in wheels:
        wheels[change] = "9.15.0"
    else:
        monkeypatch.delenv(change)
    with pytest.raises(ShapeNotBuilt, match=rf"^unet: not built: {TENSORRT} {named}$"):
        cache.open(chosen, blueprint, build="never")


def test_of_two_threads_that_load_the_plugin_at_once_one_registers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in, asked = Claims(""), itertools.count(1)
    both_asked, begin = threading.Event(), threading.Barrier(2)
    register = stand_in.register_execution_provider_library
    failed: list[BaseException] = []

    def devices() -> list[Any]:
        found = list(stand_in.devices)
        if next(asked) == 2:
            both_asked.set()
        return found

    def slowly(name: str, path: str) -> None:
        both_asked.wait(0.2)  # which the other does not, where it has to wait
        register(name, path)

    def attach() -> None:
        begin.wait(timeout=60)
        try:
            options = stand_in.SessionOptions()
            onnxruntime_tensorrt.rtx_attach(stand_in, options, "fp32", None)
        except BaseException as error:
            failed.append(error)

    plugin = SimpleNamespace(get_library_path=lambda: "plugin.so")
    monkeypatch.setitem(sys.modules, PLUGIN, plugin)
    monkeypatch.setattr(stand_in, "get_ep_devices", devices)
    monkeypatch.setattr(stand_in, "register_execution_provider_library", slowly)
    threads = [threading.Thread(target=attach) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failed
    assert len(stand_in.devices) == 1

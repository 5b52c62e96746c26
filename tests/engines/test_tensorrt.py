"""TensorRT for RTX's own compiler, which needs no GPU for a target that is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BuildFailed, InputError, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda.device import Gpu, Missing
from latentrt.engines.engine import Blueprint
from latentrt.engines.tensorrt import backend as tensorrt
from latentrt.engines.tensorrt import library as tensorrt_library
from latentrt.engines.tensorrt.callbacks import log, monitor
from latentrt.engines.tensorrt.library import TensorRtLibrary
from latentrt.engines.tensorrt.options import TensorRtOptions
from latentrt.export.export import export

ROOT = Path(__file__).parents[2]
Bundles = Callable[[str], Path]

SIZES = {
    "text_encoder": {"batch": 1, "sequence": 77},
    "text_encoder_2": {"batch": 1, "sequence": 77},
    "unet": {"batch": 2, "height": 16, "width": 16, "sequence": 77},
    # One head of 256 tokens alone TensorRT computes with two matrix multiplications.
    "vae_decoder": {"batch": 2, "height": 16, "width": 16},
    "vae_encoder": {"batch": 2, "image_height": 128, "image_width": 128},
}
OTHER_SIZES = {
    "text_encoder": {"batch": 3, "sequence": 5},
    "unet": {"batch": 3, "height": 9, "width": 17, "sequence": 154},
    "vae_decoder": {"batch": 2, "height": 1, "width": 5},
    "vae_encoder": {"batch": 2, "image_height": 72, "image_width": 136},
}
# Kernels of fused attention are named so, and a plan of version 1.7.1 names each three times.
FUSED = b"_gemm_mha_v2_0x"
NO_DRIVER = Missing("no NVIDIA driver was found", "install it")


@pytest.fixture
def half(bundle: Bundles) -> Bundle:
    """models/shapes in float16."""
    return Bundle.open(bundle("shapes-fp16"))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without an NVIDIA driver, wherever the test runs."""
    monkeypatch.setattr(tensorrt, "gpu", lambda: NO_DRIVER)


@pytest.fixture
def data_centre(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package named `tensorrt` that can do nothing."""
    module = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)
    module.__dict__["__version__"] = "11.0.0"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def attentions(blueprint: Blueprint) -> int:
    graph = onnx.load(blueprint.graph, load_external_data=False).graph
    return sum(node.op_type == "Attention" for node in graph.node)


def weight_bytes(blueprint: Blueprint) -> int:
    """What a component's own weights take as they are stored."""
    graph = onnx.load(blueprint.graph, load_external_data=False).graph
    stored = (t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL)
    return sum(int(f.value) for t in stored for f in t.external_data if f.key == "length")


def one_node(folder: Path, operator: str) -> Blueprint:
    """A graph of one node, which has no weights."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], name="the_node")],
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", 4, 4])],
        [value("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    path = folder / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    weights = folder / "weights" / "none.safetensors"
    x, y = TensorSpec("x", ("batch", 4, 4)), TensorSpec("y", ("batch",))
    return Blueprint("unet", path, weights, (x,), (y,), {"batch": 1})


def plan_of(
    blueprint: Blueprint,
    folder: Path,
    precision: str = "fp32",
    target: str = "sm89",
    **more: Any,
) -> bytes:
    options = TensorRtOptions(target=target)
    tensorrt.build(blueprint.at(precision), options, folder, **more)
    return (folder / tensorrt.PLAN).read_bytes()


@pytest.mark.parametrize("target", ["sm89", "sm120"])
@pytest.mark.parametrize("component", sorted(OTHER_SIZES))
def test_every_component_builds_for_a_named_gpu_with_all_attention_fused(
    half: Bundle, component: str, target: str, tmp_path: Path
) -> None:
    blueprint = Blueprint.of(half, component, SIZES[component])
    plan = plan_of(blueprint, tmp_path, "fp16", target)
    assert len(plan) > weight_bytes(blueprint)  # which are in it
    assert attentions(blueprint) > 0
    assert plan.count(FUSED) == 3 * attentions(blueprint)


@pytest.mark.slow
@pytest.mark.parametrize("component", sorted(OTHER_SIZES))
def test_every_component_builds_at_sizes_of_all_kinds(
    half: Bundle, component: str, tmp_path: Path
) -> None:
    blueprint = Blueprint.of(half, component, OTHER_SIZES[component])
    assert len(plan_of(blueprint, tmp_path, "fp16")) > blueprint.weights.stat().st_size


@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_fp32_graphs_build_though_no_fused_attention_is_for_them(
    bundle: Bundles, component: str, tmp_path: Path
) -> None:
    blueprint = Blueprint.of(Bundle.open(bundle("heads")), component, SIZES[component])
    assert FUSED not in plan_of(blueprint, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("component", sorted(SIZES))
def test_every_graph_of_sdxl_builds_in_fp32(
    bundle: Bundles, component: str, tmp_path: Path
) -> None:
    blueprint = Blueprint.of(Bundle.open(bundle("xl")), component, SIZES[component])
    assert FUSED not in plan_of(blueprint, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
def test_every_bfloat16_graph_builds_in_its_own_precision_and_in_fp32(
    bundle: Bundles, component: str, precision: str, tmp_path: Path
) -> None:
    blueprint = Blueprint.of(Bundle.open(bundle("xl-bf16")), component, SIZES[component])
    plan = plan_of(blueprint, tmp_path, precision)
    assert len(plan) > weight_bytes(blueprint)


@pytest.mark.parametrize("component", ["text_encoder", "vae_decoder"])
def test_fp32_on_stored_halves_is_built_of_weights_twice_as_wide(
    half: Bundle, component: str, tmp_path: Path
) -> None:
    blueprint = Blueprint.of(half, component, SIZES[component])
    plan = plan_of(blueprint, tmp_path)
    assert len(plan) > 2 * weight_bytes(blueprint)
    assert FUSED not in plan
    for precision, dtype in (("fp32", "float32"), ("fp16", "float16")):
        at = blueprint.at(precision)
        assert {s.dtype for s in (*at.fixed_inputs, *at.fixed_outputs)} == {dtype}


def test_the_weights_of_another_bundle_are_the_ones_built_in(half: Bundle, tmp_path: Path) -> None:
    blueprint = Blueprint.of(half, "vae_encoder", SIZES["vae_encoder"])
    elsewhere = tmp_path / blueprint.graph.name
    elsewhere.write_bytes(blueprint.graph.read_bytes())
    moved = Blueprint(
        component=blueprint.component,
        graph=elsewhere,
        weights=blueprint.weights,
        inputs=blueprint.inputs,
        outputs=blueprint.outputs,
        sizes=blueprint.sizes,
        dtype=blueprint.dtype,
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert plan_of(moved, tmp_path / "a", "fp16") == plan_of(blueprint, tmp_path / "b", "fp16")


@pytest.mark.slow
def test_the_unet_of_sd15_builds_in_float16(tmp_path: Path) -> None:
    export("random:sd15", tmp_path / "bundle", dtype="fp16", golden=False)
    sizes = {"batch": 2, "height": 64, "width": 64, "sequence": 77}
    blueprint = Blueprint.of(Bundle.open(tmp_path / "bundle"), "unet", sizes)
    plan = plan_of(blueprint, tmp_path, "fp16")
    assert len(plan) > blueprint.weights.stat().st_size
    assert attentions(blueprint) == 32
    assert plan.count(FUSED) == 3 * 32


@pytest.mark.parametrize("target", ["sm90", "current", "SM89", ""])
def test_a_target_that_the_library_has_not_is_named(tmp_path: Path, target: str) -> None:
    message = rf"target: expected one of sm75, sm80, .*sm89, .*, got '{target}'"
    with pytest.raises(InputError, match=message):
        tensorrt.build(one_node(tmp_path, "Relu"), TensorRtOptions(target=target), tmp_path)
    with pytest.raises(InputError, match=message):
        tensorrt.identity(TensorRtOptions(target=target))


def test_a_graph_that_does_not_parse_names_the_node(tmp_path: Path) -> None:
    message = r"^unet: TensorRT does not parse node 'the_node' \(Det\): UNSUPPORTED_NODE"
    with pytest.raises(BuildFailed, match=message):
        plan_of(one_node(tmp_path, "Det"), tmp_path)
    assert not (tmp_path / tensorrt.PLAN).exists()


def test_a_damaged_graph_and_missing_weights_are_build_failures(
    half: Bundle, tmp_path: Path
) -> None:
    blueprint = one_node(tmp_path, "Relu")
    blueprint.graph.write_bytes(half.graph("unet").read_bytes()[:1000])
    with pytest.raises(BuildFailed, match=r"^unet: .* parse the graph: .*Failed to parse the"):
        plan_of(blueprint, tmp_path)
    blueprint.graph.write_bytes(half.graph("unet").read_bytes())
    # The first that the graph has.
    with pytest.raises(BuildFailed, match=r"^unet: .*initializer: conv_in\.weight"):
        plan_of(blueprint, tmp_path)


def test_sizes_that_do_not_fit_the_graph_are_build_failures(half: Bundle, tmp_path: Path) -> None:
    blueprint = Blueprint.of(half, "text_encoder", {"batch": 1, "sequence": 78})
    with pytest.raises(BuildFailed, match=r"^text_encoder: TensorRT "):
        plan_of(blueprint, tmp_path, "fp16")


def test_progress_tells_every_phase_to_its_end(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    plan_of(one_node(tmp_path, "Relu"), tmp_path, progress=lambda *a: told.append(a))
    phases = list(dict.fromkeys(phase for phase, _, _ in told))
    assert "Building engine" in phases
    for phase in phases:
        steps = [(done, total) for name, done, total in told if name == phase]
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1]
        assert all(done <= total for done, total in steps)


def test_an_exception_of_progress_stops_the_build(tmp_path: Path) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan_of(one_node(tmp_path, "Relu"), tmp_path, progress=stop)
    watch = monitor(tensorrt_library.library_for("sm89").api, stop)
    watch.phase_start("phase", None, 2)
    assert not watch.step_complete("phase", 0)
    assert not (tmp_path / tensorrt.PLAN).exists()


def test_a_plans_identity_has_everything_it_depends_on(
    monkeypatch: pytest.MonkeyPatch, data_centre: ModuleType
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    named = tensorrt.identity(TensorRtOptions(target="sm89"))
    assert named["library"] == "tensorrt-rtx"
    assert named["target"] == "sm89"
    assert tensorrt.identity(TensorRtOptions(target="sm120")) != named
    device = Gpu("NVIDIA H100", "sm90", "13.0", "580.95.05")
    monkeypatch.setattr(tensorrt, "gpu", lambda: device)
    facts = {
        "library": "tensorrt",
        "version": "11.0.0",
        "NVIDIA_TF32_OVERRIDE": "unset",
        "target": "sm90",
        "device": "NVIDIA H100",
        "cuda": "13.0",
        "driver": "580.95.05",
    }
    assert tensorrt.identity(TensorRtOptions()) == facts
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert tensorrt.identity(TensorRtOptions()) == {**facts, "NVIDIA_TF32_OVERRIDE": "0"}


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_only_a_named_target_is_built_for(tmp_path: Path) -> None:
    blueprint = one_node(tmp_path, "Relu")
    status = tensorrt.status()
    assert not status.usable
    assert status.problem.startswith("no NVIDIA driver was found; it builds for sm75, sm80")
    assert status.remedy == "install it"
    for call in (tensorrt.build, tensorrt.load):
        with pytest.raises(Unavailable, match=r"^engine tensorrt: no NVIDIA driver was found; "):
            call(blueprint, TensorRtOptions(), tmp_path)
    assert plan_of(blueprint, tmp_path)


@pytest.mark.parametrize(
    ("absent", "problem"),
    [
        (("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings"), "is not installed"),
        (("onnxruntime_ep_nv_tensorrt_rtx",), "lacks its shared libraries"),
        (("tensorrt_rtx_bindings",), "lacks its Python bindings"),
    ],
)
def test_the_part_of_the_library_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, absent: tuple[str, ...], problem: str
) -> None:
    for name in (*absent, "tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)
    status = tensorrt.status()
    assert status.version is None
    assert problem in status.problem
    assert status.remedy.startswith("pip install 'latentrt[tensorrt-rtx]'")
    with pytest.raises(Unavailable, match=problem):
        plan_of(one_node(tmp_path, "Relu"), tmp_path)


def test_libraries_and_bindings_of_two_versions_are_not_loaded_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensorrt_library.importlib.metadata, "version", lambda _: "1.7.10.2")
    found = tensorrt_library.installed_rtx()
    assert isinstance(found, Missing)
    assert "libraries are 1.7.1, its bindings 1.7.10.2" in found.problem


def test_bindings_of_another_distribution_are_missing_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(tensorrt_library.importlib.metadata, "version", version)
    status = tensorrt.status()
    assert status.version is None
    assert status.problem.endswith("bindings are not those of tensorrt-rtx-cu13-bindings")
    assert status.remedy == "pip install 'latentrt[tensorrt-rtx]'"


def test_a_folder_that_is_named_as_the_data_centre_package_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    # Set, so that what is imported is gone after the test.
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    del sys.modules["tensorrt"]
    status = tensorrt.status()
    assert status.version is None
    assert status.problem.startswith("tensorrt cannot be imported (module 'tensorrt' has no")


def test_the_data_centre_package_comes_first_but_builds_for_no_other_gpu(
    data_centre: ModuleType,
) -> None:
    found = tensorrt_library.installed()
    assert isinstance(found, TensorRtLibrary)
    assert (found.name, found.version, found.targets) == ("tensorrt", "11.0.0", ())
    assert tensorrt_library.library_for("sm89").name == "tensorrt-rtx"


def test_tensorrt_for_rtx_says_when_it_is_not_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tensorrt, "gpu", lambda: Gpu("NVIDIA H100", "sm90", "13.0"))
    status = tensorrt.status()
    assert status.problem == "TensorRT for RTX has no kernels for NVIDIA H100 (sm90)"
    assert status.remedy == "pip install 'latentrt[tensorrt]'"
    with pytest.raises(Unavailable, match=r"no kernels for NVIDIA H100 \(sm90\)"):
        tensorrt.build(one_node(tmp_path, "Relu"), TensorRtOptions(), tmp_path)


# TensorRT for RTX stands in for the data-centre package here, and says that its own cache is empty.
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_the_data_centre_package_keeps_its_timings_of_each_gpu_and_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rtx = tensorrt_library.library_for("sm89")
    monkeypatch.setattr(tensorrt, "_capability", lambda *_: rtx.capability("sm89"))
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "cache"))
    for version, target in (("11", "sm90"), ("11", "sm90"), ("12", "sm90"), ("12", "sm100")):
        library = TensorRtLibrary("tensorrt", version, rtx.api)
        monkeypatch.setattr(tensorrt, "library_for", lambda _, library=library: library)
        monkeypatch.setattr(tensorrt, "gpu", lambda target=target: Gpu("a GPU", target, "13.0"))
        plan_of(one_node(tmp_path, "Relu"), tmp_path)
    kept = [p for p in (tmp_path / "cache" / "timings").iterdir() if p.stat().st_size]
    names = ["tensorrt-11-sm90.cache", "tensorrt-12-sm100.cache", "tensorrt-12-sm90.cache"]
    assert sorted(p.name for p in kept) == names
    plan_of(one_node(tmp_path, "Relu"), tmp_path, timings=tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["tensorrt-12-sm100.cache"]


# In a process of its own: one that runs tests side by side with others must not be interrupted.
INTERRUPTED_BUILD = """
import json, signal, sys, threading, time
from pathlib import Path
from tests.engines.test_tensorrt import one_node, plan_of
from latentrt.engines.tensorrt import backend as tensorrt

signal.signal(signal.SIGINT, signal.default_int_handler)
folder, told, made = Path(sys.argv[1]), [], []
monitor = tensorrt.monitor

def kept(*arguments):
    made.append(monitor(*arguments))
    return made[0]

def interrupt(*_):
    told.append(threading.current_thread() is threading.main_thread())
    if len(told) == 1:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        # Until the main thread has seen it.
        until = time.monotonic() + 10
        while made[0].error is None and time.monotonic() < until:
            time.sleep(0.001)

tensorrt.monitor = kept
try:
    plan_of(one_node(folder, "Relu"), folder, progress=interrupt)
    raised = ""
except KeyboardInterrupt as error:
    raised = type(error).__name__
print(json.dumps({"raised": raised, "told": told, "left": [p.name for p in folder.iterdir()]}))
"""


def test_an_interrupt_stops_the_build_outside_callbacks(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED_BUILD, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    # TensorRT swallows what is raised where it calls back, and only the main thread is interrupted:
    # it is told of one phase, in another thread, and then of no more.
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"raised": "KeyboardInterrupt", "told": [False], "left": ["graph.onnx"]}


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_without_weights_takes_a_gpu_to_build(tmp_path: Path) -> None:
    message = "a plan without weights is built on a GPU only; no NVIDIA driver was found; install"
    with pytest.raises(Unavailable, match=message):
        tensorrt.build(one_node(tmp_path, "Relu"), TensorRtOptions(stripped=True), tmp_path)


def test_a_plan_without_weights_is_built_to_take_back_the_same() -> None:
    library = tensorrt_library.library_for("sm89")
    heard = log(library.api)
    builder = library.api.Builder(heard)
    flags = library.api.BuilderFlag
    for stripped in (False, True):
        options = TensorRtOptions(stripped=stripped)
        config: Any = tensorrt._config(library, builder, None, options)  # pyright: ignore[reportPrivateUsage]
        assert config.get_flag(flags.STRIP_PLAN) is stripped
        assert config.get_flag(flags.REFIT_IDENTICAL) is stripped
        assert not config.get_flag(flags.REFIT)

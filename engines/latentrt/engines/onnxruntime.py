"""ONNX Runtime on the CPU.

Sizes are fixed by overriding the graph's free dimensions when the session is made, so shape
arithmetic folds away. Weights are mapped from the bundle's own file: the graph names only a file
and byte ranges, and ONNX Runtime is told which folder that name is relative to.

Nothing is stored but that an engine was verified. ONNX Runtime can write its optimised graph, yet
for an SD 1.5 U-Net at 64x64 that is 3.4 GB of rearranged weights for each shape, 11 s to write;
loading it takes 1 s instead of 8 s, but only after 3.4 GB have been hashed.
"""

# The package has no type stubs; everything taken from it is annotated where it is used.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.backends import Progress, Status, cpu_identity
from latentrt.engines.engine import Arrays, Blueprint, Options, check_inputs

NAME: Final = "onnxruntime"
PRECISIONS: Final = {"float32": ("fp32",), "float16": ("fp32",)}
OPTIONS: Final = frozenset({"threads", "arena"})
_REMEDY: Final = "pip install 'latentrt[onnxruntime]'"


def status() -> Status:
    """Installed or not; of its execution providers only the CPU's is used."""
    try:
        import onnxruntime
    except ImportError as error:
        return Status(NAME, None, problem=f"not installed ({error})", remedy=_REMEDY)
    return Status(NAME, str(onnxruntime.__version__), devices=("CPU",))


class OnnxRuntimeEngine:
    """A session with every dimension fixed."""

    def __init__(self, blueprint: Blueprint, session: Any) -> None:
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        self._session: Any = session

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype."""
        check_inputs(self.component, self.inputs, inputs)
        if self._session is None:
            raise Unavailable(f"{self.component}: the engine is closed")
        names = [spec.name for spec in self.outputs]
        values: list[NDArray[Any]] = self._session.run(names, dict(inputs))
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        """Free the session and its memory."""
        self._session = None


def compile(blueprint: Blueprint, options: Options) -> OnnxRuntimeEngine:
    """A session for these sizes; raises `Unavailable` or `BuildFailed`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable(f"engine {NAME}: not installed; {_REMEDY}") from error
    if any(s.dtype == "bfloat16" for s in blueprint.inputs):
        raise BuildFailed(f"{blueprint.component}: ONNX Runtime has no bfloat16 path on the CPU")
    settings: Any = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.enable_cpu_mem_arena = options.arena
    settings.enable_mem_pattern = options.arena
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    settings.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(blueprint.weights.parents[1])
    )
    for symbol, size in blueprint.sizes.items():
        settings.add_free_dimension_override_by_name(symbol, size)
    try:
        session = onnxruntime.InferenceSession(
            blueprint.graph.read_bytes(), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the package raises bare classes of its own, one a kind
        raise BuildFailed(f"{blueprint.component}: ONNX Runtime says: {error}") from error
    return OnnxRuntimeEngine(blueprint, session)


def identity(options: Options) -> dict[str, str]:
    """ONNX Runtime's version, and the CPU; raises `Unavailable`."""
    found = status()
    if found.version is None:
        raise Unavailable(f"engine {NAME}: {found.problem}; {found.remedy}")
    return {"version": found.version, **cpu_identity()}


def build(
    blueprint: Blueprint, options: Options, folder: Path, *, progress: Progress | None = None
) -> None:
    """Write nothing: loading a stored session gains nothing (see above)."""


def load(blueprint: Blueprint, options: Options, folder: Path) -> OnnxRuntimeEngine:
    """A session for these sizes, made anew; raises `Unavailable` or `BuildFailed`."""
    return compile(blueprint, options)

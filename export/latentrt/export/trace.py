"""From a config to an ONNX graph, with no weights in memory.

The module is made of fake tensors and traced with symbolic batch, height, width and sequence. Its
parameters are initialisers without bytes, until `latentrt.graphs.attach` points them at a file.
Tracing starts from a latent of odd height and width, so that one graph serves sizes whose latents
do not halve evenly.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Generator, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import onnxscript.rewriter
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import _config as symbolic

from latentrt.bundle.spec import TensorSpec
from latentrt.export.casts import border_in_float32
from latentrt.export.retype import retype
from latentrt.export.traced_modules import TRACED
from latentrt.graphs.attach import NOWHERE
from latentrt.weights.component_specs import BORDER, ComponentSpec
from latentrt.weights.source import Config

OPSET: Final = 23
EXAMPLE: Final = {
    "batch": 2,
    "height": 17,
    "width": 9,
    "sequence": 13,
    "image_height": 136,
    "image_width": 72,
}
"""Sizes that are traced; the symbolic graph serves all others.

A text of all 77 positions would make a constant of the sequence.
"""

_TORCH_DTYPES: Final = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def trace(component: ComponentSpec, config: Config, dtype: str) -> ir.Model:
    """The component's graph in opset 23, every parameter an initialiser under its own name.

    `dtype` ("float32", "float16", "bfloat16") is that of parameters and of the computation. Inputs
    and outputs have the dtype in `BORDER`. A parameter has no bytes yet.
    """
    return at_dtype(traced_at(component, config, "float16"), component, config, dtype)


def at_dtype(half: ir.Model, component: ComponentSpec, config: Config, dtype: str) -> ir.Model:
    """The same of what PyTorch traced in float16, which is changed in place."""
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    if dtype != "float16":
        retype(half, kind)
    if BORDER[dtype] != dtype:
        border_in_float32(half, kind)
    _declare(half.graph.inputs, component.inputs(config, dtype))
    _declare(half.graph.outputs, component.outputs(config, dtype))
    _forget_shapes(half)
    _externalise(half)
    return half


def traced_at(component: ComponentSpec, config: Config, dtype: str) -> ir.Model:
    """What PyTorch gives at a dtype, optimised; a parameter has no value."""
    inputs = component.inputs(config, dtype)
    outputs = component.outputs(config, dtype)
    with _default_dtype(dtype), FakeTensorMode(allow_non_fake_inputs=True), _quiet():
        module = TRACED[component.name](config).eval()
        names = set(module.state_dict())
        program = torch.onnx.export(
            _captured(module, inputs),
            input_names=[s.name for s in inputs],
            output_names=[s.name for s in outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    _optimise(program.model, names)
    return program.model


def to_bytes(model: ir.Model) -> bytes:
    """The graph as a file has it."""
    return ir.to_proto(model).SerializeToString(deterministic=True)


def _captured(
    module: torch.nn.Module, inputs: Sequence[TensorSpec]
) -> torch.export.ExportedProgram:
    # The ONNX exporter's own first attempt, without assertions at run time. It cannot write a
    # U-Net's assertions, and would capture the module again in a way that takes three times as
    # long. The patch allows a size to be 1.
    with symbolic.patch(backed_size_oblivious=True):  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        return torch.export.export(
            module,
            (),
            kwargs={s.name: _example(s) for s in inputs},
            dynamic_shapes={s.name: _dynamic(s) for s in inputs},
            strict=False,
        )


def _example(spec: TensorSpec) -> torch.Tensor:
    return torch.zeros(spec.shape(EXAMPLE), dtype=_TORCH_DTYPES[spec.dtype])


def _dynamic(spec: TensorSpec) -> dict[int, Any]:
    # A named Dim must hold for every size, but diffusers branches at batch 64 on the memory layout.
    # The graph is the same there, and yet the guard would fail the export.
    dynamic = torch.export.Dim.DYNAMIC
    return {axis: dynamic for axis, dim in enumerate(spec.dims) if isinstance(dim, str)}


def _optimise(model: ir.Model, parameters: set[str]) -> None:
    for name in parameters & set(model.graph.initializers):
        model.graph.initializers[name].const_value = None  # fake: there is nothing to read

    def should_fold(node: ir.Node) -> bool | None:
        return False if any(v is not None and v.name in parameters for v in node.inputs) else None

    # The library's own sequence without merging initialisers of equal value. Two norms that are
    # both all ones here have different values in another checkpoint.
    passes.InlinePass()(model)
    for _ in range(2):
        onnxscript.optimizer.fold_constants(model, should_fold=should_fold)
        onnxscript.rewriter.rewrite(model)
        onnxscript.optimizer.remove_unused_nodes(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.IdentityEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.TopologicalSortPass()(model)
    passes.OutputFixPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)


def _declare(values: Sequence[ir.Value], specs: tuple[TensorSpec, ...]) -> None:
    for value, spec in zip(values, specs, strict=True):
        assert value.name == spec.name
        value.shape = ir.Shape(spec.dims)


def _forget_shapes(model: ir.Model) -> None:
    # Inner shapes have the tracer's symbols; every engine infers its own once sizes are fixed.
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
                value.type = None


def _externalise(model: ir.Model) -> None:
    # A parameter has no value, and without one would not be written.
    for value in model.graph.initializers.values():
        if value.const_value is None:
            assert value.dtype is not None
            assert value.shape is not None
            value.const_value = ir.ExternalTensor(
                NOWHERE, 0, 0, value.dtype, shape=value.shape, name=value.name or ""
            )


@contextlib.contextmanager
def _default_dtype(dtype: str) -> Generator[None]:
    # Fake modules cannot be converted, so they are made in their final dtype.
    before = torch.get_default_dtype()
    torch.set_default_dtype(_TORCH_DTYPES[dtype])
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    # The exporter logs about packages it does not need and guards it then drops.
    loggers = [
        logging.getLogger(n) for n in ("torch", "torch.onnx", "torch._guards", "transformers")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

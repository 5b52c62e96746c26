"""GroupNormalization written out for OpenVINO's CPU, held against its formula in float64."""

# OpenVINO's stubs leave most of its API unknown.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray
from openvino import opset13 as op
from tests.processor import PRECISIONS, needs_bf16

from latentrt.bundle.bundle import Bundle
from latentrt.engines.engine import Blueprint
from latentrt.engines.openvino.backend import CPU
from latentrt.engines.openvino.group_norm import write_out_group_norms
from latentrt.engines.openvino.options import OpenVinoOptions

EPSILON = 1e-6
LARGE = (2, 8, 64, 64)
_model: Any = openvino.Model


def relative(actual: NDArray[Any], expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def group_norm(
    x: NDArray[Any], scale: NDArray[Any], shift: NDArray[Any], groups: int
) -> NDArray[np.float64]:
    """As ONNX defines it."""
    grouped = x.astype(np.float64).reshape(len(x), groups, -1)
    mean = grouped.mean(axis=2, keepdims=True)
    variance = grouped.var(axis=2, keepdims=True)
    y = ((grouped - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape)
    return y * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def parts(channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.5, 1.5, channels).astype(np.float32)
    return scale, rng.standard_normal(channels, np.float32)


def norm_model(dims: tuple[int, ...], groups: int, kind: Any = np.float32) -> Any:
    scale, shift = (part.astype(kind) for part in parts(dims[1]))
    x = op.parameter(list(dims), kind)
    y = op.group_normalization(x, op.constant(scale), op.constant(shift), groups, EPSILON)
    y.output(0).set_names({"normed"})
    return _model([y], [x], "model")


def evaluated(model: Any, x: NDArray[Any], precision: str = "f32") -> NDArray[Any]:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return compiled(x)[0]


@pytest.mark.parametrize("deviations", [0, 10, 100])
@pytest.mark.parametrize(
    ("dims", "groups"), [(LARGE, 4), (LARGE, 1), (LARGE, 8), ((1, 6, 60, 75), 3)]
)
def test_a_written_out_norm_is_the_formula_however_far_a_group_is_from_zero(
    dims: tuple[int, ...], groups: int, deviations: int
) -> None:
    rng = np.random.default_rng(0)
    # Another mean and width for every channel, so that what mixes channels or groups shows.
    wide = rng.uniform(0.5, 2.0, dims[1]).reshape(1, -1, 1, 1)
    x = rng.standard_normal(dims) * wide + deviations * rng.choice([-1.0, 1.0])
    x = (x + rng.standard_normal((1, dims[1], 1, 1)) * 0.1).astype(np.float32)
    model = norm_model(dims, groups)
    assert write_out_group_norms(model) == 1
    assert all(node.get_type_name() != "GroupNormalization" for node in model.get_ordered_ops())
    # A mean in float32 is off by parts of 6e-8 of it, as many deviations as it is away.
    allowed = 1e-6 + 6e-8 * deviations
    assert relative(evaluated(model, x), group_norm(x, *parts(dims[1]), groups)) < allowed


@needs_bf16
def test_a_group_that_is_nearly_constant_gives_numbers() -> None:
    # In bf16 its mean is rounded by up to 0.12, and the squares of what is left by 6e-5, sixty
    # epsilons: more than there is of a variance, which may come out below zero.
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 64)) * 1e-4
    x += np.linspace(33, 63, 64).reshape(1, -1, 1, 1)
    scale, shift = (op.constant(part) for part in parts(64))
    given = op.parameter(list(x.shape), np.float32)
    normed = op.group_normalization(given, scale, shift, 64, EPSILON)
    last = op.constant(np.eye(64, dtype=np.float32).reshape(64, 64, 1, 1))
    same: tuple[list[int], ...] = ([1, 1], [0, 0], [0, 0], [1, 1])
    model = _model([op.convolution(normed, last, *same)], [given], "model")
    write_out_group_norms(model)
    assert np.isfinite(evaluated(model, x.astype(np.float32), "bf16")).all()


@needs_bf16
@pytest.mark.parametrize("deviations", [0, 3, 10, 30])
def test_in_bf16_a_written_out_norm_is_as_exact_as_openvinos_own(deviations: int) -> None:
    channels, groups = 64, 32
    x = np.random.default_rng(0).standard_normal((1, channels, 64, 64), dtype=np.float32)

    def model() -> Any:
        """Between convolutions, which are what OpenVINO narrows for."""
        rng = np.random.default_rng(2)
        first, last = (
            rng.standard_normal((channels, channels, 3, 3), np.float32) / np.float32(24)
            for _ in range(2)
        )
        # Both channels of a group are off to the same side.
        means = np.repeat(rng.choice([-1, 1], groups), channels // groups) * deviations
        given = op.parameter(list(x.shape), np.float32)
        same: tuple[list[int], ...] = ([1, 1], [1, 1], [1, 1], [1, 1])
        before = op.convolution(given, op.constant(first), *same)
        before = op.add(before, op.constant(means.reshape(1, -1, 1, 1).astype(np.float32)))
        scale, shift = (op.constant(part) for part in parts(channels))
        normed = op.group_normalization(before, scale, shift, groups, EPSILON)
        return _model([op.convolution(normed, op.constant(last), *same)], [given], "model")

    expected = evaluated(model(), x).astype(np.float64)
    own = relative(evaluated(model(), x, "bf16"), expected)
    written = model()
    assert write_out_group_norms(written) == 1
    # Without the second mean it is 1.3 to 1.7 times as far off up to 10 deviations, and where the
    # variance is from squares that still have their mean, 4 and more from 3 on.
    assert relative(evaluated(written, x, "bf16"), expected) < 1.15 * own


@pytest.mark.parametrize(
    ("dims", "kind"),
    [((2, 8, 64, 63), np.float32), (LARGE, np.float16), ((2, 8, 4096), np.float32)],
    ids=["small", "16 bits", "no picture"],
)
def test_small_norms_and_those_of_other_types_stay(dims: tuple[int, ...], kind: Any) -> None:
    model = norm_model(dims, 4, kind)
    assert write_out_group_norms(model) == 0
    assert any(node.get_type_name() == "GroupNormalization" for node in model.get_ordered_ops())


def test_a_written_out_norm_keeps_its_name() -> None:
    model = norm_model(LARGE, 4)
    names = [node.get_friendly_name() for node in model.get_ordered_ops()]
    write_out_group_norms(model)
    assert model.output("normed").get_partial_shape().to_shape() == list(LARGE)
    assert names[-2] in [node.get_friendly_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stored_decoder_is_the_compiled_one(
    bundle: Callable[[str], Path], tmp_path: Path, precision: str
) -> None:
    # Its weights are read from the bundle's file again, in other shapes than they have there.
    shapes = Bundle.open(bundle("shapes"))
    decoder = Blueprint.of(shapes, "vae_decoder", {"batch": 1, "height": 16, "width": 16})
    # Norms at 16x16 and 32x32 are small; at 64x64 and 128x128 there are nine.
    assert write_out_group_norms(CPU.model(decoder.at(precision))) == 0
    decoder, options = decoder.at(precision), OpenVinoOptions()
    CPU.build(decoder, options, tmp_path)
    latent = {"latents": np.random.default_rng(0).standard_normal((1, 4, 16, 16), np.float32)}
    (compiled,) = CPU.compile(decoder, options)(latent).values()
    (loaded,) = CPU.load(decoder, options, tmp_path)(latent).values()
    assert np.array_equal(compiled, loaded)


def test_no_large_norm_of_a_decoder_is_left(bundle: Callable[[str], Path]) -> None:
    shapes = Bundle.open(bundle("shapes"))
    decoder = Blueprint.of(shapes, "vae_decoder", {"batch": 1, "height": 16, "width": 16})
    left = [
        dims[2] * dims[3]
        for node in CPU.model(decoder).get_ordered_ops()
        if node.get_type_name() == "GroupNormalization"
        and len(dims := list(node.get_output_shape(0))) == 4
    ]
    assert max(left) == 32 * 32

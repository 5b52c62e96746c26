"""GroupNormalization in terms of which OpenVINO's CPU plugin keeps its convolutions' layout.

The plugin has it as MVN over groups, for which pictures go from channels last to channels first and
back. Written out over channels, they stay channels last. docs/design.md has the times of decoders.
A U-Net takes as long as before.

Sums are by rows and then by columns, because one over 512x512 would be 4e-5 off. In bf16 a mean is
rounded, so the rest of it is subtracted once more. Without that, a group whose mean is three
deviations is 1.2e-2 off instead of 6.9e-3, which is MVN's error. A variance from squares that still
have their mean would be 0.14 off at ten deviations.
"""

# The package's stubs leave most of its API unknown.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any, Final

import numpy as np

from latentrt.engines import libraries

_POSITIONS: Final = 64 * 64
"""Positions from which on a change of layout costs more than the nodes that save it."""


def write_out_group_norms(model: Any) -> int:
    """Replace the large ones of a float32 model of fixed sizes; gives how many they were."""
    large = [node for node in model.get_ordered_ops() if _is_large(node)]
    for node in large:
        written = _written_out(node)
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(written.output(0))
        written.set_friendly_name(node.get_friendly_name())
    model.validate_nodes_and_infer_types()
    return len(large)


def _is_large(node: Any) -> bool:
    if node.get_type_name() != "GroupNormalization":
        return False
    if node.get_output_element_type(0).get_type_name() != "f32":
        return False
    dims = list(node.get_output_shape(0))
    return len(dims) == 4 and dims[2] * dims[3] >= _POSITIONS


def _written_out(node: Any) -> Any:
    """The node's arithmetic, [batch, channels, height, width] to the same."""
    op = libraries.openvino().opset13
    pictures, scale, shift = (node.input_value(i) for i in range(3))
    given = node.get_attributes()
    rows, channels, _, width = node.get_output_shape(0)
    groups = int(given["num_groups"])

    def shaped(value: Any, *dims: int) -> Any:
        return op.reshape(value, np.array(dims, np.int64), special_zero=False)

    def of_groups(means: Any) -> Any:
        """From the means of channels to those of their groups."""
        dims = (rows, groups, channels // groups, 1)
        group = op.reduce_mean(shaped(means, *dims), np.array([2]), keep_dims=True)
        return shaped(op.broadcast(group, np.array(dims)), rows, channels, 1, 1)

    def mean(value: Any) -> Any:
        by_rows = op.reduce_mean(value, np.array([3]), keep_dims=True)
        return of_groups(op.reduce_mean(by_rows, np.array([2]), keep_dims=True))

    def mean_square(value: Any) -> Any:
        length = op.reduce_l2(value, np.array([3]), keep_dims=True)
        by_rows = op.multiply(length, op.multiply(length, np.float32(1 / width)))
        return of_groups(op.reduce_mean(by_rows, np.array([2]), keep_dims=True))

    centred = op.subtract(pictures, mean(pictures))
    rest = mean(centred)
    variance = op.subtract(mean_square(centred), op.multiply(rest, rest))
    variance = op.maximum(variance, np.float32(0))  # which rounding may go below
    deviation = op.sqrt(op.add(variance, np.float32(given["epsilon"])))
    factor = op.divide(shaped(scale, 1, channels, 1, 1), deviation)
    offset = op.subtract(shaped(shift, 1, channels, 1, 1), op.multiply(rest, factor))
    return op.add(op.multiply(centred, factor), offset)

"""The part of ONNX's file format that is rewritten on every machine, without the onnx package.

protobuf is 0.5 MB, onnx 30 MB more. Fields that are not declared here are kept
when a message is written again.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (numbers and types of the fields).
"""

# The package makes its classes at run time and has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingModuleSource=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from numpy.typing import NDArray

from latentrt.bundle.spec import TensorSpec

DTYPES: Final = {"float32": 1, "int64": 7, "float16": 10, "bfloat16": 16}
"""ONNX's numbers of dtypes, by NumPy's names."""

# A message's fields: the number, the type, and a * where there may be many.
_MESSAGES: Final[Mapping[str, Mapping[str, tuple[int, str]]]] = {
    "AttributeProto": {
        "name": (1, "string"),
        "f": (2, "float"),
        "i": (3, "int64"),
        "type": (20, "int32"),
    },
    "TensorProto": {
        "dims": (1, "int64*"),
        "data_type": (2, "int32"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
        "external_data": (13, "StringStringEntryProto*"),
    },
    "StringStringEntryProto": {"key": (1, "string"), "value": (2, "string")},
    "NodeProto": {
        "input": (1, "string*"),
        "output": (2, "string*"),
        "name": (3, "string"),
        "op_type": (4, "string"),
        "attribute": (5, "AttributeProto*"),
        "domain": (7, "string"),
    },
    "Dimension": {"dim_value": (1, "int64"), "dim_param": (2, "string")},
    "TensorShapeProto": {"dim": (1, "Dimension*")},
    "TensorTypeProto": {"elem_type": (1, "int32"), "shape": (2, "TensorShapeProto")},
    "TypeProto": {"tensor_type": (1, "TensorTypeProto")},
    "ValueInfoProto": {"name": (1, "string"), "type": (2, "TypeProto")},
    "GraphProto": {
        "node": (1, "NodeProto*"),
        "initializer": (5, "TensorProto*"),
        "input": (11, "ValueInfoProto*"),
    },
    "ModelProto": {"graph": (7, "GraphProto")},
}
_KINDS: Final = {float: ("f", 1), int: ("i", 2)}
"""The field that holds an attribute's value, and the number that says so."""


@cache
def _classes() -> Mapping[str, Any]:
    """The message classes, in a pool of their own beside those of onnx."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file: Any = descriptor_pb2.FileDescriptorProto()
    file.name, file.package, file.syntax = "latentrt.onnx", "latentrt", "proto2"
    field_types: Any = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            made = message.field.add(name=field, number=number)
            many, kind = kind.endswith("*"), kind.rstrip("*")
            made.label = field_types.LABEL_REPEATED if many else field_types.LABEL_OPTIONAL
            if kind in _MESSAGES:
                made.type, made.type_name = field_types.TYPE_MESSAGE, f".latentrt.{kind}"
            else:
                made.type = getattr(field_types, f"TYPE_{kind.upper()}")
    pool: Any = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"latentrt.{name}"))
        for name in _MESSAGES
    }


def parse(graph: bytes) -> Any:
    """A model; raises `ValueError` for bytes that are none."""
    from google.protobuf.message import DecodeError

    model = _classes()["ModelProto"]()
    try:
        model.ParseFromString(graph)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return model


def node(operator: str, inputs: Sequence[str], output: str, **attributes: float) -> Any:
    """A node of one output, by which it is named too."""
    made = _classes()["NodeProto"](op_type=operator, input=inputs, output=[output], name=output)
    for name, value in attributes.items():
        field, kind = _KINDS[type(value)]
        made.attribute.add(**{"name": name, field: value, "type": kind})
    return made


def add_input(model: Any, spec: TensorSpec) -> str:
    """Give a model one input more; returns its name."""
    value = model.graph.input.add(name=spec.name)
    value.type.tensor_type.elem_type = DTYPES[spec.dtype]
    for dim in spec.dims:
        known = isinstance(dim, int)
        value.type.tensor_type.shape.dim.add(**{"dim_value" if known else "dim_param": dim})
    return spec.name


def replace_nodes(model: Any, nodes: Sequence[Any]) -> None:
    """Let a model have these nodes, in this order."""
    kept = [_copied(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _copied(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made


def tensor(name: str, array: NDArray[Any]) -> Any:
    """An initialiser of float32 or int64 that holds its bytes itself."""
    little = array.astype(array.dtype.newbyteorder("<"))
    return _classes()["TensorProto"](
        name=name, dims=array.shape, data_type=DTYPES[array.dtype.name], raw_data=little.tobytes()
    )

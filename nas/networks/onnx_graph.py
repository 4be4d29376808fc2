"""Reads an ONNX file without running it: its nodes with their shapes, parameters and MACs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from nas.devices.runtimes.onnxruntime import OnnxForm
from nas.errors import ExportError, one_line

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
WEIGHTED = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""The convolutions, with the position of their weight among the inputs."""
FREE = {"Identity", "Constant", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Shape", "Dropout"}
"""Operators that compute nothing."""


@dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Attributes:
        name: Its name.
        op: Its type, such as "Conv".
        out_shape: The shape of its first output, with batch; None if it cannot be inferred.
        params: Elements of its constant floating-point inputs; a shared one counts for its first node.
        macs: Multiply-accumulate operations; None if they are not counted for this type, or a shape is unknown.
    """

    name: str
    op: str
    out_shape: Shape | None
    params: int
    macs: int | None


@dataclass(frozen=True)
class OnnxGraph:
    """An ONNX file.

    Attributes:
        model: The parsed file, with external data and a fixed batch size.
        inputs: The shape of each input, with batch.
        types: The element type of each input, such as "FLOAT".
        nodes: The operators in their order.
        notes: What was assumed about the file.
    """

    model: Any
    inputs: dict[str, Shape]
    types: dict[str, str]
    nodes: tuple[Node, ...]
    notes: tuple[str, ...]

    @property
    def not_counted(self) -> dict[str, int]:
        """The number of nodes of each type whose MACs are not counted."""
        return dict(Counter(node.op for node in self.nodes if node.macs is None))


def read_graph(path: Path, size: tuple[int, int] | None = None) -> OnnxGraph:
    """Return the graph of an ONNX file. Data in other files must lie next to it.

    An open batch size becomes 1. Open heights and widths become those of `size`.

    Raises:
        ExportError: The file is not ONNX, its data is missing, or an input has another open dimension.
    """
    import onnx

    try:
        model = onnx.load(str(path))
        if not model.graph.node or not model.graph.output:
            raise ExportError("has no graph", where=path)
    except FileNotFoundError as error:
        raise ExportError("no such file", where=path) from error
    except ExportError:
        raise
    except Exception as error:  # protobuf and onnx raise many kinds
        raise ExportError(f"not an ONNX file that can be read: {one_line(error)}", where=path) from error
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in constants]
    notes = _fix_dimensions(given, size, path)
    for value in model.graph.output if notes else ():
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception as error:
        raise ExportError(f"the shapes cannot be inferred: {one_line(error)}", where=path) from error
    values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    shapes = {value.name: shape for value in values if (shape := _shape(value)) is not None}
    shapes |= {name: tuple(tensor.dims) for name, tensor in constants.items()}
    types = {value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in given}
    return OnnxGraph(
        model, {value.name: shapes[value.name] for value in given}, types,
        tuple(_nodes(model.graph.node, constants, shapes)), tuple(notes),
    )  # fmt: skip


def onnx_form_of(card: Mapping[str, Any]) -> OnnxForm:
    """Return the form of the ONNX file that a card names. Older cards name none."""
    return OnnxForm(**card["onnx"]) if "onnx" in card else OnnxForm()


def metadata_of(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file of a network has to say about itself: its preprocessing, and its classes if they are known."""
    data = card.get("data")
    classes = {"classes": data["classes"]} if isinstance(data, Mapping) and "classes" in data else {}
    return {"architecture": card["architecture"], "preprocessing": card["preprocessing"], **classes}


def finish(path: Path, properties: Mapping[str, Any]) -> None:
    """Check an ONNX file and write properties into its metadata, each as JSON.

    Raises ExportError if the file is not valid.
    """
    import onnx

    model = onnx.load(str(path))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"is no valid ONNX file: {one_line(error)}", where=path) from error
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in properties.items()})
    path.write_bytes(model.SerializeToString())


def _fix_dimensions(given: Sequence[Any], sides: tuple[int, int] | None, path: Path) -> list[str]:
    """Set the open dimensions of the inputs, and return notes about them. Raises ExportError for another one."""
    notes = []
    for value in given:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise ExportError(f"the input '{value.name}' has no shape", where=path)
        for index, dimension in enumerate(tensor.shape.dim):
            if dimension.dim_value > 0:
                continue
            name = dimension.dim_param or "unnamed"
            size = 1 if index == 0 else sides[index - 2] if sides and index in (2, 3) else None
            if size is None:
                advice = "; give --resolution" if index >= 2 else ""
                raise ExportError(f"dimension {index} ({name}) of the input '{value.name}' is open{advice}", where=path)
            dimension.dim_value = size
            what = "batch size" if index == 0 else f"dimension {index}"
            notes.append(f"the open {what} ({name}) of the input '{value.name}' is set to {size}")
    return notes


def _shape(value: Any) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or any(not each.HasField("dim_value") for each in tensor.shape.dim):
        return None
    return tuple(each.dim_value for each in tensor.shape.dim)


def _nodes(nodes: Sequence[Any], constants: Mapping[str, Any], shapes: Shapes) -> list[Node]:
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
    quantized = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    counted: set[str] = set()
    found = []
    for index, node in enumerate(nodes):
        params = 0
        for name in dict.fromkeys(node.input):
            if name in constants and name not in counted and constants[name].data_type in floats | quantized:
                counted.add(name)
                params += prod(constants[name].dims)
        op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        macs = _macs(op.rpartition(".")[2], node, shapes)
        found.append(Node(node.name or f"node {index}", op, shapes.get(node.output[0]), params, macs))
    return found


def _macs(op: str, node: Any, shapes: Shapes) -> int | None:
    """Return the MACs of a node; None if its type is not counted, or a shape is unknown."""
    if op in FREE:
        return 0
    if op in WEIGHTED:
        weight, sized = shapes.get(node.input[WEIGHTED[op]]), node.input[0] if op == "ConvTranspose" else node.output[0]
        size = shapes.get(sized)
        return prod(size) * prod(weight[1:]) if weight and size else None
    if op in ("Gemm", "MatMul", "MatMulInteger"):
        left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
        is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return prod(out) * left[0 if is_transposed else -1] if left and out is not None else None
    return None

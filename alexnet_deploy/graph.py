"""ONNX graphs: opened with checks, written whole, and a few questions that every pass asks."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.errors import GraphError, InputError
from alexnet_deploy.files import write_bytes
from alexnet_deploy.graph_guard import external_tensors, onnx_bytes, proto_from_bytes, read_proto, require_sound
from alexnet_deploy.limits import MAX_DESCRIPTION_CHARACTERS, MAX_RESULT_BYTES, json_from_text, require_within
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir
    from numpy.typing import NDArray

_INFO_KEY = "alexnet_deploy.model"
INPUT_NAME = "input"
# ONNX's version converter starts here.
OLDEST_OPSET = 7


@dataclass(frozen=True, kw_only=True)
class WeightedNode:
    """A convolution or fully connected layer of a graph.

    Attributes:
        weight: Its constant weight, output channels first.
        transposed: Whether the graph holds it the other way round (MatMul, and Gemm without transB).
    """

    name: str
    node: ir.Node
    activation: ir.Value
    weight_value: ir.Value
    weight: NDArray[np.floating]
    transposed: bool
    bias_value: ir.Value | None


def read_graph(path: Path) -> ir.Model:
    """Opens an ONNX file.

    Raises:
        InputError: It is missing, empty, not ONNX, of another operator set, asks for more than `limits` allows, keeps
            its weights in a file that is not there or not in its folder, or fails ONNX's checker.
    """
    import onnx
    import onnx_ir as ir

    data = onnx_bytes(path)
    proto = proto_from_bytes(data, str(path))
    _require_known_opset(path, proto)
    require_sound(path, proto)
    try:
        # The checker reads bytes as they are; a model it would have to serialize first.
        checked: bytes | onnx.ModelProto = data
        if external_tensors(path, proto):
            onnx.load_external_data_for_model(proto, str(path.parent))
            checked = proto
        onnx.checker.check_model(checked, full_check=False)
        if not proto.graph.node or not proto.graph.output:
            raise ValueError("it has no nodes or no outputs")
        return ir.from_proto(proto)
    except (OSError, ValueError, onnx.checker.ValidationError, ir.serde.SerdeError) as exc:
        raise InputError(
            f"{path} is not a valid ONNX file", got=str(exc).strip().split("\n")[0], remedy=_AGAIN
        ) from exc


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX file in which it keeps weights; none where it cannot be parsed, which `read_graph` says.

    Raises:
        InputError: One is missing, or outside its folder.
    """
    try:
        proto = read_proto(path)
    except InputError:
        return []
    return [path.parent / name for name in sorted({name for _, name in external_tensors(path, proto)})]


_AGAIN = "export it, or copy it, again"


def _require_known_opset(path: Path, proto: onnx.ModelProto) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    found = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if any(not OLDEST_OPSET <= version <= newest for version in found):
        raise InputError(
            f"{path} is of an operator set that this tool does not read",
            got=f"opset {', '.join(map(str, found))}",
            expected=f"opset {OLDEST_OPSET} to {newest}",
            remedy="export it for one of these, or update the package onnx",
        )


def graph_bytes(model: ir.Model) -> bytes:
    """Serializes a model after ONNX's checker has passed it.

    Raises:
        GraphError: The checker objects; this is a defect of a pass.
    """
    import onnx
    import onnx_ir as ir

    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(data, full_check=False)
    except onnx.checker.ValidationError as exc:
        raise GraphError("the graph that was made is not valid ONNX", got=str(exc).split("\n")[0]) from exc
    return data


def write_graph(model: ir.Model, path: Path) -> None:
    """Writes an ONNX file whole."""
    write_bytes(path, graph_bytes(model))


def copy_of(model: ir.Model) -> ir.Model:
    """A model that a pass may change without touching the other."""
    import onnx_ir as ir

    return ir.from_proto(ir.to_proto(model))


# The oldest file format of ONNX that holds an operator set.
_IR_VERSIONS = {19: 9, 21: 10}


def require_opset(model: ir.Model, opset: int) -> None:
    """Raises a model's operator set where it is older; what this package writes means the same in 18 and later."""
    model.graph.opset_imports[""] = max(opset, model.graph.opset_imports[""])
    model.ir_version = max(model.ir_version, *(ir for since, ir in _IR_VERSIONS.items() if since <= opset), 0)


def set_info(model: ir.Model, info: ModelInfo) -> None:
    """Puts the model's description into the graph's metadata."""
    model.metadata_props[_INFO_KEY] = json.dumps(info.to_json())


def info_of(model: ir.Model) -> ModelInfo | None:
    """Reads the model's description from the graph's metadata; None where it has none.

    Raises:
        InputError: The metadata is there and cannot be read.
    """
    text = model.metadata_props.get(_INFO_KEY)
    if text is None:
        return None
    require_within("the graph's description", len(text), MAX_DESCRIPTION_CHARACTERS, "characters")
    try:
        return ModelInfo.from_json(json_from_text(text))
    except ValueError as exc:
        raise InputError("the graph's metadata cannot be read", got=exc) from exc


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The value as an array where it is a constant (initializer or Constant node), else None."""
    import onnx_ir as ir

    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    constant = ir.convenience.get_const_tensor(value)
    return None if constant is None else constant.numpy()


def decimal_of(value: float) -> float:
    """ONNX attributes and plugin fields are FP32: the shortest decimal that rounds to the same FP32 number."""
    import numpy as np

    return float(str(np.float32(value)))


def add_initializer(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """Registers a constant; the present one of that name where it is the same, another name where it is not."""
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    tries = 1
    while (present := model.graph.initializers.get(str(tensor.name))) is not None:
        found = present.const_value
        alike = found is not None and found.dtype == tensor.dtype and found.shape == tensor.shape
        if alike and found is not None and found.tobytes() == tensor.tobytes():
            return present
        tries += 1
        tensor.name = f"{name}.{tries}"
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def forget_unused(model: ir.Model, value: ir.Value) -> None:
    """Drops a constant that nobody reads any more."""
    if not value.uses() and value.is_initializer():
        model.graph.initializers.pop(str(value.name))


def weighted_nodes(model: ir.Model) -> Iterator[WeightedNode]:
    """Yields convolutions and fully connected layers with constant weights, in order."""
    for node in model.graph:
        if node.op_type not in _WEIGHTED or node.domain not in ("", "ai.onnx"):
            continue
        weight_value, activation = node.inputs[1], node.inputs[0]
        weight = constant_of(weight_value)
        if weight is None or weight_value is None or activation is None:
            continue
        transposed = node.op_type == "MatMul" or (node.op_type == "Gemm" and not _int_attribute(node, "transB"))
        yield WeightedNode(
            name=node.name or node.outputs[0].name or node.op_type,
            node=node,
            activation=activation,
            weight_value=weight_value,
            weight=weight.T if transposed else weight,
            transposed=transposed,
            bias_value=node.inputs[2] if len(node.inputs) > 2 else None,
        )


def unquantized_nodes(model: ir.Model) -> list[tuple[str, str, str]]:
    """Name, operator and reason of the nodes that multiply by weights and that `weighted_nodes` leaves out."""
    quantized = {id(layer.node) for layer in weighted_nodes(model)}
    found = []
    for node in model.graph:
        if id(node) in quantized:
            continue
        name = node.name or str(node.outputs[0].name)
        if node.op_type in _WEIGHTED:
            found.append((name, node.op_type, "its weights are not constant"))
        elif node.op_type in _OTHERS_WITH_WEIGHTS:
            found.append((name, node.op_type, "no integer form of this operator is written"))
    return found


def _int_attribute(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def input_shape(model: ir.Model) -> tuple[int | None, ...]:
    """Shape of the one input that is not an initializer, None for dynamic sides.

    Raises:
        GraphError: There is not exactly one, or it is not a batch of images.
    """
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    shape = inputs[0].shape if len(inputs) == 1 else None
    if shape is None or len(shape) != 4:
        raise GraphError(
            "the graph does not read one batch of images",
            got=", ".join(f"{value.name} {value.shape}" for value in inputs) or "no inputs",
            expected="one input of shape (N, 3, S, S)",
        )
    return tuple(side if isinstance(side, int) else None for side in shape)


def layer_costs(model: ir.Model) -> list[dict[str, Any]]:
    """One row a node: name, result, op, output shape, parameters, multiply-adds for one image, weight bytes."""
    inferred = inferred_copy(model)
    rows = []
    for node in inferred.graph:
        output = node.outputs[0]
        shape = [side if isinstance(side, int) else 0 for side in list(output.shape or [])[1:]]
        stored = [_stored(value) for value in node.inputs[1:3]] if node.op_type in _WEIGHTED else []
        constants = [array for array in stored if array is not None]
        parameters = sum(array.size for array in constants)
        weight_bytes = sum(array.nbytes for array in constants)
        macs, precision = 0, _precision_of(output)
        if stored and stored[0] is not None:
            precision = _PRECISIONS_OF_WEIGHTS.get(stored[0].dtype.name, stored[0].dtype.name)
            macs = stored[0].size * (math.prod(shape[1:]) if node.op_type == "Conv" else 1)
        rows.append(
            {
                "name": node.name or output.name,
                "result": output.name,
                "op": _OPS.get(node.op_type, "other"),
                "type": node.op_type,
                "precision": precision,
                "output": shape,
                "parameters": parameters,
                "macs": macs,
                "weight_bytes": weight_bytes,
            }
        )
    return rows


def _stored(value: ir.Value | None) -> NDArray[Any] | None:
    """A weight or bias as the file holds it: itself, or the integers that a DequantizeLinear reads."""
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear":
        return constant_of(producer.inputs[0])
    return constant_of(value)


_WEIGHTED = ("Conv", "Gemm", "MatMul")
# Inference reads the values of shapes, axes and the like, never weights: copying those takes half a second.
_SHAPE_LIKE_BYTES = 1 << 16
_OTHERS_WITH_WEIGHTS = frozenset(
    {"ConvTranspose", "DeformConv", "Einsum", "LSTM", "GRU", "RNN", "Attention", "Loop", "If"}
)
_PRECISIONS_OF_WEIGHTS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "float64": "fp64"}
_OPS = {"Conv": "conv", "Gemm": "linear", "MatMul": "linear", "LRN": "lrn", "MaxPool": "pool", "AveragePool": "pool"}
_PRECISIONS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "INT8": "int8", "UINT8": "int8"}


def _precision_of(value: ir.Value) -> str:
    return _PRECISIONS.get(value.dtype.name, value.dtype.name.lower()) if value.dtype is not None else "unknown"


def inferred_copy(model: ir.Model) -> ir.Model:
    """A copy with the shapes and types that ONNX can infer.

    Raises:
        GraphError: What the graph says of its shapes contradicts itself.
    """
    import onnx
    import onnx_ir as ir

    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > _SHAPE_LIKE_BYTES:
            tensor.ClearField("raw_data")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    except (onnx.shape_inference.InferenceError, ir.serde.SerdeError) as exc:
        raise GraphError(
            "the graph's shapes or types contradict each other",
            got=str(exc).strip().split("\n")[0],
            remedy="export it again, without shapes written by hand",
        ) from exc
    for name, value in copy.graph.initializers.items():
        value.const_value = model.graph.initializers[name].const_value
    _require_small_results(copy)
    return copy


def _require_small_results(model: ir.Model) -> None:
    """A few bytes of a graph can ask for a result of any size (Expand, Tile, Resize)."""
    for node in model.graph:
        for value in node.outputs:
            sides = [side for side in value.shape or () if isinstance(side, int)]
            width = value.dtype.bitwidth if value.dtype is not None and value.dtype.name != "STRING" else 8
            size = math.prod(sides) * width // 8
            require_within(f"the result {value.name} of the graph", size, MAX_RESULT_BYTES, "bytes", GraphError)

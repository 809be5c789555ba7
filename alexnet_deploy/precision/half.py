"""FP16 and BF16 graphs: weights and arithmetic in 16 bits, LRN in FP32, FP32 at the edges."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.errors import GraphError
from alexnet_deploy.graph import add_initializer, constant_of, copy_of, forget_unused, inferred_copy, weighted_nodes
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

_FP16_MAX = float(np.finfo(np.float16).max)
# BF16 kernels of Conv, Gemm, Relu and MaxPool are standard ONNX from this version on.
BF16_OPSET = 22
# The squares inside LRN overflow FP16 for |x| above 255.
_KEPT_IN_FP32 = frozenset({"LRN", "Softmax"})
# Inputs that ONNX wants in FP32 whatever the type of the data: sizes, not values.
_FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}


def half_from_fp32(model: ir.Model, precision: Precision) -> ir.Model:
    """Converts an FP32 graph; inputs and outputs stay FP32.

    Requires: an FP32 graph with `LRN` as the standard node.
    Ensures: every convolution and fully connected layer computes in 16 bits; LRN and Softmax read and write
    FP32 through casts.

    Raises:
        GraphError: A weight does not fit FP16, or the precision is not one of 16 bits.
    """
    import onnx_ir as ir

    if precision not in (Precision.FP16, Precision.BF16):
        raise GraphError("not a precision of 16 bits", got=precision.value, expected="fp16 or bf16")
    dtype = ir.DataType.FLOAT16 if precision is Precision.FP16 else ir.DataType.BFLOAT16
    converted = copy_of(model)
    if precision is Precision.BF16:
        converted.graph.opset_imports[""] = max(BF16_OPSET, converted.graph.opset_imports[""])
    for value in list(converted.graph.initializers.values()):
        kept = [use for use in value.uses() if use.idx in _FP32_INPUTS.get(use.node.op_type, ())]
        if len(kept) < len(list(value.uses())):
            _keep_in_fp32(converted, value, kept)
            _convert_initializer(value, dtype)
    for node in list(converted.graph):
        _convert_outputs(node, dtype)
    for node in list(converted.graph):
        if node.op_type in _KEPT_IN_FP32:
            _cast_around(converted, node, dtype)
    image = converted.graph.inputs[0]
    _cast_input(converted, image, dtype)
    for index, output in enumerate(list(converted.graph.outputs)):
        producer = output.producer()
        if producer is not None and producer.op_type not in (_KEPT_IN_FP32 | {"Cast"}):
            _cast_output(converted, index, producer)
    return inferred_copy(converted)


def _convert_outputs(node: ir.Node, dtype: ir.DataType) -> None:
    """What was FP32 becomes the narrow type; shapes, indices and quantized values stay what they are."""
    import onnx_ir as ir

    if node.op_type in _KEPT_IN_FP32:
        return
    to, value = node.attributes.get("to"), node.attributes.get("value")
    if node.op_type == "Cast" and to is not None and to.as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", int(dtype))
    if node.op_type in ("Constant", "ConstantOfShape"):
        # The shape's fill is an FP32 zero where it is not named.
        array = value.as_tensor().numpy() if value is not None else np.zeros(1, np.float32)
        if array.dtype == np.float32:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array.astype(dtype.numpy()), dtype=dtype))
    for output in node.outputs:
        if output.dtype == ir.DataType.FLOAT:
            output.dtype = dtype


def _keep_in_fp32(model: ir.Model, value: ir.Value, uses: list[Any]) -> None:
    """A copy of a constant for those of its readers that ONNX wants in FP32."""
    if uses and value.const_value is not None:
        copy = add_initializer(model, f"{value.name}.fp32", value.const_value.numpy())
        for use in uses:
            use.node.replace_input_with(use.idx, copy)


def _convert_initializer(value: ir.Value, dtype: ir.DataType) -> None:
    import onnx_ir as ir

    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return
    array = tensor.numpy()
    largest = float(np.abs(array).max()) if array.size else 0.0
    if dtype == ir.DataType.FLOAT16 and not largest <= _FP16_MAX:
        raise GraphError(
            f"the weights of {value.name} do not fit FP16",
            got=f"largest magnitude {largest:g}",
            expected=f"at most {_FP16_MAX:g}",
            remedy="use --bf16 or --fp32",
        )
    value.const_value = ir.tensor(array.astype(dtype.numpy()), dtype=dtype, name=value.name)
    value.type = ir.TensorType(dtype)


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    import onnx_ir as ir

    node = ir.node("Cast", [value], {"to": int(dtype)}, name=name)
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].dtype = name, value.shape, dtype
    return node


def _cast_around(model: ir.Model, node: ir.Node, dtype: ir.DataType) -> None:
    import onnx_ir as ir

    _cast_before(model, node, ir.DataType.FLOAT)
    if node.outputs[0] not in model.graph.outputs:
        _cast_readers(model, node, dtype)


def _suffix(dtype: ir.DataType) -> str:
    return "to_fp32" if dtype.itemsize == 4 else "to_half"


def _cast_before(model: ir.Model, node: ir.Node, dtype: ir.DataType) -> None:
    source = node.inputs[0]
    assert source is not None
    before = _cast(source, dtype, f"{node.name}.{_suffix(dtype)}")
    model.graph.insert_before(node, before)
    node.replace_input_with(0, before.outputs[0])


def _cast_readers(model: ir.Model, node: ir.Node, dtype: ir.DataType) -> None:
    output = node.outputs[0]
    uses = list(output.uses())
    after = _cast(output, dtype, f"{node.name}.{_suffix(dtype)}")
    model.graph.insert_after(node, after)
    for use in uses:
        use.node.replace_input_with(use.idx, after.outputs[0])


def _cast_input(model: ir.Model, image: ir.Value, dtype: ir.DataType) -> None:
    uses = list(image.uses())
    if not uses:
        return
    cast = _cast(image, dtype, f"{image.name}.to_half")
    model.graph.insert_before(uses[0].node, cast)
    for use in uses:
        use.node.replace_input_with(use.idx, cast.outputs[0])


def _cast_output(model: ir.Model, index: int, producer: ir.Node) -> None:
    import onnx_ir as ir

    output = model.graph.outputs[index]
    name = output.name
    output.name = f"{producer.name}.half"
    cast = _cast(output, ir.DataType.FLOAT, f"{producer.name}.to_fp32")
    cast.outputs[0].name = name
    model.graph.insert_after(producer, cast)
    model.graph.outputs[index] = cast.outputs[0]


def half_report(model: ir.Model, precision: Precision, table: CalibrationTable | None) -> dict[str, Any]:
    """What 16 bits do to a network's numbers.

    Args:
        model: The FP32 graph.
        precision: fp16 or bf16.
        table: Its calibration table, to compare activations with the largest FP16 number.

    Returns:
        `weights`, `underflow` (weights that become zero), `underflow_by_layer` (where there are any),
        `largest_activation` and the share of FP16's range that it takes; None where there is no table.

    Raises:
        GraphError: An activation that calibration saw does not fit.
    """
    import ml_dtypes
    import onnx_ir as ir

    dtype = (ir.DataType.FLOAT16 if precision is Precision.FP16 else ir.DataType.BFLOAT16).numpy()
    layers = list(weighted_nodes(model))
    # Weights that do not fit are refused where they are converted.
    with np.errstate(over="ignore"):
        lost = {layer.name: int(((layer.weight != 0) & (layer.weight.astype(dtype) == 0)).sum()) for layer in layers}
    report: dict[str, Any] = {
        "weights": sum(layer.weight.size for layer in layers),
        "underflow": sum(lost.values()),
        "underflow_by_layer": {name: count for name, count in lost.items() if count},
        "largest_activation": None,
        "share_of_range": None,
    }
    if table is None or not table.tensors:
        return report
    name, largest = max(
        ((name, max(-found.histogram.minimum, found.histogram.maximum)) for name, found in table.tensors.items()),
        key=lambda entry: entry[1],
    )
    if precision is Precision.FP16 and largest > _FP16_MAX:
        raise GraphError(
            f"the activation {name} does not fit FP16",
            got=f"{largest:g} on the calibration images",
            expected=f"at most {_FP16_MAX:g}",
            remedy="use --bf16 or --fp32",
        )
    share = largest / float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    return {**report, "largest_activation": {"name": name, "magnitude": largest}, "share_of_range": share}


def half_layers(model: ir.Model, names: Collection[str]) -> None:
    """Lets the named layers of an FP32 graph compute in FP16, between casts.

    Raises:
        GraphError: A weight does not fit.
    """
    import onnx_ir as ir

    for layer in [found for found in weighted_nodes(model) if found.name in names]:
        for index, value in ((1, layer.weight_value), (2, layer.bias_value)):
            array = constant_of(value)
            if value is None or array is None:
                continue
            half = add_initializer(model, f"{value.name}.half", array)
            _convert_initializer(half, ir.DataType.FLOAT16)
            layer.node.replace_input_with(index, half)
            forget_unused(model, value)
        _cast_before(model, layer.node, ir.DataType.FLOAT16)
        output = layer.node.outputs[0]
        output.dtype = ir.DataType.FLOAT16
        if output.uses():
            _cast_readers(model, layer.node, ir.DataType.FLOAT)
        if output in model.graph.outputs:
            _cast_output(model, list(model.graph.outputs).index(output), layer.node)

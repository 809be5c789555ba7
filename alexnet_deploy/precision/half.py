"""FP16 and BF16 graphs: weights and arithmetic in 16 bits, LRN in FP32, FP32 at the edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.errors import GraphError
from alexnet_deploy.graph import copy_of, inferred_copy
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

_FP16_MAX = float(np.finfo(np.float16).max)
# BF16 kernels of Conv, Gemm, Relu and MaxPool are standard ONNX from this version on.
BF16_OPSET = 22
# The squares inside LRN overflow FP16 for |x| above 255.
_KEPT_IN_FP32 = frozenset({"LRN", "Softmax"})


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
        _convert_initializer(value, dtype)
    for node in list(converted.graph):
        for value in node.outputs:
            value.dtype = ir.DataType.FLOAT if node.op_type in _KEPT_IN_FP32 else dtype
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

    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    before = _cast(source, ir.DataType.FLOAT, f"{node.name}.to_fp32")
    model.graph.insert_before(node, before)
    node.replace_input_with(0, before.outputs[0])
    if output in model.graph.outputs:
        return
    after = _cast(output, dtype, f"{node.name}.to_half")
    uses = [use for use in output.uses() if use.node is not after]
    model.graph.insert_after(node, after)
    for use in uses:
        use.node.replace_input_with(use.idx, after.outputs[0])


def _cast_input(model: ir.Model, image: ir.Value, dtype: ir.DataType) -> None:
    uses = list(image.uses())
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

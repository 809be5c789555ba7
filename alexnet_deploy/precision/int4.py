"""INT4 weights in the fully connected layers, which hold nearly all of AlexNet's bytes; activations stay in float.

At batch 1 such a layer is bound by reading its weights, so that half the bytes are half the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.errors import GraphError
from alexnet_deploy.graph import WeightedNode, add_initializer, copy_of, forget_unused, require_opset, weighted_nodes
from alexnet_deploy.precision.moments import InputMoments
from alexnet_deploy.precision.rounding import gptq

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

OPSET = 21
# Inputs that share a scale; TensorRT reads INT4 in blocks of 64 or 128.
BLOCK = 64
# Symmetric: of the sixteen values -8 is not used.
_STEPS = 7


def linear_layers(model: ir.Model) -> list[str]:
    """Names of the layers that become INT4: fully connected, with inputs that divide into blocks."""
    return [
        layer.name for layer in weighted_nodes(model) if layer.weight.ndim == 2 and layer.weight.shape[1] % BLOCK == 0
    ]


def int4_from_fp32(model: ir.Model, moments: dict[str, InputMoments]) -> ir.Model:
    """Writes the weights of the fully connected layers in INT4, rounded by GPTQ.

    Each output channel has a scale for every 64 inputs: the largest weight becomes 7. Scales are FP16 numbers, because
    the engine holds them so.

    Args:
        model: The FP32 graph.
        moments: Of the inputs of those layers.

    Raises:
        GraphError: There is no such layer.
    """
    copy = copy_of(model)
    require_opset(copy, OPSET)
    wanted = linear_layers(copy)
    if not wanted:
        raise GraphError(
            "no layer can have INT4 weights",
            got="no fully connected layer with constant weights",
            expected=f"one whose inputs divide into blocks of {BLOCK}",
            remedy="use --int8 or --fp16",
        )
    for layer in list(weighted_nodes(copy)):
        if layer.name in wanted:
            _quantize(copy, layer, moments[layer.name].second)
    return copy


def _quantize(model: ir.Model, layer: WeightedNode, second: NDArray[np.float32]) -> None:
    import ml_dtypes
    import onnx_ir as ir

    channels, inputs = layer.weight.shape
    largest = np.abs(layer.weight.reshape(channels, inputs // BLOCK, BLOCK)).max(axis=2)
    scale = np.where(largest > 0, largest / _STEPS, 1.0).astype(np.float16).astype(np.float32)
    # A scale that FP16 cannot hold belongs to weights that are nothing beside the others.
    scale[scale == 0] = float(np.finfo(np.float16).smallest_subnormal)
    integers, axis = gptq(layer.weight, scale, _STEPS, second).astype(ml_dtypes.int4), 1
    if layer.transposed:
        integers, scale, axis = np.ascontiguousarray(integers.T), np.ascontiguousarray(scale.T), 0
    name = f"{layer.name}.weight"
    inputs_of = [add_initializer(model, f"{name}.int4", integers), add_initializer(model, f"{name}.scale", scale)]
    node = ir.node("DequantizeLinear", inputs_of, {"axis": axis, "block_size": BLOCK}, name=f"{name}.dequantized")
    node.outputs[0].name = f"{name}.dequantized"
    model.graph.insert_before(layer.node, node)
    layer.node.replace_input_with(1, node.outputs[0])
    forget_unused(model, layer.weight_value)

"""INT8 graphs: one calibration table, Q/DQ nodes where each target fuses them.

TensorRT and TensorRT-RTX want quantized inputs of every convolution and fully connected layer, signed and symmetric,
and the bias in float. OpenVINO wants the same places, but takes unsigned activations, which keep a bit more of what a
ReLU gives. ONNX Runtime's CPU kernels (QLinearConv, QGemm) want the output quantized as well and the bias in int32.
No one of these graphs runs in INT8 on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.errors import InputError
from alexnet_deploy.graph import (
    WeightedNode,
    add_initializer,
    constant_of,
    copy_of,
    forget_unused,
    require_opset,
    weighted_nodes,
)
from alexnet_deploy.precision.calibrate import result_of
from alexnet_deploy.precision.table import INT8_STEPS, SMALLEST_SCALE, CalibrationTable
from alexnet_deploy.precision.weights import IntegerWeights, Rounding, float8, nearest, nearest_float8
from alexnet_deploy.specs import Target

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a graph quantizes, as far as that is a question of speed.

    Attributes:
        first_float: Leave the first layer in float: it has few weights, and reads three channels.
        before_pool: Quantize what a max pool reads and not only what it gives, so that it moves a byte a value.
        before_norm: Quantize what an LRN reads, so that the layer before it writes a byte a value.
    """

    first_float: bool = False
    before_pool: bool = False
    before_norm: bool = False

    def in_float(self, layers: list[str]) -> list[str]:
        """Which of a network's layers stay in float."""
        return layers[:1] if self.first_float else []

    @property
    def label(self) -> str:
        """For tables: `conv1 float, Q before pool`."""
        names = {"first_float": "first layer float", "before_pool": "Q before pool", "before_norm": "Q before LRN"}
        return ", ".join(text for field, text in names.items() if getattr(self, field)) or "default"


@dataclass(frozen=True, kw_only=True)
class QuantizationScheme:
    """How a target wants its integers.

    Attributes:
        unsigned_activations: uint8 with a zero point instead of symmetric int8.
        quantize_outputs: Also quantize what a layer gives, after its ReLU.
        int32_bias: Write the bias as int32 with the product of the scales.
        weight_steps: Largest weight magnitude; 127 uses all eight bits, 63 leaves room for kernels that add two
            products in 16 bits.
        float8: FP8 (E4M3) in place of integers, for activations and weights.
        placement: Where the graph quantizes besides the layers' inputs.
    """

    unsigned_activations: bool = False
    quantize_outputs: bool = False
    int32_bias: bool = False
    weight_steps: int = INT8_STEPS
    float8: bool = False
    placement: Placement = Placement()


DEFAULT_PLACEMENT = Placement()
# Half of int32's range leaves the other half to the sum of products.
_LARGEST_BIAS = 2**30
# CPUs without VNNI add two products of u8 and s8 in 16 bits, which overflow at full range: weights of 7 bits cannot,
# on any CPU, and lose less than the overflow does (benchmarks/results/int8-schemes.json).
_SEVEN_BITS = 63
_SYMMETRIC = QuantizationScheme()
_FLOAT8 = QuantizationScheme(float8=True)
FLOAT8_OPSET = 19
_FLOAT8_PLACES = 32
SCHEMES = {
    Target.TENSORRT: _SYMMETRIC,
    Target.TENSORRT_RTX: _SYMMETRIC,
    Target.OPENVINO: QuantizationScheme(unsigned_activations=True, weight_steps=_SEVEN_BITS),
    Target.ONNXRUNTIME_CPU: QuantizationScheme(
        unsigned_activations=True, quantize_outputs=True, int32_bias=True, weight_steps=_SEVEN_BITS
    ),
}


def int8_from_fp32(
    model: ir.Model,
    table: CalibrationTable,
    target: Target,
    *,
    keep_float: Collection[str] = (),
    rounding: Rounding = nearest,
    placement: Placement = DEFAULT_PLACEMENT,
) -> ir.Model:
    """Writes Q/DQ nodes into a copy of an FP32 graph.

    Requires: standard `LRN` nodes (lower afterwards: the banded convolution must not be quantized).
    Ensures: every convolution and fully connected layer with constant weights reads INT8 activations and INT8
    weights per output channel; LRN and pools stay as they are.

    Args:
        model: The FP32 graph.
        table: Its calibration table.
        target: Where it will run.
        keep_float: Names of layers that stay as they are.
        rounding: How weights become integers.
        placement: Where else to quantize.

    Raises:
        InputError: The table belongs to another graph, or a layer to keep is not there.
    """
    scheme = replace(SCHEMES[target], placement=placement)
    return int8_with_scheme(model, table, scheme, keep_float=keep_float, rounding=rounding)


def int8_with_scheme(
    model: ir.Model,
    table: CalibrationTable,
    scheme: QuantizationScheme,
    *,
    keep_float: Collection[str] = (),
    rounding: Rounding = nearest,
) -> ir.Model:
    """`int8_from_fp32` with a scheme of one's own."""
    copy = copy_of(model)
    if scheme.float8:
        require_opset(copy, FLOAT8_OPSET)
    writer = _QdqWriter(copy, table, scheme, rounding)
    layers = list(weighted_nodes(copy))
    keep_float = {*scheme.placement.in_float([layer.name for layer in layers]), *keep_float}
    unknown = keep_float - {layer.name for layer in layers}
    if unknown:
        raise InputError(
            "no such layer to keep in float",
            got=", ".join(sorted(unknown)),
            expected=", ".join(layer.name for layer in layers),
        )
    for layer in layers:
        if layer.name not in keep_float:
            writer.quantize_layer(layer)
    if scheme.quantize_outputs:
        for layer in layers:
            if layer.name in keep_float:
                writer.shield(layer)
    return copy


def float8_layers(model: ir.Model) -> list[str]:
    """Names of the layers that TensorRT computes in FP8: the fully connected ones, and convolutions whose filters
    have at most 32 places; TensorRT-RTX 1.7 builds larger ones in the precision around them."""
    return [layer.name for layer in weighted_nodes(model) if math.prod(layer.weight.shape[2:]) <= _FLOAT8_PLACES]


def float8_from_fp32(model: ir.Model, table: CalibrationTable) -> ir.Model:
    """Writes Q/DQ nodes of FP8 (E4M3) around the layers that TensorRT computes in it, and around no others.

    Scales follow the OCP's «8-bit Floating Point Specification»: the largest magnitude becomes 448. Activations have
    one scale a tensor, weights one an output channel, rounded to the nearest.

    Args:
        model: The FP32 graph.
        table: Its calibration table.
    """
    able = float8_layers(model)
    others = [layer.name for layer in weighted_nodes(model) if layer.name not in able]
    return int8_with_scheme(model, table, _FLOAT8, keep_float=others, rounding=nearest_float8)


class _QdqWriter:
    def __init__(
        self, model: ir.Model, table: CalibrationTable, scheme: QuantizationScheme, rounding: Rounding
    ) -> None:
        self.model, self.table, self.scheme, self.rounding = model, table, scheme, rounding
        self.dequantized: dict[str, ir.Value] = {}

    def quantize_layer(self, layer: WeightedNode) -> None:
        """Activation, weight, bias, and the output where the scheme wants it."""
        node = layer.node
        if self.scheme.placement.before_pool:
            self._before_pool(layer)
        activation = self._dequantized(layer.activation)
        weights = self.rounding(layer, self.scheme.weight_steps, self._smallest_scale(layer))
        if weights.bias_change is not None and node.op_type != "MatMul":
            layer = self._with_bias(layer, weights.bias_change)
        self._weight(layer, weights)
        node.replace_input_with(0, activation)
        if self.scheme.int32_bias:
            self._bias(layer, weights.scale)
        output = result_of(node)
        normed = self.scheme.placement.before_norm and all(use.node.op_type == "LRN" for use in output.uses())
        if (self.scheme.quantize_outputs or normed) and output not in self.model.graph.outputs:
            self._dequantized(output, everywhere=True)

    def _before_pool(self, layer: WeightedNode) -> None:
        """With the scale of what the pool gives: a larger value which it drops may saturate."""
        value: ir.Value | None = layer.activation
        node = value.producer() if value is not None else None
        while node is not None and node.op_type == "Flatten":
            value = node.inputs[0]
            node = value.producer() if value is not None else None
        source = node.inputs[0] if node is not None and node.op_type == "MaxPool" else None
        if node is None or source is None or len(list(source.uses())) != 1 or source.name == layer.activation.name:
            return
        if not str(source.name).endswith(".dequantized"):
            node.replace_input_with(0, self._quantize_dequantize(source, str(source.name), str(layer.activation.name)))

    def shield(self, layer: WeightedNode) -> None:
        """Keeps a float layer float.

        ONNX Runtime quantizes the weights of a float layer by itself, per tensor, where it stands between a
        DequantizeLinear with one scale and a QuantizeLinear. It leaves a DequantizeLinear per channel alone.
        """
        import onnx_ir as ir

        producer = layer.node.inputs[0].producer() if layer.node.inputs[0] is not None else None
        if producer is None or producer.op_type != "DequantizeLinear":
            return
        groups = layer.node.attributes.get_int("group", 1)
        channels = layer.weight.shape[1] * groups
        quantized, *parameters = producer.inputs
        constants = [
            self._constant(f"{layer.name}.float.{name}", np.full(channels, constant_of(value)))
            for name, value in zip(("scale", "zero_point"), parameters, strict=True)
        ]
        assert quantized is not None
        dequantize = self._node("DequantizeLinear", [quantized, *constants], f"{layer.name}.float", axis=1)
        dequantize.outputs[0].dtype, dequantize.outputs[0].shape = ir.DataType.FLOAT, producer.outputs[0].shape
        self.model.graph.insert_before(layer.node, dequantize)
        layer.node.replace_input_with(0, dequantize.outputs[0])
        if not producer.outputs[0].uses() and producer.outputs[0] not in self.model.graph.outputs:
            self.model.graph.remove(producer, safe=True)

    def _dequantized(self, value: ir.Value, *, everywhere: bool = False) -> ir.Value:
        """Q and DQ after `value`, made once; `everywhere` makes every reader use them."""
        name = str(value.name)
        if name.endswith(".dequantized"):
            return value
        if name not in self.dequantized:
            self.dequantized[name] = self._quantize_dequantize(value, name)
        result = self.dequantized[name]
        if everywhere:
            for use in list(value.uses()):
                if use.node.op_type != "QuantizeLinear":
                    use.node.replace_input_with(use.idx, result)
        return result

    def _quantize_dequantize(self, value: ir.Value, name: str, range_of: str | None = None) -> ir.Value:
        import onnx_ir as ir

        found = self.table.range_of(range_of or name)
        zero_point: NDArray[np.generic]
        if self.scheme.float8:
            scale, zero_point = found.float8_scale, np.zeros((), float8())
        elif self.scheme.unsigned_activations:
            scale, zero = found.affine
            zero_point = np.asarray(zero, np.uint8)
        else:
            scale, zero_point = found.symmetric_scale, np.asarray(0, np.int8)
        inputs = [
            self._constant(f"{name}.scale", np.asarray(scale, np.float32)),
            self._constant(f"{name}.zero_point", zero_point),
        ]
        quantize = self._node("QuantizeLinear", [value, *inputs], f"{name}.quantized")
        dequantize = self._node("DequantizeLinear", [quantize.outputs[0], *inputs], f"{name}.dequantized")
        dequantize.outputs[0].dtype, dequantize.outputs[0].shape = ir.DataType.FLOAT, value.shape
        producer = value.producer()
        if producer is None:
            self.model.graph.insert_before(self.model.graph[0], [quantize, dequantize])
        else:
            self.model.graph.insert_after(producer, [quantize, dequantize])
        return dequantize.outputs[0]

    def _weight(self, layer: WeightedNode, weights: IntegerWeights) -> None:
        integers, scale, axis = weights.integers, weights.scale, 0
        if layer.transposed:
            integers, axis = np.ascontiguousarray(integers.T), 1
        name = f"{layer.name}.weight"
        kind = "fp8" if self.scheme.float8 else "int8"
        inputs = [
            self._constant(f"{name}.{kind}", integers),
            self._constant(f"{name}.scale", scale),
            self._constant(f"{name}.zero_point", np.zeros(len(scale), integers.dtype)),
        ]
        dequantize = self._node("DequantizeLinear", inputs, f"{name}.dequantized", axis=axis)
        self.model.graph.insert_before(layer.node, dequantize)
        layer.node.replace_input_with(1, dequantize.outputs[0])
        forget_unused(self.model, layer.weight_value)

    def _with_bias(self, layer: WeightedNode, change: NDArray[np.float64]) -> WeightedNode:
        """A constant of its own, because two layers may share the old one."""
        present = constant_of(layer.bias_value)
        moved = change if present is None else present + change
        value = self._constant(f"{layer.name}.bias.corrected", moved.astype(np.float32))
        if len(layer.node.inputs) < 3:
            layer.node.resize_inputs(3)
        layer.node.replace_input_with(2, value)
        if layer.bias_value is not None:
            forget_unused(self.model, layer.bias_value)
        return replace(layer, bias_value=value)

    def _smallest_scale(self, layer: WeightedNode) -> NDArray[np.floating] | float:
        """Below it, a bias in int32 would not hold its value: a channel with hardly any weight is all bias."""
        bias = constant_of(layer.bias_value) if self.scheme.int32_bias else None
        if bias is None:
            return 0.0
        return np.abs(bias.astype(np.float64)) / (self._activation_scale(layer) * _LARGEST_BIAS)

    def _bias(self, layer: WeightedNode, weight_scale: NDArray[np.float32]) -> None:
        if layer.node.op_type == "MatMul":
            return
        bias = constant_of(layer.bias_value)
        values = np.zeros(len(weight_scale), np.float32) if bias is None else bias.astype(np.float64)
        scale = np.maximum(np.float32(self._activation_scale(layer)) * weight_scale, SMALLEST_SCALE).astype(np.float32)
        limit = np.iinfo(np.int32).max
        integers = np.clip(np.rint(values / scale.astype(np.float64)), -limit, limit).astype(np.int32)
        name = f"{layer.name}.bias"
        inputs = [
            self._constant(f"{name}.int32", integers),
            self._constant(f"{name}.scale", scale),
            self._constant(f"{name}.zero_point", np.zeros(len(scale), np.int32)),
        ]
        dequantize = self._node("DequantizeLinear", inputs, f"{name}.dequantized", axis=0)
        self.model.graph.insert_before(layer.node, dequantize)
        if len(layer.node.inputs) < 3:
            layer.node.resize_inputs(3)
        layer.node.replace_input_with(2, dequantize.outputs[0])
        if layer.bias_value is not None:
            forget_unused(self.model, layer.bias_value)

    def _activation_scale(self, layer: WeightedNode) -> float:
        found = self.table.range_of(str(layer.activation.name).removesuffix(".dequantized"))
        return found.affine[0] if self.scheme.unsigned_activations else found.symmetric_scale

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        return add_initializer(self.model, name, array)

    @staticmethod
    def _node(op: str, inputs: list[ir.Value], name: str, **attributes: int) -> ir.Node:
        import onnx_ir as ir

        node = ir.node(op, inputs, attributes, name=name)
        node.outputs[0].name = name
        return node

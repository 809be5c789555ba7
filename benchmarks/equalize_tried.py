"""Cross-layer equalization, which was tried for int8 and is not what the product does.

M. Nagel et al., «Data-Free Quantization Through Weight Equalization and Bias Correction», ICCV 2019; with the ranges of
activations in place of the first layer's weights, as G. Xiao et al., «SmoothQuant», ICML 2023, balance them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.graph import WeightedNode, add_initializer, constant_of, copy_of, weighted_nodes
from alexnet_deploy.precision.calibrate import ObservingSession

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

_LARGEST = 16.0
# What a scale of a channel goes through unchanged; an LRN, which mixes channels, is not among them.
_SCALES = frozenset({"Relu", "MaxPool", "Flatten"})


def equalized(model: ir.Model, images: NDArray[np.float32]) -> ir.Model:
    """The same FP32 network, its channels scaled by powers of two so that activations and the weights that read them
    share the unevenness, `(largest activation / largest weight)**0.5`.

    Args:
        model: An FP32 graph.
        images: That show how large activations become.
    """
    copy = copy_of(model)
    layers = list(weighted_nodes(copy))
    names = [str(layer.activation.name) for layer in layers]
    values = dict(zip(names, ObservingSession(model, names).run(images), strict=True))
    weights = {layer.name: layer.weight.copy() for layer in layers}
    biases = {layer.name: constant_of(layer.bias_value) for layer in layers}
    for reader in layers:
        writer = _writer(reader, layers)
        bias = None if writer is None else biases[writer.name]
        if writer is None or bias is None:
            continue
        channels = len(bias)
        groups = reader.node.attributes.get_int("group", 1)
        shape = (groups, len(reader.weight) // groups, channels // groups, -1)
        by_channel = weights[reader.name].reshape(shape)
        seen = values[str(reader.activation.name)]
        activation = np.abs(seen.reshape(len(seen), channels, -1)).max(axis=(0, 2))
        scale = _scale(activation, np.abs(by_channel).max(axis=(1, 3)).reshape(-1))
        weights[writer.name] /= scale.reshape(-1, *[1] * (weights[writer.name].ndim - 1))
        biases[writer.name] = bias / scale
        weights[reader.name] = (by_channel * scale.reshape(groups, 1, -1, 1)).reshape(reader.weight.shape)
    for layer in layers:
        weight = weights[layer.name].T if layer.transposed else weights[layer.name]
        for place, array in ((1, np.ascontiguousarray(weight)), (2, biases[layer.name])):
            if array is not None:
                value = add_initializer(copy, f"{layer.name}.equalized.{place}", array.astype(np.float32))
                layer.node.replace_input_with(place, value)
    return copy


def _scale(activation: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    used = (activation > 0) & (weight > 0)
    scale = np.ones(len(activation))
    if used.any():
        scale[used] = np.sqrt(activation[used] / weight[used])
        scale[used] /= np.exp(np.log(scale[used]).mean())
    return np.clip(np.exp2(np.rint(np.log2(scale))), 1 / _LARGEST, _LARGEST).astype(np.float32)


def _writer(reader: WeightedNode, layers: list[WeightedNode]) -> WeightedNode | None:
    """The layer whose channels `reader` reads, where nothing but them is in between and nobody else reads them."""
    value: ir.Value | None = reader.activation
    while value is not None and len(list(value.uses())) == 1:
        node = value.producer()
        found = [layer for layer in layers if layer.node is node]
        if found:
            return found[0]
        if node is None or node.op_type not in _SCALES:
            return None
        value = node.inputs[0]
    return None

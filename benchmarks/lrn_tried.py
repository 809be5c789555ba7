"""Forms of banded LRN that were tried for ONNX Runtime and are not what the product writes."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import onnx_ir as ir

from alexnet_deploy.graph import add_initializer, copy_of
from alexnet_deploy.lrn import lowering
from alexnet_deploy.lrn.lowering import band_weights, lower_to_banded, lrn_nodes, spec_of


def left_out(model: ir.Model) -> ir.Model:
    """No LRN at all: what is left to win. It computes something else."""
    copy = copy_of(model)
    for node in lrn_nodes(copy):
        source = node.inputs[0]
        assert source is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], source)
        copy.graph.remove(node, safe=True)
    return copy


def dense(model: ir.Model) -> ir.Model:
    """One 1x1 convolution over all the channels instead of groups with a low-rank term."""
    copy = copy_of(model)
    with patch.object(lowering, "_WORTHWHILE", 0.0):
        lower_to_banded(copy)
    return copy


def matmul(model: ir.Model) -> ir.Model:
    """A product from the left over NCHW: no convolution, so nothing of the norm is in the blocked layout."""
    return _rewritten(model, _matmul)


def multiplied(model: ir.Model) -> ir.Model:
    """`x * (s**(1/4) / s)`: the last step is a product, which ONNX Runtime keeps in the blocked layout."""
    return _rewritten(model, _multiplied)


def unscaled_rows(model: ir.Model) -> ir.Model:
    """The Gemm over NHWC rows without the scaled input: three nodes read it, three dequantizations follow."""
    return _rewritten(model, _unscaled_rows)


def _rewritten(model: ir.Model, build: Any) -> ir.Model:
    copy = copy_of(model)
    for node in lrn_nodes(copy):
        x, output = node.inputs[0], node.outputs[0]
        assert x is not None and x.shape is not None and spec_of(node).beta == 0.75
        nodes: list[ir.Node] = []
        build(copy, node, x, [side for side in list(x.shape)[1:] if isinstance(side, int)], nodes)
        nodes[-1].outputs[0].name, nodes[-1].outputs[0].shape = output.name, output.shape
        nodes[-1].outputs[0].type = output.type
        ir.convenience.replace_nodes_and_values(copy.graph, node, [node], nodes, [output], nodes[-1].outputs)
    return copy


def _adder(model: ir.Model, name: str, nodes: list[ir.Node]) -> tuple[Any, Any]:
    def constant(suffix: str, values: Any, dtype: Any = np.float32) -> ir.Value:
        return add_initializer(model, f"{name}.{suffix}", np.asarray(values, dtype))

    def add(op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op, list(inputs), attributes, name=f"{name}.{len(nodes)}")
        node.outputs[0].name = f"{name}.{len(nodes)}.out"
        nodes.append(node)
        return node.outputs[0]

    return constant, add


def _matmul(model: ir.Model, node: ir.Node, x: ir.Value, sides: list[int], nodes: list[ir.Node]) -> None:
    constant, add = _adder(model, str(node.name), nodes)
    spec, (channels, height, width) = spec_of(node), sides
    rows = add("Reshape", x, constant("rows", [0, channels, -1], np.int64))
    product = add("MatMul", constant("band", band_weights(channels, spec)[:, :, 0, 0]), add("Mul", rows, rows))
    root = add("Sqrt", add("Add", product, constant("bias", spec.bias)))
    quotient = add("Div", rows, add("Mul", root, add("Sqrt", root)))
    add("Reshape", quotient, constant("back", [0, channels, height, width], np.int64))


def _multiplied(model: ir.Model, node: ir.Node, x: ir.Value, sides: list[int], nodes: list[ir.Node]) -> None:
    constant, add = _adder(model, str(node.name), nodes)
    spec, channels = spec_of(node), sides[0]
    bias = constant("bias", np.full(channels, spec.bias))
    sums = add("Conv", add("Mul", x, x), constant("band", band_weights(channels, spec)), bias)
    add("Mul", x, add("Div", add("Sqrt", add("Sqrt", sums)), sums))


def _unscaled_rows(model: ir.Model, node: ir.Node, x: ir.Value, sides: list[int], nodes: list[ir.Node]) -> None:
    constant, add = _adder(model, str(node.name), nodes)
    spec, (channels, height, width) = spec_of(node), sides
    last = add("Transpose", x, perm=[0, 2, 3, 1])
    rows = add("Reshape", last, constant("rows", [-1, channels], np.int64))
    band = constant("band", band_weights(channels, spec)[:, :, 0, 0].T)
    sums = add("Gemm", add("Mul", rows, rows), band, constant("bias", np.full(channels, spec.bias)))
    root = add("Sqrt", sums)
    quotient = add("Div", rows, add("Mul", root, add("Sqrt", root)))
    add(
        "Transpose",
        add("Reshape", quotient, constant("back", [-1, height, width, channels], np.int64)),
        perm=[0, 3, 1, 2],
    )

"""Graphs of a few nodes in the forms that exporters write, from which every pass has something to do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 8
Constants = dict[str, NDArray[Any]]


def _model(
    nodes: Sequence[onnx.NodeProto], constants: Constants, shape: Sequence[int | str], opset: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "by hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _weights(*shape: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def _head(source: str, *, features: int) -> tuple[list[onnx.NodeProto], Constants]:
    """Flattened and multiplied, to `y`."""
    nodes = [
        helper.make_node("Reshape", [source, "flat_shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc_w", "fc_b"], ["y"], name="fc", transB=1),
    ]
    constants: Constants = {
        "flat_shape": np.asarray([-1, features], np.int64), "fc_w": _weights(4, features, seed=8),
        "fc_b": _weights(4, seed=9),
    }  # fmt: skip
    return nodes, constants


def _with_lrn() -> onnx.ModelProto:
    head, constants = _head("dropped", features=6 * 3 * 3)
    nodes = [
        helper.make_node("Conv", ["x", "conv_w", "conv_b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("LRN", ["r"], ["n"], size=5, alpha=1e-2, beta=0.75, bias=1.0),
        helper.make_node("MaxPool", ["n"], ["p"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Dropout", ["p"], ["dropped", "mask"]),
        *head,
    ]
    constants |= {"conv_w": _weights(6, 3, 3, 3, seed=0), "conv_b": _weights(6, seed=1)}
    return _model(nodes, constants, ["N", 3, SIDE, SIDE], 18)


def _with_torn_lrn() -> onnx.ModelProto:
    """As torch writes it, over the input itself, in an older operator set and with a fixed batch."""
    head, constants = _head("q", features=3 * SIDE * SIDE)
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("Unsqueeze", ["squares", "one"], ["wide"]),
        helper.make_node("Pad", ["wide", "pads"], ["padded"]),
        helper.make_node("AveragePool", ["padded"], ["mean"], kernel_shape=[3, 1, 1], strides=[1, 1, 1]),
        helper.make_node("Squeeze", ["mean", "one"], ["narrow"]),
        helper.make_node("Mul", ["narrow", "alpha"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["sums"]),
        helper.make_node("Pow", ["sums", "beta"], ["power"]),
        helper.make_node("Div", ["x", "power"], ["q"]),
        *head,
    ]
    constants |= {
        "one": np.asarray([1], np.int64), "pads": np.asarray([0, 0, 1, 0, 0, 0, 0, 1, 0, 0], np.int64),
        "alpha": np.asarray(1e-2, np.float32), "bias": np.asarray(2.0, np.float32),
        "beta": np.asarray(0.75, np.float32),
    }  # fmt: skip
    return _model(nodes, constants, [2, 3, SIDE, SIDE], 13)


def _as_caffe2_wrote() -> onnx.ModelProto:
    """Weights that are inputs, or made by nodes, and a matrix product without a bias."""
    fill = helper.make_tensor("fill", TensorProto.FLOAT, [1], [0.1])
    nodes = [
        helper.make_node(
            "Constant", [], ["conv1_w_0"], value=numpy_helper.from_array(_weights(2, 3, 3, 3, seed=2), "w")
        ),
        helper.make_node("ConstantOfShape", ["bias_shape"], ["conv1_b_0"], value=fill),
        helper.make_node("Conv", ["x", "conv1_w_0", "conv1_b_0"], ["c"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Identity", ["c"], ["same"]),
        helper.make_node("Flatten", ["same"], ["flat"], axis=1),
        helper.make_node("Reshape", ["fc_raw", "fc_shape"], ["fc_w"]),
        helper.make_node("MatMul", ["flat", "fc_w"], ["y"]),
    ]
    constants: Constants = {
        "bias_shape": np.asarray([2], np.int64), "fc_raw": _weights(1, 1, 18, 4, seed=3),
        "fc_shape": np.asarray([18, 4], np.int64),
    }  # fmt: skip
    model = _model(nodes, constants, [1, 3, SIDE, SIDE], 9)
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("fc_raw", TensorProto.FLOAT, [1, 1, 18, 4]))
    model.graph.input.append(helper.make_tensor_value_info("fc_shape", TensorProto.INT64, [2]))
    model.graph.input.append(helper.make_tensor_value_info("bias_shape", TensorProto.INT64, [1]))
    return model


@cache
def graphs() -> tuple[bytes, ...]:
    """The graphs, serialized."""
    found = tuple(make().SerializeToString() for make in (_with_lrn, _with_torn_lrn, _as_caffe2_wrote))
    for data in found:
        onnx.checker.check_model(data)
    return found


def one_layer(*, image: bool = False) -> ir.Model:
    """A convolution and its ReLU from `x` by `c` to `y`, with a channel that is all zeros; `image` reads 63 pixels."""
    weight = _weights(4, 3, 3, 3, seed=5)
    weight[1] = 0
    side = 63 if image else SIDE
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv1", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["z"], name="relu1"),
        helper.make_node("GlobalAveragePool", ["z"], ["pooled"], name="pool1"),
        helper.make_node("Flatten", ["pooled"], ["y"], name="flatten"),
    ]
    return ir.from_proto(_model(nodes, {"w": weight, "b": _weights(4, seed=6)}, ["N", 3, side, side], 18))

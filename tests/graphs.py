"""Graphs that several tests read: exported once a process, copied for each caller, and small ones built by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.data.batches import load_batch
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.engines.build import BuiltEngine, engine_from_onnx
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.export import onnx_from_network
from alexnet_deploy.graph import copy_of, graph_bytes
from alexnet_deploy.normalise import Normalised
from alexnet_deploy.precision.calibrate import table_from_images
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.specs import Precision, Target
from tests.conftest import small_info, small_network, small_preprocessing

GRAPH_HASH = "0" * 64
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
LINEARS = ("fc6", "fc7", "fc8")


@cache
def exported(variant: str) -> Normalised:
    """`small_network` after export; read it, do not change it."""
    return onnx_from_network(small_network(variant), small_info(variant))


def small_graph(variant: str = "paper") -> ir.Model:
    """A copy of the exported `small_network` that a pass may change."""
    return copy_of(exported(variant).model)


@cache
def _shipped_batch(count: int) -> NDArray[np.float32]:
    return load_batch(shipped_images(Split.EVALUATION), np.arange(count), small_preprocessing()).images


def shipped_batch(count: int) -> NDArray[np.float32]:
    """The first shipped evaluation images as `small_network` reads them."""
    return _shipped_batch(count).copy()


@cache
def small_table() -> CalibrationTable:
    """Ranges of `small_graph` over 32 shipped images."""
    source = shipped_images(Split.CALIBRATION).subset(range(32))
    return table_from_images(small_graph(), source, small_preprocessing(), GRAPH_HASH)


@cache
def engine_graph(precision: Precision) -> bytes:
    """`small_graph` as TensorRT-RTX reads it."""
    model = small_graph()
    if precision is Precision.INT8:
        return graph_bytes(int8_from_fp32(model, small_table(), Target.TENSORRT_RTX))
    return graph_bytes(model if precision is Precision.FP32 else half_from_fp32(model, precision))


@cache
def small_engine(precision: Precision) -> BuiltEngine:
    """An engine of `small_graph` for SM86 and SM89; needs TensorRT-RTX, and no GPU."""
    options = EngineOptions(precision=precision, backend="tensorrt-rtx", sms=(86, 89))
    return engine_from_onnx(engine_graph(precision), options)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    constants: Mapping[str, NDArray[Any]],
    *,
    opset: int = 18,
) -> ir.Model:
    """A graph from `x` to `y`, with its shapes inferred."""
    graph = helper.make_graph(
        list(nodes),
        "by hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def operators(model: ir.Model) -> list[str]:
    """The operators of a graph in order."""
    return [node.op_type for node in model.graph]


def evaluate(model: ir.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Runs a graph with one input and one output as it is written, without any optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result


def relative_error(got: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Largest difference as a share of the largest expected value."""
    return float(np.abs(got.astype(np.float64) - expected).max() / np.abs(expected).max())

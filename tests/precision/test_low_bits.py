"""FP8 and INT4 graphs: what becomes of which layer, how exact it is, and that TensorRT-RTX builds it so."""

from __future__ import annotations

from functools import cache

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.engines.build import engine_from_onnx
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.engines.proof import require_precision
from alexnet_deploy.errors import GraphError, PrecisionProofError
from alexnet_deploy.graph import graph_bytes, weighted_nodes
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.precision.int4 import BLOCK, int4_from_fp32, linear_layers
from alexnet_deploy.precision.moments import moments_from_images
from alexnet_deploy.precision.qdq import float8_from_fp32, float8_layers
from alexnet_deploy.specs import Precision
from tests.conftest import small_preprocessing
from tests.graphs import CONVOLUTIONS, LINEARS, evaluate, shipped_batch, small_graph, small_table

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)


@cache
def int4_bytes() -> bytes:
    graph = small_graph()
    source = shipped_images(Split.CALIBRATION).subset(range(24))
    layers = [layer for layer in weighted_nodes(graph) if layer.weight.ndim == 2]
    moments = moments_from_images(graph, source, small_preprocessing(), layers, full=True)
    return graph_bytes(int4_from_fp32(graph, moments))


def int4() -> ir.Model:
    import onnx

    return ir.from_proto(onnx.load_from_string(int4_bytes()))


def float8() -> ir.Model:
    return float8_from_fp32(small_graph(), small_table())


def plainly(data: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def sqnr(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    return float(10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum()))


def test_fp8_is_in_every_layer_but_those_of_large_filters() -> None:
    assert float8_layers(small_graph()) == [*CONVOLUTIONS[1:], *LINEARS]
    graph = float8()
    weights = {name for name, value in graph.graph.initializers.items() if name.endswith(".weight.fp8")}
    assert weights == {f"{name}.weight.fp8" for name in [*CONVOLUTIONS[1:], *LINEARS]}
    for name in weights:
        tensor = graph.graph.initializers[name].const_value
        assert tensor is not None and tensor.dtype == ir.DataType.FLOAT8E4M3FN
        assert np.abs(tensor.numpy().astype(np.float32)).max() == 448
    for node in graph.graph:
        if node.op_type == "QuantizeLinear":
            scale, zero = node.inputs[1], node.inputs[2]
            assert scale is not None and scale.shape == ir.Shape([]) and zero is not None
            assert zero.dtype == ir.DataType.FLOAT8E4M3FN
    assert graph.opset_imports[""] >= 19


def test_fp8_and_int4_compute_nearly_what_fp32_does() -> None:
    images = shipped_batch(16)
    expected = evaluate(small_graph(), images)
    assert 15 < sqnr(expected, plainly(graph_bytes(float8()), images)) < 40
    assert 20 < sqnr(expected, plainly(int4_bytes(), images)) < 60


def test_int4_is_in_the_fully_connected_layers_in_blocks() -> None:
    assert linear_layers(small_graph()) == list(LINEARS)
    graph = int4()
    for layer in weighted_nodes(small_graph()):
        name = f"{layer.name}.weight"
        if layer.weight.ndim == 4:
            assert f"{name}.int4" not in graph.graph.initializers
            continue
        tensor, scale = (graph.graph.initializers[f"{name}.{suffix}"].const_value for suffix in ("int4", "scale"))
        assert tensor is not None and scale is not None and tensor.dtype == ir.DataType.INT4
        integers, steps = tensor.numpy().astype(np.float32), scale.numpy()
        assert np.abs(integers).max() == 7
        np.testing.assert_array_equal(steps, steps.astype(np.float16).astype(np.float32))
        got, weight = (integers, layer.weight) if integers.shape == layer.weight.shape else (integers.T, layer.weight)
        wide = np.repeat(steps if steps.shape[0] == len(weight) else steps.T, BLOCK, axis=1)
        assert np.corrcoef((got * wide).ravel(), weight.ravel())[0, 1] > 0.97


def test_no_layer_that_can_be_int4_is_an_error() -> None:
    graph = small_graph()
    for layer in list(weighted_nodes(graph)):
        if layer.weight.ndim == 2:
            layer.node.op_type = "Unknown"
    with pytest.raises(GraphError, match="no layer can have INT4 weights") as caught:
        int4_from_fp32(graph, {})
    assert caught.value.remedy


def test_an_fp8_engine_proves_its_layers() -> None:
    pytest.importorskip("tensorrt_rtx")
    half = half_from_fp32(float8(), Precision.FP16)
    options = EngineOptions(precision=Precision.FP8, backend="tensorrt-rtx", sms=(89, 120))
    plan = engine_from_onnx(graph_bytes(half), options).plan
    assert {layer.name: layer.precision for layer in plan.layers} == {
        name: "fp16" if name == "conv1" else "fp8" for name in [*CONVOLUTIONS, *LINEARS]
    }
    require_precision(plan, "fp8", float8_layers(small_graph()))
    with pytest.raises(PrecisionProofError, match="1 of 8"):
        require_precision(plan, "fp8", [*CONVOLUTIONS, *LINEARS])


def test_an_int4_engine_proves_its_weights() -> None:
    pytest.importorskip("tensorrt_rtx")
    half = half_from_fp32(int4(), Precision.FP16)
    options = EngineOptions(precision=Precision.INT4, backend="tensorrt-rtx", sms=(86, 89))
    plan = engine_from_onnx(graph_bytes(half), options).plan
    by_name = {layer.name: layer for layer in plan.layers}
    assert {name: by_name[name].precision for name in by_name} == {
        **dict.fromkeys(CONVOLUTIONS, "fp16"), **dict.fromkeys(LINEARS, "int4"),
    }  # fmt: skip
    sizes = {layer.name: layer.weight.size for layer in weighted_nodes(small_graph())}
    assert plan.weight_bytes_by_type["int4"] == sum(sizes[name] for name in LINEARS) // 2
    for name in LINEARS:
        assert by_name[name].weight_bytes == sizes[name] // 2

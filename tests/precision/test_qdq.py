"""Weights are rounded to the nearest step, and each target gets Q/DQ where it fuses them, proved on ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.export import lowered, run_onnx
from alexnet_deploy.graph import constant_of, graph_bytes, info_of
from alexnet_deploy.lrn.lowering import lrn_nodes
from alexnet_deploy.precision.calibrate import table_from_images
from alexnet_deploy.precision.qdq import Placement, int8_from_fp32
from alexnet_deploy.precision.table import CalibrationTable, Range
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.precision.weights import largest_by_channel, rounded
from alexnet_deploy.precision.weights import scales as scales_of
from alexnet_deploy.specs import Lowering, Preprocessing, Target
from tests.conftest import random_images, small_info
from tests.graphs import (
    CONVOLUTIONS,
    GRAPH_HASH,
    LINEARS,
    evaluate,
    model_of,
    operators,
    relative_error,
    shipped_batch,
    small_graph,
    small_table,
)

# These read quantized inputs and give floats; their type of activation, and the largest step of their weights.
INPUTS_ONLY = {
    Target.TENSORRT: (np.int8, 127),
    Target.TENSORRT_RTX: (np.int8, 127),
    Target.OPENVINO: (np.uint8, 63),
}
PLAIN = Preprocessing(image_size=8, resize_size=8, scale=0.01, mean=(1.0,) * 3, std=(1.0,) * 3)


def sqnr(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    noise = np.square(got.astype(np.float64) - expected).sum()
    return float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise))


def array_of(value: ir.Value | None) -> NDArray[Any]:
    array = constant_of(value)
    assert array is not None
    return array


def producer_of(value: ir.Value | None, op_type: str) -> ir.Node:
    node = None if value is None else value.producer()
    assert node is not None and node.op_type == op_type
    return node


WEIGHTS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)),
    elements=st.one_of(
        st.just(0.0),
        st.floats(-1000, 1000, width=32).filter(lambda value: value == 0 or abs(value) > np.float32(1e-30)),
    ),
)


def quantize_weights(weight: NDArray[np.float32], steps: int = 127) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scale = scales_of(largest_by_channel(weight), steps)
    return rounded(weight, scale, steps), scale


@given(WEIGHTS, st.sampled_from([127, 63]))
def test_weights_are_off_by_at_most_half_a_step(weight: NDArray[np.float32], steps: int) -> None:
    integers, scale = quantize_weights(weight, steps)
    assert integers.shape == weight.shape and integers.dtype == np.int8
    assert scale.shape == weight.shape[:1] and scale.dtype == np.float32
    assert int(np.abs(integers.astype(int)).max()) <= steps
    wide = scale.astype(np.float64).reshape(-1, 1, 1, 1)
    error = np.abs(integers * wide - weight)
    # The scale is FP32: half a unit in its last place for every step.
    assert (error <= wide * (0.5 + steps * 2.0**-24)).all()
    for channel in range(len(weight)):
        largest = np.abs(weight[channel]).max()
        if largest == 0:
            assert scale[channel] == 1 and not integers[channel].any()
        else:
            assert np.abs(integers[channel].astype(int)).max() == steps


@given(WEIGHTS)
def test_the_sign_of_the_weights_does_not_matter(weight: NDArray[np.float32]) -> None:
    integers, scale = quantize_weights(weight)
    negated, same_scale = quantize_weights(-weight)
    np.testing.assert_array_equal(negated, -integers)
    np.testing.assert_array_equal(same_scale, scale)


def test_ties_go_to_the_nearest_even_step() -> None:
    weight = np.asarray([[127.0, 0.5, 1.5, -2.5, 3.5]], np.float32)
    integers, scale = quantize_weights(weight)
    assert scale[0] == 1
    np.testing.assert_array_equal(integers, [[127, 0, 2, -2, 4]])


@cache
def quantized(target: Target, variant: str = "paper") -> ir.Model:
    return int8_from_fp32(small_graph(variant), table_of(variant), target)


@cache
def table_of(variant: str) -> CalibrationTable:
    if variant == "paper":
        return small_table()
    return table_from_images(small_graph(variant), random_images(16), small_info(variant).preprocessing, GRAPH_HASH)


@pytest.mark.parametrize("variant", ["paper", "caffenet"])
@pytest.mark.parametrize(("target", "activation_type", "steps"), [(t, *how) for t, how in INPUTS_ONLY.items()])
def test_layers_read_quantized_activations_and_weights_and_add_float_biases(
    target: Target, activation_type: type[np.integer[Any]], steps: int, variant: str
) -> None:
    original = {node.name: node for node in small_graph(variant).graph}
    nodes = {node.name: node for node in quantized(target, variant).graph}
    for name in CONVOLUTIONS + LINEARS:
        node, before = nodes[name], original[name]
        dequantize = producer_of(node.inputs[0], "DequantizeLinear")
        quantize = producer_of(dequantize.inputs[0], "QuantizeLinear")
        read = before.inputs[0]
        assert read is not None and quantize.inputs[0] is not None and quantize.inputs[0].name == read.name
        assert list(quantize.inputs)[1:] == list(dequantize.inputs)[1:]
        scale, zero_point = array_of(dequantize.inputs[1]), array_of(dequantize.inputs[2])
        assert scale.shape == () and scale.dtype == np.float32
        found = table_of(variant).range_of(str(read.name))
        expected = found.affine if activation_type is np.uint8 else (found.symmetric_scale, 0)
        assert float(scale) == pytest.approx(expected[0], rel=1e-7)
        assert zero_point.shape == () and zero_point.dtype == activation_type and zero_point == expected[1]

        weights = producer_of(node.inputs[1], "DequantizeLinear")
        assert weights.attributes["axis"].as_int() == 0
        integers, scales = quantize_weights(array_of(before.inputs[1]).astype(np.float32), steps)
        np.testing.assert_array_equal(array_of(weights.inputs[0]), integers)
        np.testing.assert_array_equal(array_of(weights.inputs[1]), scales)
        zero_points = array_of(weights.inputs[2])
        assert zero_points.dtype == np.int8 and zero_points.shape == scales.shape and not zero_points.any()

        bias = array_of(node.inputs[2])
        assert bias.dtype == np.float32
        np.testing.assert_array_equal(bias, array_of(before.inputs[2]))


@pytest.mark.parametrize("target", INPUTS_ONLY)
def test_nothing_but_inputs_and_weights_is_quantized(target: Target) -> None:
    found = operators(quantized(target))
    assert found.count("QuantizeLinear") == 8
    assert found.count("DequantizeLinear") == 16
    assert [op for op in found if op not in ("QuantizeLinear", "DequantizeLinear")] == operators(small_graph())


@pytest.mark.parametrize("variant", ["paper", "caffenet"])
@pytest.mark.parametrize("target", INPUTS_ONLY)
def test_nothing_is_quantized_where_a_norm_reads(target: Target, variant: str) -> None:
    nodes = lrn_nodes(quantized(target, variant))
    assert len(nodes) == 2
    for node in nodes:
        value = node.inputs[0]
        assert value is not None
        producer = value.producer()
        assert producer is not None and producer.op_type in ("Relu", "MaxPool")
        assert {use.node.op_type for use in value.uses()} == {"LRN"}


@pytest.mark.parametrize("target", Target)
def test_the_float_weights_are_gone_and_the_description_stays(target: Target) -> None:
    model = quantized(target)
    assert info_of(model) == small_info()
    kept = {name for name in model.graph.initializers if name.endswith(".weight")}
    assert not kept
    assert len(graph_bytes(model)) < 0.3 * len(graph_bytes(small_graph()))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_onnxruntime_gets_unsigned_activations_and_integer_biases() -> None:
    original = {node.name: node for node in small_graph().graph}
    nodes = {node.name: node for node in quantized(Target.ONNXRUNTIME_CPU).graph}
    for name in CONVOLUTIONS + LINEARS:
        node = nodes[name]
        activation = producer_of(node.inputs[0], "DequantizeLinear")
        read = original[name].inputs[0]
        assert read is not None
        scale, zero = small_table().range_of(str(read.name)).affine
        zero_point = array_of(activation.inputs[2])
        assert zero_point.dtype == np.uint8 and zero_point == zero
        assert float(array_of(activation.inputs[1])) == pytest.approx(scale, rel=1e-7)
        weight_scales = array_of(producer_of(node.inputs[1], "DequantizeLinear").inputs[1]).astype(np.float32)
        bias = producer_of(node.inputs[2], "DequantizeLinear")
        integers, scales = array_of(bias.inputs[0]), array_of(bias.inputs[1]).astype(np.float64)
        assert integers.dtype == np.int32
        np.testing.assert_array_equal(scales, np.float32(scale) * weight_scales)
        error = np.abs(integers * scales - array_of(original[name].inputs[2]))
        assert (error <= 0.500001 * scales).all()


def optimized_operators(model: ir.Model, folder: Path) -> list[tuple[str, str]]:
    """What ONNX Runtime really runs: `(operator, name)` of its optimized graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(graph_bytes(model), options, providers=["CPUExecutionProvider"])
    return [(node.op_type, node.name) for node in onnx.load(str(folder / "optimized.onnx")).graph.node]


@pytest.mark.parametrize("variant", ["paper", "caffenet", "owt"])
def test_onnxruntime_really_runs_every_layer_in_integers(variant: str, tmp_path: Path) -> None:
    model = lowered(quantized(Target.ONNXRUNTIME_CPU, variant), Lowering.BANDED)
    found = optimized_operators(model, tmp_path)
    convolutions = sorted(name.split("_")[0] for operator, name in found if operator == "QLinearConv")
    linears = sorted(name.split("_")[0] for operator, name in found if operator == "QGemm")
    assert (convolutions, linears) == (sorted(CONVOLUTIONS), sorted(LINEARS))
    assert not [name for operator, name in found if operator in ("Gemm", "MatMul", "FusedGemm")]
    norms = [name for operator, name in found if operator == "Conv"]
    assert [name.split(".")[0] for name in norms] == ([] if variant == "owt" else ["norm1", "norm2"])


@pytest.mark.parametrize("target", Target)
def test_int8_agrees_with_fp32_on_real_images(target: Target) -> None:
    images = shipped_batch(64)
    expected = run_onnx(small_graph(), images)
    lowering = Lowering.BANDED if target is Target.ONNXRUNTIME_CPU else Lowering.NATIVE
    got = run_onnx(lowered(quantized(target), lowering), images)
    assert sqnr(expected, got) > 22
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9


def test_a_table_of_another_graph_is_refused() -> None:
    tensors = {name: found for name, found in small_table().tensors.items() if name != "pool2"}
    other = replace(small_table(), tensors=tensors)
    with pytest.raises(InputError, match="pool2"):
        int8_from_fp32(small_graph(), other, Target.OPENVINO)


def test_the_original_is_not_touched() -> None:
    model = small_graph()
    before = graph_bytes(model)
    int8_from_fp32(model, small_table(), Target.ONNXRUNTIME_CPU)
    assert graph_bytes(model) == before


def unusual() -> ir.Model:
    """A convolution without bias, a Gemm without transB, a Gemm without bias, and a MatMul."""
    random = np.random.default_rng(5)

    def weight(*shape: int) -> NDArray[np.float32]:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    return model_of(
        [
            helper.make_node("Conv", ["x", "w1"], ["c"], name="conv1"),
            helper.make_node("Relu", ["c"], ["r"], name="relu1"),
            helper.make_node("Flatten", ["r"], ["f"], name="flatten1"),
            helper.make_node("Gemm", ["f", "w2", "b2"], ["g2"], name="fc2"),
            helper.make_node("Relu", ["g2"], ["r2"], name="relu2"),
            helper.make_node("Gemm", ["r2", "w3"], ["g3"], name="fc3", transB=1),
            helper.make_node("MatMul", ["g3", "w4"], ["y"], name="fc4"),
        ],
        ["N", 3, 8, 8],
        {"w1": weight(8, 3, 3, 3), "w2": weight(288, 16), "b2": weight(16), "w3": weight(12, 16), "w4": weight(12, 5)},
    )


def noise(count: int) -> NDArray[np.float32]:
    from alexnet_deploy.data.batches import load_batch

    return load_batch(random_images(count, side=8, colour=True), np.arange(count), PLAIN).images


@pytest.mark.parametrize("target", Target)
def test_unusual_layers_work_as_well(target: Target, tmp_path: Path) -> None:
    model, images = unusual(), noise(32)
    table = table_from_images(model, random_images(32, side=8, colour=True), PLAIN, GRAPH_HASH)
    int8 = int8_from_fp32(model, table, target)
    nodes = {node.name: node for node in int8.graph}
    for name, axis in {"conv1": 0, "fc2": 1, "fc3": 0, "fc4": 1}.items():
        weights = producer_of(nodes[name].inputs[1], "DequantizeLinear")
        assert weights.attributes["axis"].as_int() == axis
        integers, scales = array_of(weights.inputs[0]), array_of(weights.inputs[1])
        assert integers.shape[axis] == len(scales.reshape(-1))
    assert sqnr(evaluate(model, images), run_onnx(int8, images)) > 20
    if target is Target.ONNXRUNTIME_CPU:
        found = optimized_operators(int8, tmp_path)
        assert {name.split("_")[0] for operator, name in found if operator in ("QLinearConv", "QGemm")} >= {
            "conv1", "fc2", "fc3",
        }  # fmt: skip


def test_two_readers_of_one_activation_share_its_quantization() -> None:
    weight = np.ones((4, 3, 1, 1), np.float32)
    model = model_of(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], name="conv1"),
            helper.make_node("Conv", ["x", "w2"], ["b"], name="conv2"),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        ["N", 3, 8, 8],
        {"w1": weight, "w2": 2 * weight},
    )
    table = table_from_images(model, random_images(4, side=8, colour=True), PLAIN, GRAPH_HASH)
    int8 = int8_from_fp32(model, table, Target.TENSORRT)
    assert operators(int8).count("QuantizeLinear") == 1
    assert sqnr(evaluate(model, noise(4)), evaluate(int8, noise(4))) > 30


@pytest.mark.parametrize("variant", ["paper", "caffenet"])
@pytest.mark.parametrize("before_pool", [False, True])
def test_a_lowered_norm_and_the_quantization_around_it_have_constants_of_their_own(
    variant: str, before_pool: bool
) -> None:
    placement = Placement(before_pool=before_pool)
    model = int8_from_fp32(small_graph(variant), table_of(variant), Target.ONNXRUNTIME_CPU, placement=placement)
    images = shipped_batch(4)
    expected = evaluate(model, images)
    for channels_last in (False, True):
        got = evaluate(lowered(model, Lowering.BANDED, channels_last=channels_last), images)
        assert relative_error(got, expected) < 0.02


@pytest.mark.parametrize("method", Method)
def test_every_method_gives_its_own_scales(method: Method) -> None:
    table = small_table().by_method(method)
    symmetric = int8_from_fp32(small_graph(), table, Target.TENSORRT)
    affine = int8_from_fp32(small_graph(), table, Target.OPENVINO)
    for name in ("input", "pool1", "pool2", "relu3"):
        limit = table.tensors[name].thresholds[method]
        scales = [float(array_of(model.graph.initializers[f"{name}.scale"])) for model in (symmetric, affine)]
        assert scales == pytest.approx([limit / 127, table.range_of(name).affine[0]], rel=1e-7)


@pytest.mark.parametrize("method", [Method.PERCENTILE, Method.MSE])
def test_int8_agrees_with_fp32_where_little_is_cut_off(method: Method) -> None:
    images = shipped_batch(32)
    int8 = int8_from_fp32(small_graph(), small_table().by_method(method), Target.OPENVINO)
    assert sqnr(run_onnx(small_graph(), images), run_onnx(int8, images)) > 22


@pytest.mark.parametrize("largest_weight", [0.0, 1e-7])
def test_a_channel_with_hardly_any_weight_keeps_its_bias(largest_weight: float) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    weight[2] = largest_weight
    bias = np.asarray([0.1, -0.2, 0.505, 0.3], np.float32)
    model = model_of(
        [helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv1"), helper.make_node("Relu", ["c"], ["r"]),
         helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[1, 1])],
        ["N", 3, 8, 8], {"w": weight, "b": bias},
    )  # fmt: skip
    table = table_from_images(model, random_images(8, side=8, colour=True), PLAIN, GRAPH_HASH)
    got = evaluate(int8_from_fp32(model, table, Target.ONNXRUNTIME_CPU), noise(8))
    step = table.range_of("r").affine[0]
    np.testing.assert_allclose(got[:, 2], 0.505, atol=0.51 * step)


def test_an_output_range_that_never_leaves_zero_stays_zero() -> None:
    model = model_of(
        [helper.make_node("Conv", ["x", "w"], ["c"], name="conv1"), helper.make_node("Relu", ["c"], ["r"]),
         helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[1, 1])],
        ["N", 3, 8, 8], {"w": np.zeros((4, 3, 1, 1), np.float32)},
    )  # fmt: skip
    table = table_from_images(model, random_images(4, side=8, colour=True), PLAIN, GRAPH_HASH)
    assert table.range_of("r") == Range(minimum=0.0, maximum=0.0)
    for target in Target:
        assert not evaluate(int8_from_fp32(model, table, target), noise(4)).any()

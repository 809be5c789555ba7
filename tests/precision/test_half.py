"""FP16 and BF16 graphs compute convolutions and fully connected layers in 16 bits, LRN in FP32, and stay close."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from alexnet_deploy.errors import GraphError
from alexnet_deploy.export import run_onnx
from alexnet_deploy.graph import graph_bytes, inferred_copy, info_of, layer_costs, weighted_nodes
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.precision.half import half_from_fp32, half_layers, half_report
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.specs import LrnSpec, Precision
from tests.conftest import small_info
from tests.graphs import (
    CONVOLUTIONS,
    LINEARS,
    evaluate,
    model_of,
    relative_error,
    shipped_batch,
    small_graph,
    small_table,
)

TYPES = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16}
BOTH = list(TYPES)


@pytest.mark.parametrize("variant", ["paper", "caffenet", "owt"])
def test_fp16_stays_within_a_hundredth_of_the_largest_logit(variant: str) -> None:
    model, images = small_graph(variant), shipped_batch(16)
    expected = run_onnx(model, images)
    got = run_onnx(half_from_fp32(model, Precision.FP16), images)
    assert got.dtype == np.float32
    assert 0 < relative_error(got, expected) < 1e-2
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 15 / 16


@pytest.mark.parametrize("precision", BOTH)
@pytest.mark.parametrize("variant", ["paper", "caffenet", "owt"])
def test_every_convolution_and_linear_layer_computes_in_16_bits(variant: str, precision: Precision) -> None:
    half = half_from_fp32(small_graph(variant), precision)
    # What ONNX infers from the operators, not what the pass wrote down.
    for value in (output for node in half.graph for output in node.outputs):
        value.type = None
    nodes = {node.name: node for node in inferred_copy(half).graph}
    for name in CONVOLUTIONS + LINEARS:
        types = {value.dtype for value in (*nodes[name].inputs, *nodes[name].outputs) if value is not None}
        assert types == {TYPES[precision]}, name
    norms = [node for node in nodes.values() if node.op_type == "LRN"]
    assert len(norms) == (0 if variant == "owt" else 2)
    for node in norms:
        assert {value.dtype for value in (*node.inputs, *node.outputs) if value is not None} == {ir.DataType.FLOAT}


@pytest.mark.parametrize("precision", BOTH)
def test_the_edges_of_the_graph_stay_fp32(precision: Precision) -> None:
    half = half_from_fp32(small_graph(), precision)
    assert [(value.name, value.dtype) for value in half.graph.inputs] == [("input", ir.DataType.FLOAT)]
    assert [(value.name, value.dtype) for value in half.graph.outputs] == [("logits", ir.DataType.FLOAT)]
    assert info_of(half) == small_info()


@pytest.mark.parametrize("precision", BOTH)
@pytest.mark.parametrize("variant", ["paper", "owt"])
def test_onnx_checks_the_graph_with_all_its_types(variant: str, precision: Precision) -> None:
    half = half_from_fp32(small_graph(variant), precision)
    onnx.checker.check_model(ir.to_proto(half), full_check=True)


def test_bf16_asks_for_the_operators_that_have_it() -> None:
    assert half_from_fp32(small_graph(), Precision.BF16).opset_imports[""] == 22
    assert half_from_fp32(small_graph(), Precision.FP16).opset_imports[""] == 18


@pytest.mark.parametrize("precision", BOTH)
def test_weights_are_the_nearest_values_of_16_bits(precision: Precision) -> None:
    model = small_graph()
    half = half_from_fp32(model, precision)
    for name, value in model.graph.initializers.items():
        converted = half.graph.initializers[name].const_value
        assert converted is not None and converted.dtype == TYPES[precision]
        assert value.const_value is not None
        np.testing.assert_array_equal(
            converted.numpy(), value.const_value.numpy().astype(TYPES[precision].numpy()), err_msg=name
        )
    assert len(graph_bytes(half)) < 0.51 * len(graph_bytes(model))


def test_costs_say_16_bits() -> None:
    rows = {row["name"]: row for row in layer_costs(half_from_fp32(small_graph(), Precision.FP16))}
    assert {rows[name]["precision"] for name in CONVOLUTIONS + LINEARS} == {"fp16"}
    assert rows["norm1"]["precision"] == "fp32"
    assert rows["fc7"]["weight_bytes"] == 2 * (512 * 512 + 512)


def test_the_original_is_not_touched() -> None:
    model = small_graph()
    before = graph_bytes(model)
    half_from_fp32(model, Precision.FP16)
    assert graph_bytes(model) == before


def test_a_norm_of_activations_up_to_sixty_thousand_stays_finite() -> None:
    spec = LrnSpec()
    identity = np.zeros((4, 3, 1, 1), np.float32)
    identity[[0, 1, 2, 3], [0, 1, 2, 0]] = 1
    model = model_of(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv1"),
            helper.make_node("LRN", ["c"], ["n"], name="norm1", size=spec.size, alpha=spec.alpha),
            helper.make_node("MaxPool", ["n"], ["y"], name="pool1", kernel_shape=[1, 1]),
        ],
        ["N", 3, 4, 4],
        {"w": identity},
    )
    x = (60_000 * np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 4))).astype(np.float16).astype(np.float32)
    got = evaluate(half_from_fp32(model, Precision.FP16), x)
    assert np.isfinite(got).all()
    expected = lrn_reference(x[:, [0, 1, 2, 0]], spec)
    assert np.abs(x).max() > 50_000
    np.testing.assert_allclose(got, expected, rtol=2**-10)


def test_a_norm_that_ends_the_graph_gives_fp32() -> None:
    model = model_of([helper.make_node("LRN", ["x"], ["y"], name="norm1", size=5)], ["N", 8, 4, 4], {})
    half = half_from_fp32(model, Precision.FP16)
    x = np.random.default_rng(0).standard_normal((2, 8, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(evaluate(half, x), lrn_reference(x, LrnSpec()), rtol=2**-10)


@pytest.mark.parametrize("precision", BOTH)
def test_a_softmax_that_ends_the_graph_gives_fp32(precision: Precision) -> None:
    model = model_of(
        [
            helper.make_node("Flatten", ["x"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "w"], ["g"], name="fc1"),
            helper.make_node("Softmax", ["g"], ["y"], name="prob"),
        ],
        ["N", 3, 2, 2],
        {"w": np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)},
    )
    half = half_from_fp32(model, precision)
    names = [node.name for node in half.graph]
    assert len(set(names)) == len(names)
    assert half.graph.outputs[0].dtype == ir.DataType.FLOAT
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    if precision is Precision.FP16:
        x = np.random.default_rng(1).standard_normal((4, 3, 2, 2)).astype(np.float32)
        np.testing.assert_allclose(evaluate(half, x), evaluate(model, x), atol=1e-2)


def one_convolution(weight: NDArray[np.float32]) -> ir.Model:
    return model_of([helper.make_node("Conv", ["x", "w"], ["y"], name="conv1")], ["N", 3, 4, 4], {"w": weight})


def test_integers_and_shapes_are_not_converted() -> None:
    model = model_of(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Reshape", ["r", "shape"], ["y"])],
        ["N", 3, 4, 4],
        {"shape": np.asarray([-1, 4, 12], np.int64)},
    )
    half = half_from_fp32(model, Precision.FP16)
    x = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    np.testing.assert_array_equal(evaluate(half, x), x.reshape(1, 4, 12))


@pytest.mark.parametrize("value", [65_520.0, -1e6, np.inf, np.nan])
def test_a_weight_that_does_not_fit_fp16_is_an_error(value: float) -> None:
    weight = np.ones((2, 3, 1, 1), np.float32)
    weight[1, 2] = value
    with pytest.raises(GraphError, match="do not fit FP16") as caught:
        half_from_fp32(one_convolution(weight), Precision.FP16)
    assert caught.value.remedy


def test_the_largest_value_of_fp16_fits_and_bf16_takes_more() -> None:
    weight = np.full((2, 3, 1, 1), 65_504.0, np.float32)
    half_from_fp32(one_convolution(weight), Precision.FP16)
    half_from_fp32(one_convolution(weight * 1000), Precision.BF16)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_other_precisions_are_refused(precision: Precision) -> None:
    with pytest.raises(GraphError, match="16 bits"):
        half_from_fp32(small_graph(), precision)


# What 16 bits do to the numbers.


def test_weights_that_underflow_are_counted_by_layer() -> None:
    model = small_graph()
    layers = {layer.name: layer for layer in weighted_nodes(model)}
    value = layers["conv3"].weight_value
    array = layers["conv3"].weight.copy()
    array.reshape(-1)[:5] = [1e-8, -1e-8, 2.9e-8, 6e-8, 0.0]
    assert value.const_value is not None
    value.const_value = ir.tensor(array, name=value.name)
    before = half_report(small_graph(), Precision.FP16, None)
    found = half_report(model, Precision.FP16, None)
    # 2.9e-8 is below half of FP16's smallest number, 5.96e-8.
    assert found["underflow_by_layer"].get("conv3", 0) - before["underflow_by_layer"].get("conv3", 0) == 3
    assert found["underflow"] - before["underflow"] == 3
    assert found["weights"] == sum(layer.weight.size for layer in layers.values())
    assert found["largest_activation"] is None and found["share_of_range"] is None
    assert half_report(model, Precision.BF16, None)["underflow"] == 0


def stretched(factor: float) -> CalibrationTable:
    table = small_table()
    entry = table.tensors["relu6"]
    histogram = replace(entry.histogram, maximum=entry.histogram.maximum * factor)
    return replace(table, tensors={**table.tensors, "relu6": replace(entry, histogram=histogram)})


def test_an_activation_that_fp16_does_not_hold_is_refused_and_bf16_holds_it() -> None:
    found = half_report(small_graph(), Precision.FP16, small_table())
    largest = max(max(-e.histogram.minimum, e.histogram.maximum) for e in small_table().tensors.values())
    assert found["largest_activation"]["magnitude"] == largest
    assert found["share_of_range"] == pytest.approx(largest / 65504)
    huge = stretched(1e8)
    with pytest.raises(GraphError, match="relu6 does not fit FP16") as caught:
        half_report(small_graph(), Precision.FP16, huge)
    assert "--bf16" in str(caught.value.remedy)
    assert half_report(small_graph(), Precision.BF16, huge)["largest_activation"]["name"] == "relu6"


@pytest.mark.parametrize("names", [["conv2"], ["conv1", "fc8"], [*CONVOLUTIONS, *LINEARS]], ids=["one", "ends", "all"])
def test_layers_may_be_fp16_in_a_graph_of_fp32(names: list[str]) -> None:
    model, images = small_graph(), shipped_batch(2)
    expected = evaluate(small_graph(), images)
    half_layers(model, names)
    types = {layer.name: layer.weight.dtype for layer in weighted_nodes(model)}
    assert {name for name, dtype in types.items() if dtype == np.float16} == set(names)
    assert [value.name for value in model.graph.outputs] == [value.name for value in small_graph().graph.outputs]
    data = graph_bytes(model)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(onnx.load_from_string(data), strict_mode=True))
    assert 0 < relative_error(evaluate(model, images), expected) < 0.01


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_shapes_and_sizes_keep_their_types(precision: Precision) -> None:
    """A graph from elsewhere computes shapes, casts them, and resizes by factors that ONNX wants in FP32."""
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["a"], name="resized", mode="nearest"),
        helper.make_node("Shape", ["a"], ["s"], name="shape"),
        helper.make_node("Cast", ["s"], ["t"], name="numbers", to=1),
        helper.make_node("ReduceMax", ["t"], ["m"], name="largest", keepdims=0),
        helper.make_node("Div", ["a", "m"], ["b"], name="divided"),
        helper.make_node("Flatten", ["b"], ["y"], name="flat"),
    ]
    model = model_of(nodes, ["N", 3, 4, 4], {"scales": np.array([1, 1, 2, 2], np.float32)})
    half = half_from_fp32(model, precision)
    if precision is Precision.FP16:  # ONNX Runtime resizes no BF16
        x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
        assert relative_error(evaluate(half, x), evaluate(model, x)) < 1e-2
    stored = half.graph.initializers["scales"].const_value
    assert stored is not None and stored.dtype.name == "FLOAT"
    types = {node.name: node.outputs[0].dtype for node in half.graph}
    assert str(types["shape"]) == "INT64" and types["numbers"] == types["divided"] != types["flat.to_fp32"]


def test_a_graph_that_does_not_read_its_images_is_left_alone() -> None:
    nodes = [helper.make_node("Relu", ["c"], ["y"], name="relu")]
    model = model_of(nodes, ["N", 3, 4, 4], {"c": np.ones((1, 2), np.float32)})
    assert [node.op_type for node in half_from_fp32(model, Precision.FP16).graph] == ["Relu", "Cast"]


def test_constants_of_every_kind_become_narrow() -> None:
    """A fill of a shape that is computed, a constant node, and a constant that sizes and values share."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="shape"),
        helper.make_node("ConstantOfShape", ["s"], ["zeros"], name="zeros"),
        helper.make_node(
            "Constant", [], ["c"], name="constant", value=numpy_helper.from_array(np.array([2.5], np.float32))
        ),
        helper.make_node("Add", ["x", "zeros"], ["a"], name="added"),
        helper.make_node("Mul", ["a", "c"], ["b"], name="scaled"),
        helper.make_node("Mul", ["b", "shared"], ["d"], name="shared_value"),
        helper.make_node("Resize", ["d", "", "shared"], ["e"], name="resized", mode="nearest"),
        helper.make_node("Flatten", ["e"], ["y"], name="flat"),
    ]
    model = model_of(nodes, ["N", 3, 4, 4], {"shared": np.array([1, 1, 2, 2], np.float32)})
    half = half_from_fp32(model, Precision.FP16)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    assert relative_error(evaluate(half, x), evaluate(model, x)) < 1e-2

"""The plugin's node computes what it replaced, in ONNX Runtime too, and takes in casts and pools where it may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from alexnet_deploy.graph import copy_of, graph_bytes
from alexnet_deploy.lrn.lowering import lrn_nodes, spec_of
from alexnet_deploy.lrn.node import DOMAIN, NODE, POOLED_NODE, lower_to_plugin, plugin_nodes, without_bodies
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.specs import LrnSpec, Precision, Target
from tests.graphs import evaluate, model_of, operators, relative_error, shipped_batch, small_graph, small_table

CHANNELS, SIDE = 12, 9
POOL: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2]}
Nodes = Sequence[onnx.NodeProto]


def images(scale: float = 10.0, side: int = SIDE) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(5).standard_normal((2, CHANNELS, side, side))).astype(np.float32)


def norm(source: str, target: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        "LRN", [source], [target], name=f"{target}.norm", **({"size": 5, "alpha": 1e-2} | attributes)
    )


def pool(source: str, target: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("MaxPool", [source], [target], name="pool1", **(POOL | attributes))


def cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=target, to=to)


def built(nodes: Nodes, opset: int = 22) -> ir.Model:
    """At an operator set whose kernels take BF16."""
    return model_of(nodes, ["N", CHANNELS, SIDE, SIDE], {}, opset=opset)


def lowered(model: ir.Model, count: int = 1, **options: bool) -> ir.Model:
    """A copy with the plugin's nodes, which ONNX's checker passes and which reads back as it was."""
    copy = copy_of(model)
    assert lower_to_plugin(copy, **options) == count
    assert not lrn_nodes(copy) and len(plugin_nodes(copy)) == count
    again = ir.from_proto(onnx.load_from_string(graph_bytes(copy)))
    assert graph_bytes(again) == graph_bytes(copy)
    assert operators(again) == operators(copy)
    return again


def assert_same_values(model: ir.Model, changed: ir.Model, x: NDArray[np.float32], tolerance: float) -> None:
    before, after = evaluate(model, x), evaluate(changed, x)
    assert after.shape == before.shape and after.dtype == before.dtype
    assert float(np.abs(before).max()) > 0.1
    assert relative_error(after, before) < tolerance


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_every_norm_of_the_network_takes_in_its_pool_and_casts(precision: Precision) -> None:
    model = small_graph() if precision is Precision.FP32 else half_from_fp32(small_graph(), precision)
    changed = lowered(model, 2)
    kept = [op for op in operators(model) if op not in ("LRN", "Cast", "MaxPool")]
    assert [op for op in operators(changed) if op not in (POOLED_NODE, "Cast", "MaxPool")] == kept
    assert operators(changed).count(POOLED_NODE) == 2
    # The last pool has no norm before it, and FP32 stays at the graph's edges.
    assert operators(changed).count("MaxPool") == 1
    assert operators(changed).count("Cast") == (0 if precision is Precision.FP32 else 2)
    assert [node.name for node in plugin_nodes(changed)] == ["norm1", "norm2"]
    if precision is not Precision.BF16:
        assert_same_values(model, changed, shipped_batch(4), 1e-5 if precision is Precision.FP32 else 5e-3)


def test_the_network_in_bf16_computes_the_same() -> None:
    """ONNX Runtime has no convolution in BF16 on CPUs, so that the norms are asked alone."""
    model = built([
        cast("x", "narrow", TensorProto.BFLOAT16), cast("narrow", "wide", TensorProto.FLOAT),
        norm("wide", "normed"), cast("normed", "half", TensorProto.BFLOAT16), cast("half", "y", TensorProto.FLOAT),
    ])  # fmt: skip
    changed = lowered(model)
    assert operators(changed) == ["Cast", NODE, "Cast"]
    assert_same_values(model, changed, images(), 8e-3)


def test_in_an_int8_graph_the_norm_stays_where_it_was() -> None:
    model = int8_from_fp32(small_graph(), small_table(), Target.TENSORRT_RTX)
    changed = lowered(model, 2)
    for op in ("QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"):
        assert operators(changed).count(op) == operators(model).count(op)
    for node in plugin_nodes(changed):
        (source,) = node.inputs
        assert source is not None and source.dtype == ir.DataType.FLOAT
        (reader,) = node.outputs[0].uses()
        assert reader.node.op_type == "QuantizeLinear"
    assert_same_values(model, changed, shipped_batch(4), 1e-2)


def test_where_the_pool_comes_first_there_is_nothing_to_take_in() -> None:
    model = small_graph("caffenet")
    changed = lowered(model, 2)
    assert operators(changed) == [NODE if op == "LRN" else op for op in operators(model)]
    assert_same_values(model, changed, shipped_batch(4), 1e-5)


def test_the_pool_stays_outside_on_request() -> None:
    model = small_graph()
    changed = lowered(model, 2, fuse_pool=False)
    assert operators(changed) == [NODE if op == "LRN" else op for op in operators(model)]
    assert_same_values(model, changed, shipped_batch(4), 1e-5)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"pads": [0, 0, 0, 0], "dilations": [1, 1], "ceil_mode": 0}, {"auto_pad": "VALID"}, {"auto_pad": "NOTSET"}],
    ids=["plain", "spelled out", "VALID", "NOTSET"],
)
def test_a_plain_pool_is_taken_in(attributes: dict[str, Any]) -> None:
    model = built([norm("x", "normed"), pool("normed", "y", **attributes)])
    changed = lowered(model)
    assert operators(changed) == [POOLED_NODE]
    (node,) = changed.graph
    shape = node.outputs[0].shape
    assert shape is not None and list(shape)[1:] == [CHANNELS, 4, 4]
    assert_same_values(model, changed, images(), 1e-6)


def second_reader(model: ir.Model) -> None:
    """An output reads the norm beside its pool."""
    (node,) = lrn_nodes(model)
    other = ir.node("Relu", [node.outputs[0]], name="relu1")
    other.outputs[0].name, other.outputs[0].shape = "rectified", node.outputs[0].shape
    other.outputs[0].dtype = ir.DataType.FLOAT
    model.graph.append(other)
    model.graph.outputs.append(other.outputs[0])


def norm_is_an_output(model: ir.Model) -> None:
    (node,) = lrn_nodes(model)
    model.graph.outputs.append(node.outputs[0])


def unchanged(_model: ir.Model) -> None:
    pass


@pytest.mark.parametrize(
    ("attributes", "outputs", "change"),
    [
        ({"ceil_mode": 1}, ["y"], unchanged),
        ({"pads": [1, 1, 1, 1]}, ["y"], unchanged),
        ({"pads": [0, 0, 1, 1]}, ["y"], unchanged),
        ({"auto_pad": "SAME_UPPER"}, ["y"], unchanged),
        ({"kernel_shape": [2, 2]}, ["y"], unchanged),
        ({"kernel_shape": [3, 2]}, ["y"], unchanged),
        ({"strides": [1, 1]}, ["y"], unchanged),
        ({"strides": [2, 1]}, ["y"], unchanged),
        ({"dilations": [2, 2]}, ["y"], unchanged),
        ({}, ["y", "indices"], unchanged),
        ({}, ["y"], second_reader),
        ({}, ["y"], norm_is_an_output),
    ],
    ids=[
        "ceil_mode", "pads", "pads below", "auto_pad", "2x2", "3x2", "stride 1", "strides 2 and 1", "dilated",
        "indices", "second reader", "the norm is an output",
    ],
)  # fmt: skip
def test_another_pool_stays_outside(
    attributes: dict[str, Any], outputs: list[str], change: Callable[[ir.Model], None]
) -> None:
    last = pool("normed", "y", **attributes)
    del last.output[:]
    last.output.extend(outputs)
    model = built([norm("x", "normed"), last])
    change(model)
    changed = lowered(model)
    assert operators(changed) == [NODE if op == "LRN" else op for op in operators(model)]
    assert [value.name for value in changed.graph.outputs] == [value.name for value in model.graph.outputs]
    assert_same_values(model, changed, images(), 1e-6)


def test_a_pool_without_strides_has_strides_of_one() -> None:
    last = helper.make_node("MaxPool", ["normed"], ["y"], kernel_shape=[3, 3])
    assert operators(lowered(built([norm("x", "normed"), last]))) == [NODE, "MaxPool"]


@pytest.mark.parametrize("kind", ["AveragePool", "GlobalMaxPool"])
def test_a_pool_of_another_kind_stays_outside(kind: str) -> None:
    last = helper.make_node(kind, ["normed"], ["y"], **(POOL if kind == "AveragePool" else {}))
    assert operators(lowered(built([norm("x", "normed"), last]))) == [NODE, kind]


FP16, BF16, FP32 = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT


def between_casts(narrow: int, after: int) -> list[onnx.NodeProto]:
    return [
        cast("x", "narrow", narrow), cast("narrow", "wide", FP32), norm("wide", "normed"),
        cast("normed", "half", after), cast("half", "y", FP32),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("narrow", "after", "kept"),
    [
        (FP16, FP16, ["Cast", NODE, "Cast"]),
        (BF16, BF16, ["Cast", NODE, "Cast"]),
        (FP16, BF16, ["Cast", "Cast", NODE, "Cast", "Cast"]),
        (BF16, FP16, ["Cast", "Cast", NODE, "Cast", "Cast"]),
        (TensorProto.DOUBLE, TensorProto.DOUBLE, ["Cast", "Cast", NODE, "Cast", "Cast"]),
        (TensorProto.INT8, TensorProto.INT8, ["Cast", "Cast", NODE, "Cast", "Cast"]),
    ],
    ids=["FP16", "BF16", "FP16 to BF16", "BF16 to FP16", "FP64", "INT8"],
)
def test_casts_go_where_both_sides_have_the_same_sixteen_bits(narrow: int, after: int, kept: list[str]) -> None:
    model = built(between_casts(narrow, after))
    changed = lowered(model)
    assert operators(changed) == kept
    assert_same_values(model, changed, images(), 2e-3 if after == FP16 else 2e-2)


def test_casts_and_pool_go_together() -> None:
    nodes = between_casts(FP16, FP16)
    nodes[-1:] = [pool("half", "pooled"), cast("pooled", "y", FP32)]
    model = built(nodes)
    changed = lowered(model)
    assert operators(changed) == ["Cast", POOLED_NODE, "Cast"]
    (node,) = plugin_nodes(changed)
    assert node.outputs[0].dtype == ir.DataType.FLOAT16
    assert_same_values(model, changed, images(), 2e-3)


def test_a_cast_on_one_side_alone_stays() -> None:
    before = built([cast("x", "narrow", FP16), cast("narrow", "wide", FP32), norm("wide", "y")])
    assert operators(lowered(before)) == ["Cast", "Cast", NODE]
    after = built([norm("x", "normed"), cast("normed", "half", FP16), cast("half", "y", FP32)])
    assert operators(lowered(after)) == [NODE, "Cast", "Cast"]


def test_a_wide_value_that_others_read_stays_wide() -> None:
    model = built([
        *between_casts(FP16, FP16)[:-1], helper.make_node("CastLike", ["half", "wide"], ["back"], name="back"),
        helper.make_node("Add", ["back", "wide"], ["y"], name="sum"),
    ])  # fmt: skip
    changed = lowered(model)
    assert operators(changed) == ["Cast", "Cast", NODE, "Cast", "CastLike", "Add"]
    assert_same_values(model, changed, images(), 2e-3)


def test_a_wide_value_that_is_an_output_stays() -> None:
    model = built(between_casts(FP16, FP16))
    (node,) = lrn_nodes(model)
    wide = node.inputs[0]
    assert wide is not None
    model.graph.outputs.append(wide)
    changed = lowered(model)
    assert operators(changed) == ["Cast", "Cast", NODE, "Cast", "Cast"]
    assert_same_values(model, changed, images(), 2e-3)


def test_a_normed_value_that_others_read_stays_wide() -> None:
    nodes = between_casts(FP16, FP16)
    nodes[-1] = helper.make_node("CastLike", ["half", "normed"], ["back"], name="back")
    model = built([*nodes, helper.make_node("Add", ["back", "normed"], ["y"], name="sum")])
    changed = lowered(model)
    assert operators(changed) == ["Cast", "Cast", NODE, "Cast", "CastLike", "Add"]
    assert_same_values(model, changed, images(), 2e-3)


def test_a_norm_before_a_norm_is_replaced_too() -> None:
    model = built([norm("x", "between"), norm("between", "y", size=3)])
    changed = lowered(model, 2)
    assert [node.attributes["size"].as_int() for node in plugin_nodes(changed)] == [5, 3]
    assert_same_values(model, changed, images(), 1e-6)


@pytest.mark.parametrize("opset", range(18, 24))
@pytest.mark.parametrize("last", [[norm("x", "y")], [norm("x", "normed"), pool("normed", "y")]], ids=["alone", "pool"])
def test_the_body_is_of_the_graphs_own_operator_set(last: Nodes, opset: int) -> None:
    model = built(last, opset)
    changed = lowered(model)
    assert {function.opset_imports[""] for function in changed.functions.values()} == {opset}
    assert_same_values(model, changed, images(), 1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        LrnSpec(size=2, alpha=1.0),
        LrnSpec(size=4, alpha=1e-2, beta=0.6, bias=2.0),
        LrnSpec(size=6, alpha=0.5, beta=1.0),
        LrnSpec(size=1, alpha=0.5),
        LrnSpec(size=40, alpha=1e-2, bias=2.0),
    ],
    ids=lambda spec: f"window {spec.size}",
)
def test_the_body_takes_windows_that_onnx_runtimes_own_does_not(spec: LrnSpec) -> None:
    node = norm("x", "y", size=spec.size, alpha=spec.alpha, beta=spec.beta, bias=spec.bias)
    x = images()
    np.testing.assert_allclose(evaluate(lowered(built([node])), x), lrn_reference(x, spec), rtol=3e-6, atol=1e-30)


def test_attributes_are_the_norms_with_onnxs_defaults() -> None:
    node = helper.make_node("LRN", ["x"], ["y"], name="norm1", size=7)
    model = built([node])
    (wanted,) = map(spec_of, lrn_nodes(model))
    (made,) = plugin_nodes(lowered(model))
    values = {name: attribute.value for name, attribute in made.attributes.items()}
    assert set(values) == {"size", "alpha", "beta", "bias"}
    assert (values["size"], wanted) == (7, LrnSpec(size=7))
    assert [np.float32(values[name]) for name in ("alpha", "beta", "bias")] == [np.float32(1e-4), 0.75, 1.0]


def test_both_bodies_come_along_and_go_again() -> None:
    changed = lowered(small_graph(), 2)
    assert {key[:2] for key in changed.functions} == {(DOMAIN, NODE), (DOMAIN, POOLED_NODE)}
    assert changed.graph.opset_imports[DOMAIN] == 1
    other = ir.serde.deserialize_function(
        onnx.parser.parse_function('<opset_import: ["" : 18], domain: "another"> f (x) => (y) {y = Identity (x)}')
    )
    changed.functions[other.identifier()] = other
    bare = without_bodies(changed)
    assert bare is changed
    assert list(bare.functions) == [other.identifier()]
    assert len(plugin_nodes(bare)) == 2


def test_a_second_run_changes_nothing() -> None:
    changed = lowered(small_graph(), 2)
    before = graph_bytes(changed)
    assert lower_to_plugin(changed) == 0
    assert graph_bytes(changed) == before


def test_a_graph_without_norms_is_left_alone() -> None:
    model = built([pool("x", "y")])
    before = graph_bytes(model)
    assert lower_to_plugin(model) == 0
    assert graph_bytes(model) == before and not model.functions and DOMAIN not in model.graph.opset_imports


def test_a_node_of_that_name_in_another_domain_is_not_ours() -> None:
    model = built([norm("x", "y")])
    model.graph.append(ir.node(NODE, [model.graph.outputs[0]], domain="another"))
    model.graph.append(ir.node("Other", [model.graph.outputs[0]], domain=DOMAIN))
    assert plugin_nodes(model) == []

"""Graphs are opened with checks and written deterministically, and the questions that passes ask have exact answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from alexnet_deploy import graph_guard
from alexnet_deploy.errors import GraphError, InputError
from alexnet_deploy.graph import (
    add_initializer,
    constant_of,
    copy_of,
    graph_bytes,
    inferred_copy,
    info_of,
    input_shape,
    layer_costs,
    read_graph,
    require_opset,
    set_info,
    unquantized_nodes,
    weighted_nodes,
    write_graph,
)
from alexnet_deploy.variants import layers_from_network
from tests.conftest import small_info, small_network
from tests.graphs import CONVOLUTIONS, LINEARS, model_of, small_graph


def two_layers() -> ir.Model:
    """A MatMul and a Gemm without transB, and one that has its weight as an activation."""
    random = np.random.default_rng(0)
    return model_of(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w1"], ["h"], name="first"),
            helper.make_node("Gemm", ["h", "w2", "b2"], ["z"], name="second"),
            helper.make_node("MatMul", ["z", "z"], ["y"]),
        ],
        ["N", 3, 2, 2],
        {
            "w1": random.standard_normal((12, 5), np.float32),
            "w2": random.standard_normal((5, 4), np.float32),
            "b2": random.standard_normal(4, np.float32),
        },
    )


def test_a_graph_comes_back_from_its_file(tmp_path: Path) -> None:
    model = small_graph()
    path = tmp_path / "graph.onnx"
    write_graph(model, path)
    again = read_graph(path)
    assert graph_bytes(again) == path.read_bytes() == graph_bytes(model)
    assert info_of(again) == small_info()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.onnx") as caught:
        read_graph(tmp_path / "nothing.onnx")
    assert caught.value.remedy


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is a text and not a graph\n",
        b"\xff" * 64,
        helper.make_model(helper.make_graph([], "empty", [], [])).SerializeToString(),
        helper.make_model(
            helper.make_graph(
                [helper.make_node("NoSuchOperator", ["x"], ["y"])],
                "unknown",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
            )
        ).SerializeToString(),
    ],
    ids=["empty", "text", "noise", "no-nodes", "unknown-operator"],
)
def test_what_is_not_a_valid_graph_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"not a valid ONNX file|is not an ONNX file|is empty") as caught:
        read_graph(path)
    assert caught.value.got and (caught.value.remedy or caught.value.expected)


def test_a_graph_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(graph_bytes(small_graph())[:100_000])
    with pytest.raises(InputError, match="cut short"):
        read_graph(path)


def test_a_file_larger_than_protobuf_allows_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(b"x" * 101)
    monkeypatch.setattr(graph_guard, "MAX_ONNX_BYTES", 100)
    with pytest.raises(InputError, match="too large"):
        read_graph(path)


def test_an_invalid_graph_is_not_serialized() -> None:
    model = two_layers()
    model.graph[0].op_type = "NoSuchOperator"
    with pytest.raises(GraphError, match="not valid ONNX"):
        graph_bytes(model)


def test_a_copy_can_be_changed_without_the_original() -> None:
    model = small_graph()
    before = graph_bytes(model)
    copy = copy_of(model)
    copy.graph[0].name = "changed"
    copy.metadata_props.clear()
    copy.graph.initializers["conv1.weight"].const_value = ir.tensor(np.zeros((16, 3, 11, 11), np.float32))
    assert graph_bytes(model) == before != graph_bytes(copy)


def test_a_graph_without_a_description_has_none() -> None:
    assert info_of(two_layers()) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', "null"])
def test_a_description_that_cannot_be_read_is_an_error(text: str) -> None:
    model = two_layers()
    set_info(model, small_info())
    key = next(iter(model.metadata_props))
    model.metadata_props[key] = text
    with pytest.raises(InputError, match="cannot be read"):
        info_of(model)


def test_constants_are_found_in_initializers_and_constant_nodes() -> None:
    model = model_of(
        [
            helper.make_node("Constant", [], ["two"], value=onnx.numpy_helper.from_array(np.asarray(2, np.float32))),
            helper.make_node("Mul", ["x", "two"], ["m"]),
            helper.make_node("Add", ["m", "three"], ["y"]),
        ],
        [1, 3, 2, 2],
        {"three": np.asarray([3], np.float32)},
    )
    multiply, add = model.graph[1], model.graph[2]
    two, three = constant_of(multiply.inputs[1]), constant_of(add.inputs[1])
    assert two is not None and two.item() == 2
    assert three is not None and three.item() == 3
    assert constant_of(multiply.inputs[0]) is None
    assert constant_of(None) is None


def test_weighted_nodes_give_weights_with_the_output_channels_first() -> None:
    model = two_layers()
    first, second = weighted_nodes(model)
    assert [first.name, second.name] == ["first", "second"]
    assert first.transposed and second.transposed
    weights = model.graph.initializers["w1"].const_value
    assert weights is not None
    np.testing.assert_array_equal(first.weight, weights.numpy().T)
    assert second.weight.shape == (4, 5)
    assert first.bias_value is None and second.bias_value is not None and second.bias_value.name == "b2"


def test_weighted_nodes_of_the_network_are_its_eight_layers() -> None:
    found = list(weighted_nodes(small_graph()))
    assert tuple(layer.name for layer in found) == CONVOLUTIONS + LINEARS
    assert not any(layer.transposed for layer in found)
    assert [layer.activation.name for layer in found][:3] == ["input", "pool1", "pool2"]


def test_the_input_is_a_batch_of_images() -> None:
    assert input_shape(small_graph()) == (None, 3, 99, 99)
    assert input_shape(two_layers()) == (None, 3, 2, 2)


def test_a_graph_of_two_inputs_is_refused() -> None:
    model = two_layers()
    model.graph.inputs.append(ir.Value(name="second", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT)))
    with pytest.raises(GraphError, match="one batch of images") as caught:
        input_shape(model)
    assert "second" in str(caught.value.got)


def test_a_graph_that_reads_vectors_is_refused() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], ["N", 12], {})
    with pytest.raises(GraphError, match="one batch of images"):
        input_shape(model)


@pytest.mark.parametrize("variant", ["paper", "caffenet", "owt"])
def test_costs_of_the_graph_are_those_of_the_textbook(variant: str) -> None:
    rows = {row["name"]: row for row in layer_costs(small_graph(variant))}
    for layer in layers_from_network(small_network(variant).spec):
        if layer.op == "dropout":
            continue
        row = rows.pop(layer.name)
        assert row["output"] == list(layer.output), layer.name
        assert (row["parameters"], row["macs"]) == (layer.parameters, layer.macs), layer.name
        assert row["weight_bytes"] == 4 * layer.parameters, layer.name
        assert row["precision"] == "fp32", layer.name
        assert row["op"] == (layer.op if layer.op in ("conv", "linear", "lrn", "pool") else "other"), layer.name
    assert set(rows) == {"flatten5"}


def test_inference_fills_in_shapes_and_leaves_the_original_alone() -> None:
    model = small_graph()
    for node in model.graph:
        if node.outputs[0].name != "logits":
            node.outputs[0].shape = None
    inferred = inferred_copy(model)
    conv1 = next(node for node in inferred.graph if node.name == "conv1")
    assert conv1.outputs[0].shape is not None
    assert list(conv1.outputs[0].shape)[1:] == [16, 24, 24]
    assert model.graph[0].outputs[0].shape is None


def test_a_constant_of_a_taken_name_gets_another_unless_it_is_the_same() -> None:
    model = two_layers()
    first = add_initializer(model, "scale", np.asarray([1.0, 2.0], np.float32))
    assert add_initializer(model, "scale", np.asarray([1.0, 2.0], np.float32)) is first
    others = [
        add_initializer(model, "scale", np.asarray([1.0, 3.0], np.float32)),
        add_initializer(model, "scale", np.asarray([1.0, 2.0], np.float64)),
        add_initializer(model, "scale", np.asarray([[1.0, 2.0]], np.float32)),
    ]
    assert [value.name for value in [first, *others]] == ["scale", "scale.2", "scale.3", "scale.4"]
    assert add_initializer(model, "scale", np.asarray([1.0, 3.0], np.float32)) is others[0]
    for value in [first, *others]:
        assert model.graph.initializers[str(value.name)] is value


@pytest.mark.parametrize(("opset", "version"), [(18, 8), (19, 9), (20, 9), (21, 10)])
def test_an_operator_set_comes_with_the_format_that_holds_it(opset: int, version: int) -> None:
    model = two_layers()
    model.ir_version, model.graph.opset_imports[""] = 8, 18
    require_opset(model, opset)
    assert (model.opset_imports[""], model.ir_version) == (opset, version)
    require_opset(model, 18)
    assert (model.opset_imports[""], model.ir_version) == (opset, version)


def test_nodes_that_stay_in_float_are_named_with_the_reason() -> None:
    assert unquantized_nodes(small_graph()) == []
    random = np.random.default_rng(0)
    model = model_of(
        [
            helper.make_node("ConvTranspose", ["x", "w"], ["up"], name="upsample"),
            helper.make_node("MatMul", ["up", "up"], ["y"]),
        ],
        ("N", 3, 4, 4),
        {"w": random.standard_normal((3, 3, 1, 1)).astype(np.float32)},
    )
    found = unquantized_nodes(model)
    assert [(name, operator) for name, operator, _ in found] == [("upsample", "ConvTranspose"), ("y", "MatMul")]
    assert "not constant" in found[1][2] and "no integer form" in found[0][2]

"""A foreign graph comes out in the common form: the zoo's AlexNet of 2017 computes the same, at any batch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from alexnet_deploy.errors import GraphError
from alexnet_deploy.export import run_onnx
from alexnet_deploy.graph import constant_of, graph_bytes, input_shape, read_graph, weighted_nodes
from alexnet_deploy.lrn.lowering import lrn_nodes, spec_of
from alexnet_deploy.normalise import normalise
from alexnet_deploy.specs import LrnSpec
from tests.graphs import evaluate, model_of, operators, relative_error, small_graph

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"
# An eighth of the width, so that weights that all differ stay small.
NARROW = {
    "conv1": (12, 3, 11, 11),
    "conv2": (32, 6, 5, 5),
    "conv3": (48, 32, 3, 3),
    "conv4": (48, 24, 3, 3),
    "conv5": (32, 24, 3, 3),
    "fc6": (512, 32 * 6 * 6),
    "fc7": (512, 512),
    "fc8": (10, 512),
}


@cache
def zoo_bytes() -> bytes:
    """The graph that onnx ships, narrow, with weights that differ; biases are still made by ConstantOfShape."""
    proto = onnx.load(str(LIGHT))
    random = np.random.default_rng(0)
    weights = {}
    shapes = {"OC2_DUMMY_1": [1, NARROW["fc6"][1]]}
    for name, shape in NARROW.items():
        deviation = (2 / np.prod(shape[1:])) ** 0.5
        weights[f"{name}_w_0"] = (deviation * random.standard_normal(shape)).astype(np.float32)
        shapes[f"{name}_b_0__SHAPE"] = [shape[0]]
    kept = [node for node in proto.graph.node if node.output[0] not in weights]
    names = {f"{name}__SHAPE" for name in weights}
    inputs = [value for value in proto.graph.input if value.name not in names]
    for fields, values in ((proto.graph.node, kept), (proto.graph.input, inputs)):
        del fields[:]
        fields.extend(values)
    del proto.graph.initializer[:]
    for name, sides in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(sides, np.int64), name))
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
        # Files of 2017 list every initializer among the inputs.
        proto.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10
    data: bytes = proto.SerializeToString()
    return data


def zoo_graph() -> ir.Model:
    return ir.from_proto(onnx.load_from_string(zoo_bytes()))


@cache
def zoo_images() -> NDArray[np.float32]:
    return (2 * np.random.default_rng(1).standard_normal((3, 3, 224, 224))).astype(np.float32)


def test_the_zoos_graph_takes_the_common_form() -> None:
    original = zoo_graph()
    assert original.opset_imports[""] == 9
    result = normalise(original)
    model = result.model
    assert model.opset_imports[""] == 18
    assert [value.name for value in model.graph.inputs] == ["data_0"]
    assert input_shape(model) == (None, 3, 224, 224)
    head = ["Gemm", "Relu", "Gemm", "Relu", "Gemm", "Softmax"]
    first = ["Conv", "Relu", "LRN", "MaxPool"]
    assert operators(model) == [*first, *first, *["Conv", "Relu"] * 3, "MaxPool", "Flatten", *head]
    assert {f"{layer}_{kind}_0" for layer in NARROW for kind in "wb"} <= set(model.graph.initializers)
    assert [spec_of(node) for node in lrn_nodes(model)] == [LrnSpec()] * 2
    assert result.recovered == ()
    assert result.modified


def test_the_zoos_graph_computes_the_same_at_one_image_and_takes_three() -> None:
    original, images = zoo_graph(), zoo_images()
    model = normalise(original).model
    expected = np.concatenate([evaluate(original, images[index : index + 1]) for index in range(3)])
    assert float(expected.std(axis=0).max()) > 1e-3, "the images must not all give the same"
    got = run_onnx(model, images)
    assert got.shape == (3, 10)
    assert relative_error(got, expected) < 1e-5
    assert relative_error(run_onnx(model, images[:1]), expected[:1]) < 1e-5


def test_the_original_is_not_touched() -> None:
    original = zoo_graph()
    before = ir.to_proto(original).SerializeToString(deterministic=True)
    normalise(original)
    assert ir.to_proto(original).SerializeToString(deterministic=True) == before


def test_foreign_names_stay_without_rename() -> None:
    model = normalise(zoo_graph()).model
    assert [node.name for node in model.graph][:4] == ["n0", "n1", "n2", "n3"]
    assert [value.name for value in model.graph.outputs] == ["prob_1"]


def test_renaming_gives_every_layer_its_textbook_name() -> None:
    model = normalise(zoo_graph(), rename=True).model
    assert [node.name for node in model.graph] == [
        "conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3", "relu3", "conv4", "relu4",
        "conv5", "relu5", "pool5", "flatten5", "fc6", "relu6", "fc7", "relu7", "fc8", "prob",
    ]  # fmt: skip
    assert [value.name for value in model.graph.inputs] == ["input"]
    assert {f"{layer}.{kind}" for layer in NARROW for kind in ("weight", "bias")} <= set(model.graph.initializers)
    assert relative_error(run_onnx(model, zoo_images()[:1]), evaluate(zoo_graph(), zoo_images()[:1])) < 1e-5


@pytest.mark.parametrize("rename", [False, True])
def test_a_second_time_changes_nothing(rename: bool) -> None:
    once = normalise(zoo_graph(), rename=rename).model
    again = normalise(once)
    assert not again.modified
    assert graph_bytes(again.model) == graph_bytes(once)


def test_what_this_tool_exported_is_normal_already() -> None:
    assert not normalise(small_graph()).modified


def test_a_constant_of_shape_without_a_value_is_zeros() -> None:
    shape = np.asarray([1, 3, 2, 2], np.int64)
    model = model_of(
        [helper.make_node("ConstantOfShape", ["shape"], ["zeros"]), helper.make_node("Add", ["x", "zeros"], ["y"])],
        [1, 3, 2, 2],
        {"shape": shape},
    )
    result = normalise(model).model
    assert operators(result) == ["Add"]
    zeros = constant_of(result.graph.initializers["zeros"])
    assert zeros is not None
    np.testing.assert_array_equal(zeros, np.zeros((1, 3, 2, 2), np.float32))


def flattening(target: list[int], batch: int | str, *, opset: int = 18) -> ir.Model:
    return model_of(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Reshape", ["r", "shape"], ["y"])], [batch, 3, 4, 5],
        {"shape": np.asarray(target, np.int64)}, opset=opset,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("target", "batch"), [([1, 60], 1), ([1, -1], 1), ([-1, 60], 1), ([0, -1], 2), ([2, 60], 2), ([-1, 60], "N")]
)
def test_a_reshape_that_flattens_becomes_flatten_at_any_batch(target: list[int], batch: int | str) -> None:
    model = normalise(flattening(target, batch)).model
    assert operators(model) == ["Relu", "Flatten"]
    x = np.arange(3 * 60, dtype=np.float32).reshape(3, 3, 4, 5)
    np.testing.assert_array_equal(evaluate(model, x), x.reshape(3, 60))


@pytest.mark.parametrize("target", [[2, 30], [-1, 30], [3, 20], [60, 1]])
def test_a_reshape_that_does_not_flatten_stays(target: list[int]) -> None:
    model = normalise(flattening(target, "N")).model
    assert operators(model) == ["Relu", "Reshape"]


def test_dropout_and_identity_go() -> None:
    model = model_of(
        [
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Relu", ["same"], ["r"]),
            helper.make_node("Dropout", ["r"], ["d", "mask"]),
            helper.make_node("Neg", ["d"], ["y"]),
        ],
        ["N", 3, 2, 2],
        {},
    )
    result = normalise(model)
    assert operators(result.model) == ["Relu", "Neg"]
    assert any(change.startswith("2 ") for change in result.changes)


def test_a_dropout_whose_mask_is_read_stays() -> None:
    model = model_of(
        [
            helper.make_node("Dropout", ["x"], ["d", "mask"]),
            helper.make_node("Cast", ["mask"], ["m"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Add", ["d", "m"], ["y"]),
        ],
        ["N", 3, 2, 2],
        {},
    )
    assert operators(normalise(model).model) == ["Dropout", "Cast", "Add"]


def test_a_leftover_that_is_the_output_stays_and_is_not_called_removed() -> None:
    model = model_of(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Identity", ["r"], ["y"])], ["N", 3, 2, 2], {}
    )
    result = normalise(model)
    assert operators(result.model) == ["Relu", "Identity"]
    assert not [change for change in result.changes if "removed" in change]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_becomes_dynamic_in_every_shape(batch: int) -> None:
    model = model_of(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        [batch, 3, 4, 4],
        {},
    )
    result = normalise(model)
    assert "batch made dynamic" in result.changes
    for node in result.model.graph:
        shape = node.outputs[0].shape
        assert shape is not None and not isinstance(shape[0], int), node.name
    assert evaluate(result.model, np.ones((7, 3, 4, 4), np.float32)).shape == (7, 27)


def test_a_batch_written_into_the_reshapes_of_an_lrn_is_freed_with_it() -> None:
    model = model_of(
        [
            helper.make_node("Mul", ["x", "x"], ["squares"]),
            helper.make_node("Reshape", ["squares", "wide"], ["w"]),
            helper.make_node(
                "AveragePool", ["w"], ["mean"], kernel_shape=[5, 1, 1], pads=[2, 0, 0, 2, 0, 0], count_include_pad=1
            ),
            helper.make_node("Reshape", ["mean", "narrow"], ["n"]),
            helper.make_node("Mul", ["n", "alpha"], ["scaled"]),
            helper.make_node("Add", ["scaled", "bias"], ["sums"]),
            helper.make_node("Pow", ["sums", "beta"], ["power"]),
            helper.make_node("Div", ["x", "power"], ["y"]),
        ],
        [4, 9, 3, 2],
        {
            "wide": np.asarray([4, 1, 9, 3, 2], np.int64),
            "narrow": np.asarray([4, 9, 3, 2], np.int64),
            "alpha": np.asarray(1e-2, np.float32),
            "bias": np.asarray(2.0, np.float32),
            "beta": np.asarray(0.75, np.float32),
        },
    )
    result = normalise(model)
    assert operators(result.model) == ["LRN"]
    assert [found.spec for found in result.recovered] == [LrnSpec(alpha=1e-2, bias=2.0)]
    x = np.random.default_rng(0).standard_normal((8, 9, 3, 2)).astype(np.float32)
    expected = np.concatenate([evaluate(model, x[:4]), evaluate(model, x[4:])])
    np.testing.assert_allclose(evaluate(result.model, x), expected, rtol=1e-5)


def test_nameless_nodes_get_names_that_are_free() -> None:
    weight = np.ones((3, 3, 1, 1), np.float32)
    model = model_of(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"], name="conv2"),
            helper.make_node("Conv", ["b", "w2"], ["y"]),
        ],
        ["N", 3, 2, 2],
        {"w1": weight, "w2": weight},
    )
    names = [node.name for node in normalise(model).model.graph]
    assert names[:2] == ["conv1", "conv2"]
    assert str(names[2]).startswith("conv2") and len(set(names)) == 3


def test_a_newer_opset_stays() -> None:
    assert normalise(flattening([0, -1], "N", opset=21)).model.opset_imports[""] == 21


@pytest.mark.parametrize("opset", [19, 21, 23])
def test_an_older_opset_is_converted_up_to_the_one_asked_for(opset: int) -> None:
    result = normalise(flattening([0, -1], "N", opset=13), opset=opset)
    assert result.model.opset_imports[""] == opset
    assert f"opset 13 to {opset}" in result.changes


def test_a_graph_that_cannot_be_converted_is_an_error() -> None:
    model = flattening([0, -1], "N", opset=13)
    model.graph[0].op_type = "NoSuchOperator"
    with pytest.raises(GraphError, match="opset 13 to 18"):
        normalise(model)


def test_a_graph_that_reads_no_images_is_refused() -> None:
    with pytest.raises(GraphError, match="one batch of images"):
        normalise(model_of([helper.make_node("Relu", ["x"], ["y"])], ["N", 60], {}))


def test_notes_of_exporters_are_forgotten() -> None:
    model = flattening([0, -1], "N")
    node = model.graph[0]
    node.metadata_props["pkg.torch.onnx.stack_trace"] = 'File "/home/someone/net.py"'
    node.doc_string = "forward"
    node.outputs[0].metadata_props["note"] = "value"
    model.graph.metadata_props["note"] = "graph"
    data = graph_bytes(normalise(model).model)
    for note in (b"stack_trace", b"/home/someone", b"forward", b"note"):
        assert note not in data


def test_a_graph_of_the_test_file_is_what_onnx_ships() -> None:
    shipped = read_graph(LIGHT)
    without_weights = [operator for operator in operators(shipped) if operator != "ConstantOfShape"]
    assert without_weights == [operator for operator in operators(zoo_graph()) if operator != "ConstantOfShape"]


def test_a_reshaped_weight_becomes_one_that_everybody_sees() -> None:
    random = np.random.default_rng(0)
    model = model_of(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Reshape", ["w", "shape"], ["weight"]),
            helper.make_node("Gemm", ["flat", "weight", "b"], ["y"], transB=1, name="classifier"),
        ],
        ("N", 3, 4, 4),
        {
            "w": random.standard_normal((5, 3, 4, 4)).astype(np.float32),
            "shape": np.asarray([0, -1]),
            "b": np.zeros(5, np.float32),
        },
    )
    found = normalise(model)
    assert operators(found.model) == ["Flatten", "Gemm"] and "1 reshaped weights folded" in found.changes
    assert [layer.weight.shape for layer in weighted_nodes(found.model)] == [(5, 48)]
    images = random.standard_normal((2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(found.model, images), evaluate(model, images))

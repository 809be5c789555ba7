"""Every variant exports to a graph that computes what the network computes, with its names and its description."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from alexnet_deploy.errors import GraphError, ParityError
from alexnet_deploy.export import (
    PARITY_TOLERANCE,
    lowered,
    onnx_from_network,
    parity,
    require_parity,
    run_onnx,
)
from alexnet_deploy.graph import graph_bytes, info_of, input_shape
from alexnet_deploy.lrn.lowering import lrn_nodes, spec_of
from alexnet_deploy.network import AlexNet, initialize
from alexnet_deploy.specs import Lowering, Precision
from alexnet_deploy.variants import VARIANTS
from tests.conftest import SMALL_SIDE, small_info, small_network
from tests.graphs import exported, model_of, operators, relative_error, shipped_batch, small_graph


def torch_outputs(network: AlexNet, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        outputs: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return outputs


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graph_computes_what_the_network_computes(variant: str) -> None:
    images = shipped_batch(8)
    expected = torch_outputs(small_network(variant), images)
    assert float(expected.std(axis=0).min()) > 1e-3, "the images must not all give the same"
    assert relative_error(run_onnx(exported(variant).model, images), expected) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_norms_are_standard_nodes_with_the_variants_constants(variant: str) -> None:
    family, model = VARIANTS[variant], exported(variant).model
    expected = [] if family.lrn is None else [family.lrn] * 2
    assert [spec_of(node) for node in lrn_nodes(model)] == expected
    assert [found.spec for found in exported(variant).recovered] == expected


def test_layers_have_the_names_of_the_textbook() -> None:
    common = ["conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5", "flatten5"]
    head = ["fc6", "relu6", "fc7", "relu7", "fc8"]
    paper, caffenet = exported("paper").model, exported("caffenet").model
    first = ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2"]
    assert [node.name for node in paper.graph] == [*first, *common, *head]
    first = ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2"]
    assert [node.name for node in caffenet.graph] == [*first, *common, *head]


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_initializers_with_the_names_of_the_checkpoint(variant: str) -> None:
    graph = exported(variant).model.graph
    state = small_network(variant).state_dict()
    assert set(graph.initializers) == set(state)
    for name, tensor in state.items():
        constant = graph.initializers[name].const_value
        assert constant is not None
        np.testing.assert_array_equal(constant.numpy(), tensor.numpy())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_batch_is_dynamic_and_images_do_not_see_each_other(variant: str) -> None:
    model, images = exported(variant).model, shipped_batch(8)
    assert input_shape(model) == (None, 3, SMALL_SIDE, SMALL_SIDE)
    assert [(value.name, list(value.shape or [])[1:]) for value in model.graph.outputs] == [("logits", [10])]
    together = run_onnx(model, images)
    for size in (1, 3):
        assert relative_error(run_onnx(model, images[:size]), together[:size]) < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_description_travels_in_the_metadata(variant: str) -> None:
    assert info_of(exported(variant).model) == small_info(variant)


def test_nothing_of_the_exporter_is_left() -> None:
    model = exported("paper").model
    assert model.producer_name == "alexnet-deploy"
    assert model.graph.name == "paper"
    assert list(model.metadata_props) == ["alexnet_deploy.model"]
    data = graph_bytes(model)
    for note in (b"pkg.torch", b"stack_trace", b"namespace", b"torch.onnx", b"pkg.onnxscript"):
        assert note not in data, note


def test_the_export_is_the_same_bytes_each_time() -> None:
    again = onnx_from_network(small_network(), small_info())
    assert graph_bytes(again.model) == graph_bytes(exported("paper").model)


def test_the_operator_set_is_the_one_asked_for() -> None:
    model = onnx_from_network(small_network("owt"), small_info("owt"), opset=22).model
    assert model.opset_imports[""] == 22
    assert operators(model) == operators(exported("owt").model)
    expected = run_onnx(exported("owt").model, shipped_batch(8))
    assert relative_error(run_onnx(model, shipped_batch(8)), expected) < 1e-6


def test_a_softmax_becomes_the_last_layer() -> None:
    info = small_info("owt")
    assert info.network is not None
    network = AlexNet(dataclasses.replace(info.network, softmax=True))
    initialize(network, 0)
    model = onnx_from_network(network, dataclasses.replace(info, network=network.spec)).model
    assert model.graph[-1].name == "prob"
    assert [value.name for value in model.graph.outputs] == ["prob"]
    images = shipped_batch(8)
    got = run_onnx(model, images)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    assert relative_error(got, torch_outputs(network.eval(), images)) < 1e-5


def test_an_lrn_that_is_not_recovered_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    program = SimpleNamespace(model_proto=ir.to_proto(small_graph("owt")))
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: program)
    with pytest.raises(GraphError, match="LRN") as caught:
        onnx_from_network(small_network(), small_info())
    assert caught.value.expected == "2" and caught.value.remedy


def test_an_exporter_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*args: object, **options: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("no such operator\nand a long report")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(GraphError, match="could not export") as caught:
        onnx_from_network(small_network(), small_info())
    assert caught.value.got == "no such operator"


@pytest.mark.parametrize("lowering", [Lowering.NATIVE, Lowering.BANDED])
def test_lowering_makes_a_copy_with_the_same_description(lowering: Lowering) -> None:
    model = small_graph()
    before = graph_bytes(model)
    copy = lowered(model, lowering)
    assert ("LRN" in operators(copy)) == (lowering is Lowering.NATIVE)
    assert info_of(copy) == small_info()
    assert graph_bytes(model) == before
    assert relative_error(run_onnx(copy, shipped_batch(8)), run_onnx(model, shipped_batch(8))) < 1e-5


def test_a_fixed_batch_is_run_as_often_as_it_takes() -> None:
    from onnx import helper

    node = helper.make_node("Flatten", ["x"], ["y"])
    model = model_of([node], [2, 3, 4, 4], {})
    images = np.arange(6 * 48, dtype=np.float32).reshape(6, 3, 4, 4)
    np.testing.assert_array_equal(run_onnx(model, images), images.reshape(6, 48))


def test_parity_is_the_largest_difference_as_a_share_of_the_largest_output() -> None:
    reference = np.asarray([[1.0, -8.0, 2.0], [0.0, 1.0, 3.0]], np.float32)
    outputs = np.asarray([[1.0, -8.0, 4.0], [0.0, 4.0, 3.0]], np.float32)
    found = parity(reference, outputs, 0.5)
    assert found.max_relative_error == 3 / 8
    assert (found.tolerance, found.images, found.agreement) == (0.5, 2, 0.5)
    assert found.to_json() == {"max_relative_error": 0.375, "tolerance": 0.5, "images": 2, "agreement": 0.5}
    assert require_parity(found, "the graph") is found


def test_parity_of_nothing_but_zeros_is_exact() -> None:
    zeros = np.zeros((2, 3), np.float32)
    assert parity(zeros, zeros, 1e-4).max_relative_error == 0.0


@pytest.mark.parametrize("layer", ["conv1", "conv5", "fc6", "fc8"])
def test_a_graph_with_one_broken_layer_fails_the_gate(layer: str) -> None:
    model = small_graph()
    value = model.graph.initializers[f"{layer}.bias"]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() + np.float32(0.01), name=value.name)
    images = shipped_batch(8)
    found = parity(run_onnx(small_graph(), images), run_onnx(model, images), PARITY_TOLERANCE[Precision.FP32])
    with pytest.raises(ParityError, match="the broken graph") as caught:
        require_parity(found, "the broken graph")
    assert caught.value.exit_code == 3
    assert caught.value.got and caught.value.expected and caught.value.remedy


def test_outputs_that_are_not_numbers_fail_the_gate() -> None:
    reference = np.ones((2, 3), np.float32)
    outputs = reference.copy()
    outputs[1, 2] = np.nan
    with pytest.raises(ParityError):
        require_parity(parity(reference, outputs, 1e-4), "the graph")

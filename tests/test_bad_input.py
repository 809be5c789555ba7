"""Weights, images and labels that are wrong, or as dull as they can be: refused in words, or right; never NaN."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from alexnet_deploy.data.catalog import open_data
from alexnet_deploy.data.sources import ArraySource
from alexnet_deploy.errors import AlexnetDeployError, DataError, GraphError, WeightsError
from alexnet_deploy.export import onnx_from_network
from alexnet_deploy.graph import add_initializer, weighted_nodes, write_graph
from alexnet_deploy.network import AlexNet
from alexnet_deploy.pipeline.fp32 import fp32_from_source
from alexnet_deploy.precision.calibrate import table_from_images
from alexnet_deploy.precision.moments import moments_from_images
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.rounding import MeasuredRounding
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import SILENT
from alexnet_deploy.specs import RoundingOptions, Target
from alexnet_deploy.weights import _finite, load_model
from tests.conftest import random_images, small_info, small_network, small_preprocessing
from tests.graphs import GRAPH_HASH, evaluate, relative_error, shipped_batch, small_graph

NOT_NUMBERS = [float("nan"), float("inf"), -float("inf")]


def told(error: AlexnetDeployError, *words: str) -> None:
    assert error.got is not None and error.expected is not None and error.remedy
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize("name", ["conv1.weight", "fc8.bias"])
def test_weights_that_are_not_finite_are_refused_by_their_name(name: str, value: float, tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in small_network().state_dict().items()}
    state[name].view(-1)[-1] = value
    save_file(state, tmp_path / "x.safetensors", {"alexnet_deploy": description()})
    with pytest.raises(WeightsError, match=name) as caught:
        load_model(str(tmp_path / "x.safetensors"))
    told(caught.value, "not finite")


def description() -> str:
    return json.dumps({"schema": 1, "model": small_info().to_json(), "sparse": {}})


def test_weights_too_large_for_fp32_are_refused(tmp_path: Path) -> None:
    state = {key: tensor.double() for key, tensor in small_network().state_dict().items()}
    state["fc6.weight"][0, 0] = 1e300
    save_file(state, tmp_path / "x.safetensors", {"alexnet_deploy": description()})
    with pytest.raises(WeightsError, match=r"fc6\.weight"):
        load_model(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("kind", ["complex", "sparse", "meta"])
def test_tensors_that_are_not_plain_are_refused_by_their_name(kind: str, tmp_path: Path) -> None:
    state: dict[str, Any] = dict(small_network().state_dict())
    weight = state["fc7.weight"]
    state["fc7.weight"] = {"complex": weight.cfloat, "sparse": weight.to_sparse, "meta": lambda: weight.to("meta")}[
        kind
    ]()
    with pytest.raises(WeightsError, match=r"fc7\.weight") as caught:
        _finite("x", "fc7.weight", state["fc7.weight"])
    assert caught.value.got and caught.value.expected


def test_a_description_of_a_giant_is_refused_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = small_info().to_json()
    info["network"] |= {"width": 8.0}
    described = json.dumps({"schema": 1, "model": info, "sparse": {}})
    save_file(dict(small_network().state_dict()), tmp_path / "x.safetensors", {"alexnet_deploy": described})
    monkeypatch.setattr(AlexNet, "__init__", None)
    with pytest.raises(WeightsError, match="do not fit"):
        load_model(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_graph_whose_weights_are_not_finite_is_refused_by_the_layers_name(value: float, tmp_path: Path) -> None:
    model = small_graph()
    layer = next(each for each in weighted_nodes(model) if each.name == "conv3")
    weight = layer.weight.copy()
    weight.flat[0] = value
    layer.node.replace_input_with(1, add_initializer(model, "wrong", weight))
    write_graph(model, tmp_path / "x.onnx")
    with pytest.raises(GraphError, match="conv3") as caught:
        fp32_from_source(tmp_path / "x.onnx", variant=None, preprocessing=None, opset=18, voice=SILENT)
    told(caught.value, "not finite")


@pytest.mark.parametrize("batch", [1_025, 10**12])
def test_a_graph_of_a_giant_batch_is_refused(batch: int, tmp_path: Path) -> None:
    model = small_graph()
    model.graph.inputs[0].shape = ir.Shape([batch, 3, 99, 99])
    write_graph(model, tmp_path / "x.onnx")
    with pytest.raises(AlexnetDeployError, match="batch") as caught:
        fp32_from_source(tmp_path / "x.onnx", variant=None, preprocessing=None, opset=18, voice=SILENT)
    told(caught.value, str(batch))


def quantized(model: ir.Model, table: CalibrationTable, source: ArraySource, target: Target) -> list[ir.Model]:
    """Rounded to the nearest, and by what one pass over the images shows."""
    moments = moments_from_images(model, source, small_preprocessing(), list(weighted_nodes(model)), full=True)
    rounding = MeasuredRounding(RoundingOptions(), moments)
    return [int8_from_fp32(model, table, target), int8_from_fp32(model, table, target, rounding=rounding)]


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.ONNXRUNTIME_CPU])
def test_channels_that_are_all_zero_do_no_harm(target: Target) -> None:
    """In a convolution, before a norm, and in fully connected layers; one of them with its bias and one without."""
    network = copy.deepcopy(small_network())
    with torch.no_grad():
        for name in ("conv1", "conv2", "fc6"):
            layer: Any = getattr(network, name)
            layer.weight[:3] = 0
            layer.bias[:2] = 0
    model = onnx_from_network(network, small_info()).model
    source = random_images(8, colour=True)
    table = table_from_images(model, source, small_preprocessing(), GRAPH_HASH)
    x = shipped_batch(4)
    expected = evaluate(model, x)
    for graph in quantized(model, table, source, target):
        assert relative_error(evaluate(graph, x), expected) < 0.2


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.ONNXRUNTIME_CPU])
@pytest.mark.parametrize("value", [0, 255])
def test_constant_images_and_activations_give_ranges_that_can_be_divided_by(value: int, target: Target) -> None:
    """Every image is the same and of one colour, and the first layer gives what its bias is."""
    network = copy.deepcopy(small_network())
    with torch.no_grad():
        layer: Any = network.conv1
        layer.weight.zero_()
    model = onnx_from_network(network, small_info()).model
    images = np.full((3, 28, 28), value, np.uint8)
    source = ArraySource(images, np.zeros(3, np.int64), ("a",), "one colour")
    table = table_from_images(model, source, small_preprocessing(), GRAPH_HASH)
    x = shipped_batch(2)
    expected = evaluate(model, x)
    for graph in quantized(model, table, source, target):
        got = evaluate(graph, x)
        # Nothing that the first layer reads matters, so that every image gives the same as those that were seen.
        assert np.isfinite(got).all()
        assert relative_error(got, expected) < 0.2


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.ONNXRUNTIME_CPU])
def test_one_image_is_enough_to_calibrate_on(target: Target) -> None:
    model, source = small_graph(), random_images(1, colour=True)
    table = table_from_images(model, source, small_preprocessing(), GRAPH_HASH)
    assert len(table.images) == 1
    x = shipped_batch(4)
    for graph in quantized(model, table, source, target):
        assert np.isfinite(evaluate(graph, x)).all()


@pytest.mark.parametrize("labels", [[0, 1, -1], [0, 1, 3], [-(2**63), 0, 0], [0, 0, 2**63 - 1]])
def test_labels_out_of_range_are_refused_in_arrays(labels: list[int]) -> None:
    with pytest.raises(DataError, match="out of range") as caught:
        ArraySource(np.zeros((3, 2, 2), np.uint8), np.asarray(labels, np.int64), ("a", "b", "c"), "x")
    assert caught.value.got is not None and caught.value.expected == "0 to 2"


@pytest.mark.parametrize("label", [10, 255])
def test_labels_out_of_range_are_refused_in_cifars_files(label: int, tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(bytes([label]) + bytes(3072))
    with pytest.raises(DataError, match="out of range") as caught:
        open_data(str(tmp_path), "train")
    assert caught.value.got is not None and caught.value.expected == "0 to 9"

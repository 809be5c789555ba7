"""ONNX files: as graphs that people bring, and as the weights of an AlexNet."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.data.sources import ArraySource
from alexnet_deploy.errors import AlexnetDeployError, ParityError
from alexnet_deploy.export import lowered, parity, run_onnx
from alexnet_deploy.graph import external_files, graph_bytes, layer_costs, read_graph, weighted_nodes
from alexnet_deploy.inspection import inspect_file
from alexnet_deploy.pipeline import fp32
from alexnet_deploy.precision.calibrate import table_from_images
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.progress import SILENT
from alexnet_deploy.specs import Lowering, Precision, Preprocessing, Resize
from alexnet_deploy.specs import Target as Place
from alexnet_deploy.variants import layers_from_network
from alexnet_deploy.weights import load_model
from tests.fuzz.mutate import bytes_of
from tests.fuzz.protobuf import model_of
from tests.fuzz.target import Target, require
from tests.fuzz.targets.hand_made import SIDE, graphs
from tests.fuzz.targets.networks import SPEC, tiny_network

_IMAGES = 4
# FP32 rounds in another order after a pass.
_TOLERANCE = 1e-3
_PREPROCESSING = Preprocessing(image_size=SIDE, resize_size=SIDE, resize=Resize.STRETCH)


def _graph_seeds() -> dict[str, Any]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    return {
        "graphs": graphs(),
        "x": random.standard_normal((_IMAGES, 3, SIDE, SIDE)).astype(np.float32),
        "source": ArraySource(pixels, np.zeros(4, np.int64), ("a",), "noise"),
    }


def _graph(seeds: dict[str, Any], random: Random, folder: Path) -> None:
    seed = random.choice(seeds["graphs"])
    path = folder / "x.onnx"
    path.write_bytes(model_of(random, seed) if random.randrange(5) else bytes_of(random, seed))
    preprocessing = folder / "p.json"
    preprocessing.write_text(json.dumps(_PREPROCESSING.to_json()))
    external_files(path)
    if random.randrange(4) == 0:
        require(inspect_file(str(path))["kind"] == "onnx", "something else")
    try:
        # A few of the real images will do here.
        with mock.patch.object(fp32, "PARITY_IMAGES", _IMAGES):
            made = fp32.fp32_from_source(path, variant=None, preprocessing=str(preprocessing), opset=18, voice=SILENT)
    except ParityError:
        # Refused, but is it that the graph computes no numbers, or that a pass changed them?
        _require_not_a_number(path, seeds["x"])
        raise
    model = ir.from_proto(onnx.load_from_string(made.data))
    reference = run_onnx(read_graph(path), seeds["x"])
    _require_same(reference, run_onnx(model, seeds["x"]), "normalise")
    layer_costs(model)
    _one_pass(model, reference, seeds, random)


def _require_not_a_number(path: Path, x: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    try:
        reference = run_onnx(read_graph(path), x)
    except AlexnetDeployError:
        return
    require(not np.isfinite(reference).all() or np.abs(reference).max() < 1e-30, "a pass has changed what is computed")


def _require_same(reference: Any, got: Any, what: str) -> None:
    if not np.isfinite(reference).all():
        return
    require(reference.shape == got.shape, f"{what}: {reference.shape} became {got.shape}")
    error = parity(reference, got, _TOLERANCE).max_relative_error
    require(error <= _TOLERANCE or np.abs(reference).max() < 1e-30, f"{what}: off by {error}")


def _one_pass(model: ir.Model, reference: Any, seeds: dict[str, Any], random: Random) -> None:
    match random.randrange(4):
        case 0:
            _require_same(reference, run_onnx(lowered(model, Lowering.BANDED), seeds["x"]), "banded")
        case 1:
            graph_bytes(lowered(model, Lowering.PLUGIN))
        case 2:
            run_onnx(half_from_fp32(model, Precision.FP16), seeds["x"])
        case _:
            table = table_from_images(model, seeds["source"], _PREPROCESSING, "0" * 64)
            quantized = int8_from_fp32(model, table, random.choice(list(Place)))
            require(not list(weighted_nodes(quantized)), "a layer that was left out")
            graph_bytes(quantized)


GRAPHS = Target(
    "onnx",
    "ONNX files: bytes and fields; a graph that is exported computes what ONNX Runtime computes of the "
    "file, before and "
    "after LRN is lowered, and every layer of it is quantized",
    _graph_seeds,
    _graph,
    700,
)


def _zoo_seeds() -> bytes:
    """The tiny network as Caffe2 would have written it, with the ONNX zoo's names."""
    state = tiny_network().state_dict()
    nodes, value = [], "x"
    constants = {
        f"{name.replace('.weight', '_w').replace('.bias', '_b')}_0": tensor.numpy() for name, tensor in state.items()
    }
    for layer in layers_from_network(SPEC):
        parameters = [f"{layer.name}_w_0", f"{layer.name}_b_0"]
        match layer.op:
            case "conv":
                pads = [layer.padding] * 4
                node = helper.make_node(
                    "Conv",
                    [value, *parameters],
                    [layer.name],
                    group=layer.groups,
                    pads=pads,
                    strides=[layer.stride] * 2,
                )
            case "linear":
                if layer.name == "fc6":
                    nodes.append(helper.make_node("Flatten", [value], ["flat"]))
                    value = "flat"
                node = helper.make_node("Gemm", [value, *parameters], [layer.name], transB=1)
            case "pool":
                node = helper.make_node("MaxPool", [value], [layer.name], kernel_shape=[3, 3], strides=[2, 2])
            case "lrn":
                node = helper.make_node("LRN", [value], [layer.name], size=5, alpha=1e-4, beta=0.75, bias=2.0)
            case "dropout":
                node = helper.make_node("Dropout", [value], [layer.name])
            case _:
                node = helper.make_node("Relu", [value], [layer.name])
        nodes.append(node)
        value = layer.name
    side = SPEC.image_size
    graph = helper.make_graph(
        nodes,
        "zoo",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, SPEC.classes])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8).SerializeToString()
    return data


def _zoo(seed: bytes, random: Random, folder: Path) -> None:
    path = folder / "x.onnx"
    path.write_bytes(model_of(random, seed) if random.randrange(5) else bytes_of(random, seed))
    network, info = load_model(str(path), variant=random.choice((None, "paper")))
    require(info.network == network.spec, "the description is of another network")
    for name, tensor in network.state_dict().items():
        require(tensor.isfinite().all(), f"{name} is not finite")


ZOO = Target(
    "onnx-weights",
    "ONNX files with an AlexNet's weights: bytes and fields; load_model gives finite weights of the network's shapes",
    _zoo_seeds,
    _zoo,
    500,
)

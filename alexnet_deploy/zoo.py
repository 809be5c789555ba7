"""Reads the ONNX zoo's AlexNet and CaffeNet (initializers `conv1_w_0` …) and our own exports as weights."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.errors import WeightsError
from alexnet_deploy.graph import info_of, input_shape, read_graph, weighted_nodes
from alexnet_deploy.lrn.lowering import lrn_nodes, spec_of
from alexnet_deploy.weights import ModelInfo, imagenet_preprocessing, spec_from_tensors

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

_ZOO_NAME = re.compile(r"^(conv\d|fc\d)_([wb])_\d+$")


def tensors_from_onnx(path: Path, variant: str | None) -> tuple[dict[str, Tensor], ModelInfo]:
    """Reads the weights of an ONNX file by the names of its initializers.

    `bvlc` and `caffenet` have the same shapes; the graph tells them apart by the order of LRN and pool.

    Raises:
        WeightsError: The names or the shapes are those of no AlexNet.
    """
    import numpy as np
    import torch

    from alexnet_deploy.normalise import normalise

    original = read_graph(path)
    info, model = info_of(original), normalise(original).model
    tensors: dict[str, Tensor] = {}
    for value in model.graph.initializers.values():
        name = _our_name(str(value.name))
        if name and value.const_value is not None:
            tensors[name] = torch.from_numpy(np.array(value.const_value.numpy()))
    for layer in weighted_nodes(model):
        name = (_our_name(str(layer.weight_value.name)) or "").replace(".weight", ".bias")
        if name and name not in tensors:
            tensors[name] = torch.zeros(layer.weight.shape[0])
    side = input_shape(model)[2]
    if info is not None and info.network is not None:
        return tensors, dataclasses.replace(info, network=dataclasses.replace(info.network, softmax=False))
    if not tensors:
        raise WeightsError(
            f"{path} does not name its weights as an AlexNet does",
            got=", ".join(list(model.graph.initializers)[:4]),
            expected="conv1_w_0 … (the ONNX zoo) or conv1.weight … (our exports)",
        )
    spec = spec_from_tensors(str(path), tensors, variant or _variant_of(model), side or 0)
    return tensors, ModelInfo(name=path.stem, network=spec, preprocessing=imagenet_preprocessing(spec))


def _our_name(name: str) -> str | None:
    if match := _ZOO_NAME.match(name):
        return f"{match[1]}.{'weight' if match[2] == 'w' else 'bias'}"
    return name if re.match(r"^(conv\d|fc\d)\.(weight|bias)$", name) else None


def _variant_of(model: ir.Model) -> str | None:
    """Tells apart what has the same shapes: by the constants of LRN, by its place, and by the padding of conv1."""
    nodes = lrn_nodes(model)
    if not nodes or nodes[0].inputs[0] is None:
        return None
    if spec_of(nodes[0]).bias != 1.0:
        first = next(layer.node for layer in weighted_nodes(model))
        pads = first.attributes.get("pads")
        return "paper" if pads is not None and any(pads.as_ints()) else "unpadded"
    producer = nodes[0].inputs[0].producer()
    return "caffenet" if producer is not None and producer.op_type == "MaxPool" else "bvlc"

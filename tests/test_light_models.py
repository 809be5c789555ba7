"""The networks with LRN that ONNX ships without weights: exported, lowered and built in every mode.

Their weights are constants, so that their outputs say little; what is held is that every pass and builder takes graphs
of other makers, and that all of them agree.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.engines.build import engine_from_onnx
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.engines.proof import require_plugins, require_precision
from alexnet_deploy.export import lowered, run_onnx
from alexnet_deploy.graph import graph_bytes, read_graph, unquantized_nodes, weighted_nodes, write_graph
from alexnet_deploy.lrn.lowering import lrn_nodes
from alexnet_deploy.lrn.node import plugin_nodes
from alexnet_deploy.normalise import normalise
from alexnet_deploy.pipeline.lrn_choice import lrn_choice
from alexnet_deploy.precision.calibrate import table_from_images
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.runtimes.proof import layer_precisions
from alexnet_deploy.specs import Lowering, Precision, Preprocessing, Target
from tests.graphs import operators, relative_error

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
MODELS = ("light_bvlc_alexnet", "light_zfnet512", "light_inception_v1")
# GoogLeNet's constant weights make activations above 65,504.
HALF = dict.fromkeys(MODELS, Precision.FP16) | {"light_inception_v1": Precision.BF16}


@cache
def normal(name: str) -> ir.Model:
    return normalise(read_graph(LIGHT / f"{name}.onnx")).model


def logits(model: ir.Model) -> ir.Model:
    """Without the softmax, which makes of constant weights a thousand equal probabilities."""
    proto = ir.to_proto(model)
    last = proto.graph.node[-1]
    assert last.op_type == "Softmax"
    proto.graph.output[0].name = last.input[0]
    del proto.graph.node[-1]
    return ir.from_proto(proto)


@cache
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 1, (2, 3, 224, 224)).astype(np.float32)


@cache
def table(name: str) -> CalibrationTable:
    few = shipped_images(Split.CALIBRATION).subset(range(4))
    return table_from_images(normal(name), few, Preprocessing(), "0" * 64)


@pytest.mark.parametrize("name", MODELS)
def test_every_lowering_computes_what_the_file_computed(name: str) -> None:
    model = normal(name)
    assert len(lrn_nodes(model)) == 2
    expected = run_onnx(logits(model), images())
    for lowering in (Lowering.BANDED, Lowering.PLUGIN):
        other = lowered(model, lowering)
        assert "LRN" not in operators(other)
        assert relative_error(run_onnx(logits(other), images()), expected) < 1e-5
    contained = lowered(model, Lowering.BANDED, contain_nan=True)
    assert relative_error(run_onnx(logits(contained), images()), expected) < 1e-5


@pytest.mark.parametrize("lowering", [Lowering.NATIVE, Lowering.PLUGIN])
@pytest.mark.parametrize("name", MODELS)
def test_an_engine_of_each_precision_is_built_and_proved(name: str, lowering: Lowering) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = normal(name)
    graphs = {
        HALF[name]: half_from_fp32(model, HALF[name]),
        Precision.INT8: int8_from_fp32(model, table(name), Target.TENSORRT_RTX),
    }
    weighted = [layer.name for layer in weighted_nodes(model)]
    for precision, graph in graphs.items():
        ready = lowered(graph, lowering)
        options = EngineOptions(
            precision=precision, backend="tensorrt-rtx", sms=(89,), plugin=lowering is Lowering.PLUGIN
        )
        plan = engine_from_onnx(graph_bytes(ready), options).plan
        require_precision(plan, precision.value, weighted)
        assert len(plan.plugins) == len(plugin_nodes(ready))
        if options.plugin:
            require_plugins(plan, 2)


@pytest.mark.parametrize("target", [Target.ONNXRUNTIME_CPU, Target.OPENVINO], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_cpu_targets_run_every_layer_in_integers(name: str, target: Target, tmp_path: Path) -> None:
    if target is Target.OPENVINO:
        pytest.importorskip("openvino")
    model = normal(name)
    choice = lrn_choice(target, Precision.INT8, [])
    ready = lowered(int8_from_fp32(model, table(name), target), choice.lowering, channels_last=choice.channels_last)
    write_graph(ready, tmp_path / "int8.onnx")
    layers = [layer.name for layer in weighted_nodes(model)]
    assert layer_precisions(tmp_path / "int8.onnx", target, layers) == dict.fromkeys(layers, "int8")
    assert unquantized_nodes(model) == []

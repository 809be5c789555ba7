"""The proof says what a CPU runtime made of each layer: integers where it fused them, float where it did not."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from alexnet_deploy.errors import InputError, PrecisionProofError, SessionError
from alexnet_deploy.export import lowered
from alexnet_deploy.graph import write_graph
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.runtimes.proof import PROVED_TARGETS, layer_precisions, require_integers
from alexnet_deploy.specs import Lowering, Target
from tests.graphs import CONVOLUTIONS, LINEARS, small_graph, small_table

LAYERS = [*CONVOLUTIONS, *LINEARS]
BANDED = {Target.ONNXRUNTIME_CPU: True, Target.OPENVINO: False}


def written(model: ir.Model, target: Target, folder: Path) -> Path:
    path = folder / "graph.onnx"
    write_graph(lowered(model, Lowering.BANDED, channels_last=True) if BANDED[target] else model, path)
    return path


@pytest.fixture(params=PROVED_TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    if request.param is Target.OPENVINO:
        pytest.importorskip("openvino")
    chosen: Target = request.param
    return chosen


def test_every_layer_of_a_targets_own_graph_is_int8(target: Target, tmp_path: Path) -> None:
    graph = int8_from_fp32(small_graph(), small_table(), target)
    found = layer_precisions(written(graph, target, tmp_path), target, LAYERS)
    assert found == dict.fromkeys(LAYERS, "int8")
    require_integers(found, target)


def test_no_layer_of_an_fp32_graph_is_int8(target: Target, tmp_path: Path) -> None:
    found = layer_precisions(written(small_graph(), target, tmp_path), target, LAYERS)
    assert set(found.values()) == {"fp32"}
    with pytest.raises(PrecisionProofError, match="8 of 8") as caught:
        require_integers(found, target)
    assert "conv1 fp32" in str(caught.value.got)


def test_a_layer_that_was_kept_in_float_shows(target: Target, tmp_path: Path) -> None:
    graph = int8_from_fp32(small_graph(), small_table(), target, keep_float=["conv3", "fc7"])
    found = layer_precisions(written(graph, target, tmp_path), target, LAYERS)
    # ONNX Runtime 1.31 quantizes the weights of a Gemm by itself where it stands between quantized tensors.
    kept = {"conv3"} if target is Target.ONNXRUNTIME_CPU else {"conv3", "fc7"}
    assert {name for name, precision in found.items() if precision == "fp32"} == kept


def test_a_layer_that_is_not_there_cannot_be_kept() -> None:
    with pytest.raises(InputError, match="no such layer") as caught:
        int8_from_fp32(small_graph(), small_table(), Target.OPENVINO, keep_float=["conv9"])
    assert caught.value.got == "conv9"


def test_tensorrts_graph_is_float_in_onnx_runtime(tmp_path: Path) -> None:
    graph = int8_from_fp32(small_graph(), small_table(), Target.TENSORRT)
    found = layer_precisions(written(graph, Target.ONNXRUNTIME_CPU, tmp_path), Target.ONNXRUNTIME_CPU, LAYERS)
    with pytest.raises(PrecisionProofError):
        require_integers(found, Target.ONNXRUNTIME_CPU)


def test_a_file_that_is_no_graph_is_an_error(target: Target, tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"not a graph")
    with pytest.raises(SessionError, match=r"graph\.onnx"):
        layer_precisions(tmp_path / "graph.onnx", target, LAYERS)

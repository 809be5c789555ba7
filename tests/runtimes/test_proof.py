"""What a CPU runtime computes in integers is read off its own graph: all layers, none, or all but the ones kept."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from alexnet_deploy import export
from alexnet_deploy.errors import PrecisionProofError, SessionError
from alexnet_deploy.graph import write_graph
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.runtimes.proof import layer_precisions, require_integers
from alexnet_deploy.specs import CPU_TARGETS, Lowering, Target
from tests.graphs import CONVOLUTIONS, LINEARS, small_graph, small_table

LAYERS = [*CONVOLUTIONS, *LINEARS]


@pytest.fixture(params=CPU_TARGETS, ids=str)
def target(request: pytest.FixtureRequest) -> Target:
    chosen: Target = request.param
    if chosen is Target.OPENVINO:
        pytest.importorskip("openvino")
    return chosen


def proof_of(model: ir.Model, target: Target, folder: Path, layers: list[str] = LAYERS) -> dict[str, str]:
    path = folder / "graph.onnx"
    write_graph(model, path)
    return layer_precisions(path, target, layers)


def int8(target: Target, *keep_float: str) -> ir.Model:
    return int8_from_fp32(small_graph(), small_table(), target, keep_float=keep_float)


@pytest.mark.parametrize("lowering", [Lowering.NATIVE, Lowering.BANDED], ids=str)
def test_every_layer_of_an_int8_graph_is_proved(target: Target, lowering: Lowering, tmp_path: Path) -> None:
    found = proof_of(export.lowered(int8(target), lowering), target, tmp_path)
    assert found == dict.fromkeys(LAYERS, "int8")
    require_integers(found, target)


def test_the_rows_of_a_norm_do_not_count_as_a_layer(tmp_path: Path) -> None:
    lowered = export.lowered(int8(Target.ONNXRUNTIME_CPU), Lowering.BANDED, channels_last=True)
    assert proof_of(lowered, Target.ONNXRUNTIME_CPU, tmp_path) == dict.fromkeys(LAYERS, "int8")


def test_no_layer_of_an_fp32_graph_is_proved(target: Target, tmp_path: Path) -> None:
    found = proof_of(small_graph(), target, tmp_path)
    assert found == dict.fromkeys(LAYERS, "fp32")
    with pytest.raises(PrecisionProofError, match="8 of 8 layers do not run in int8"):
        require_integers(found, target)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_was_kept_in_float_shows_as_float(target: Target, layer: str, tmp_path: Path) -> None:
    found = proof_of(int8(target, layer), target, tmp_path)
    assert found == {name: "fp32" if name == layer else "int8" for name in LAYERS}
    with pytest.raises(PrecisionProofError, match="1 of 8") as caught:
        require_integers(found, target)
    assert caught.value.got == f"{layer} fp32"
    require_integers({name: precision for name, precision in found.items() if name != layer}, target)


def test_only_the_layers_asked_for_are_looked_at(target: Target, tmp_path: Path) -> None:
    assert proof_of(int8(target), target, tmp_path, ["fc7", "nothing", "conv2"]) == {
        "fc7": "int8",
        "nothing": "fp32",
        "conv2": "int8",
    }


def test_tensorrts_scheme_is_not_proved_on_onnx_runtime(tmp_path: Path) -> None:
    found = proof_of(int8(Target.TENSORRT), Target.ONNXRUNTIME_CPU, tmp_path)
    wrong = [name for name in LAYERS if found[name] == "fp32"]
    # Its biases are floats and its outputs too: no convolution becomes a QLinearConv.
    assert set(CONVOLUTIONS) <= set(wrong)
    with pytest.raises(PrecisionProofError, match="do not run in int8 on onnxruntime-cpu") as caught:
        require_integers(found, Target.ONNXRUNTIME_CPU)
    for name in wrong:
        assert f"{name} fp32" in str(caught.value.got)
    assert "--allow-float" in str(caught.value.remedy)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07\x12\x00"], ids=["empty", "text", "no-graph"])
def test_a_broken_file_is_a_session_error_that_names_it(target: Target, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(SessionError, match=r"broken\.onnx") as caught:
        layer_precisions(path, target, LAYERS)
    assert caught.value.got and "\n" not in str(caught.value.got)


def test_a_file_that_is_not_there_is_a_session_error(target: Target, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"nothing\.onnx"):
        layer_precisions(tmp_path / "nothing.onnx", target, LAYERS)

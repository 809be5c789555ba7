"""Every target gets LRN in a form with a reason, and graphs and engines of two forms live beside each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.engines.plan import read_plan
from alexnet_deploy.errors import PrecisionProofError
from alexnet_deploy.export import run_onnx
from alexnet_deploy.files import sha256_of
from alexnet_deploy.graph import read_graph, write_graph
from alexnet_deploy.lrn.node import POOLED_NODE, plugin_nodes
from alexnet_deploy.pipeline.lrn_choice import LrnChoice, lrn_choice
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Lowering, LrnSpec, Precision, Target
from tests.conftest import SMALL_SIDE
from tests.graphs import model_of, operators, relative_error, shipped_batch

PAPER = (LrnSpec(size=5, bias=2.0), LrnSpec(size=5, bias=2.0))
TENSORRTS = (Target.TENSORRT, Target.TENSORRT_RTX)
BY_ITSELF = {
    Target.ONNXRUNTIME_CPU: Lowering.BANDED,
    Target.OPENVINO: Lowering.NATIVE,
    Target.TENSORRT: Lowering.NATIVE,
    Target.TENSORRT_RTX: Lowering.NATIVE,
}
PRECISIONS = (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", Target)
def test_every_target_gets_its_form_with_a_reason(target: Target, precision: Precision) -> None:
    choice = lrn_choice(target, precision, PAPER)
    assert choice.lowering is BY_ITSELF[target]
    assert choice.reason.startswith(("measured: ", "by rule: "))
    assert not choice.contain_nan


def test_a_target_that_was_not_timed_does_not_say_that_it_was() -> None:
    for target in TENSORRTS:
        assert lrn_choice(target, Precision.FP16, PAPER).reason.startswith("by rule: ")


@pytest.mark.parametrize("asked", Lowering)
@pytest.mark.parametrize("target", Target)
def test_what_was_asked_for_wins(target: Target, asked: Lowering) -> None:
    for norms in (PAPER, [LrnSpec(size=4)]):
        choice = lrn_choice(target, Precision.FP16, norms, asked=asked)
        assert (choice.lowering, choice.reason) == (asked, "asked for")


@pytest.mark.parametrize(
    ("sizes", "lowering", "named"),
    [
        ((5, 5), Lowering.NATIVE, ""),
        ((1, 15), Lowering.NATIVE, ""),
        ((4,), Lowering.PLUGIN, "4"),
        ((5, 2), Lowering.PLUGIN, "2"),
        ((17,), Lowering.PLUGIN, "17"),
        ((15, 16), Lowering.PLUGIN, "16"),
        ((), Lowering.NATIVE, ""),
    ],
)
@pytest.mark.parametrize("target", TENSORRTS)
def test_tensorrt_takes_the_plugin_where_its_own_layer_cannot(
    target: Target, sizes: Sequence[int], lowering: Lowering, named: str
) -> None:
    choice = lrn_choice(target, Precision.FP16, [LrnSpec(size=size) for size in sizes])
    assert choice.lowering is lowering
    assert choice.reason.endswith(f"one of {named}") == bool(named)


@pytest.mark.parametrize(
    ("target", "size", "lowering"),
    [
        (Target.ONNXRUNTIME_CPU, 4, Lowering.BANDED),
        (Target.ONNXRUNTIME_CPU, 17, Lowering.BANDED),
        # Its own kernel sums one channel too few.
        (Target.OPENVINO, 4, Lowering.BANDED),
        (Target.OPENVINO, 17, Lowering.NATIVE),
    ],
)
def test_no_window_takes_the_plugin_elsewhere(target: Target, size: int, lowering: Lowering) -> None:
    choice = lrn_choice(target, Precision.FP32, [LrnSpec(size=5), LrnSpec(size=size)])
    assert choice.lowering is lowering and choice.reason


def test_only_integers_in_onnx_runtime_take_the_band_channels_last() -> None:
    found = {
        (target, precision): lrn_choice(target, precision, PAPER, asked=Lowering.BANDED).channels_last
        for target in Target
        for precision in PRECISIONS
    }
    assert {key for key, channels_last in found.items() if channels_last} == {(Target.ONNXRUNTIME_CPU, Precision.INT8)}
    assert lrn_choice(Target.ONNXRUNTIME_CPU, Precision.INT8, PAPER).channels_last


def test_containing_a_nan_comes_before_channels_last() -> None:
    choice = lrn_choice(Target.ONNXRUNTIME_CPU, Precision.INT8, PAPER, contain_nan=True)
    assert (choice.contain_nan, choice.channels_last) == (True, False)


@pytest.mark.parametrize("asked", [Lowering.NATIVE, Lowering.PLUGIN])
def test_only_the_band_has_switches(asked: Lowering) -> None:
    choice = lrn_choice(Target.ONNXRUNTIME_CPU, Precision.INT8, PAPER, asked=asked, contain_nan=True)
    assert (choice.contain_nan, choice.channels_last) == (False, False)


def test_a_choice_is_plain_values() -> None:
    choice = LrnChoice(lowering=Lowering.BANDED, reason="because", channels_last=True)
    assert choice.facts() == {"lrn": "banded", "channels_last": True, "lrn_reason": "because"}
    assert LrnChoice(lowering=Lowering.PLUGIN, reason="because").facts() == {
        "lrn": "plugin",
        "lrn_reason": "because",
    }


# Graphs and engines.


def deployment_over(folder: Path, model: Path) -> Deployment:
    voice = Voice(quiet=True, stream=io.StringIO())
    return Deployment(workspace=Workspace(folder=folder, voice=voice), model=str(model))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("choice") / "work"


@pytest.fixture(scope="module")
def deployment(folder: Path, small_checkpoint: Path) -> Deployment:
    """One export for all tests of this module."""
    made = deployment_over(folder, small_checkpoint)
    made.calibration(images=8)
    return made


PLUGIN_NAMES = {
    Precision.FP32: "alexnet.lrn-plugin.onnx",
    Precision.FP16: "alexnet.fp16.tensorrt-rtx.lrn-plugin.onnx",
    Precision.BF16: "alexnet.bf16.tensorrt-rtx.lrn-plugin.onnx",
    Precision.INT8: "alexnet.int8.tensorrt-rtx.lrn-plugin.onnx",
}


@pytest.mark.parametrize("precision", PLUGIN_NAMES)
def test_a_graph_with_the_plugins_node_has_its_own_name(
    deployment: Deployment, folder: Path, precision: Precision
) -> None:
    artifact = deployment.graph(precision, Target.TENSORRT_RTX, lowering=Lowering.PLUGIN)
    assert artifact.path == folder / PLUGIN_NAMES[precision]
    passport = read_passport(artifact.path)
    assert passport is not None
    assert {name: passport.facts[name] for name in ("lrn", "lrn_reason", "precision", "target")} == {
        "lrn": "plugin", "lrn_reason": "asked for", "precision": precision.value, "target": "tensorrt-rtx",
    }  # fmt: skip
    assert passport.parents[0] == ("alexnet.onnx", sha256_of(folder / "alexnet.onnx"))
    model = read_graph(artifact.path)
    assert [node.op_type for node in plugin_nodes(model)] == [POOLED_NODE, POOLED_NODE]
    assert "LRN" not in operators(model)
    assert deployment.graph(precision, Target.TENSORRT_RTX, lowering=Lowering.PLUGIN).reused
    if precision is not Precision.BF16:
        images = shipped_batch(8)
        expected = run_onnx(read_graph(folder / "alexnet.onnx"), images)
        tolerance = {Precision.FP32: 1e-5, Precision.FP16: 1e-2, Precision.INT8: 0.2}[precision]
        assert relative_error(run_onnx(model, images), expected) < tolerance


def test_two_forms_of_one_precision_live_beside_each_other(deployment: Deployment) -> None:
    native = deployment.graph(Precision.FP16, Target.TENSORRT_RTX)
    plugin = deployment.graph(Precision.FP16, Target.TENSORRT_RTX, lowering=Lowering.PLUGIN)
    assert native.path != plugin.path
    assert native.facts["lrn"] == "native" and native.facts["lrn_reason"].startswith("by rule")
    assert "LRN" in operators(read_graph(native.path)) and not plugin_nodes(read_graph(native.path))
    for form in (None, Lowering.PLUGIN):
        assert deployment.graph(Precision.FP16, Target.TENSORRT_RTX, lowering=form).reused


def test_the_switches_of_the_band_are_in_the_passport(deployment: Deployment, tmp_path: Path) -> None:
    output = tmp_path / "graph.onnx"
    plain = deployment.graph(Precision.FP32, Target.ONNXRUNTIME_CPU, output=output)
    assert "contain_nan" not in plain.facts and "channels_last" not in plain.facts
    before = sha256_of(output)
    contained = deployment.graph(Precision.FP32, Target.ONNXRUNTIME_CPU, contain_nan=True, output=output)
    assert not contained.reused and contained.facts["contain_nan"] is True
    assert sha256_of(output) != before
    assert "AveragePool" in operators(read_graph(output))
    integers = deployment.graph(Precision.INT8, Target.ONNXRUNTIME_CPU)
    assert integers.facts["channels_last"] is True
    assert operators(read_graph(integers.path)).count("Transpose") == 4


def test_engines_of_both_forms_live_beside_each_other(deployment: Deployment, folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = EngineOptions(precision=Precision.FP16, backend="tensorrt-rtx", sms=(86, 89))
    native = deployment.engine(options)
    plugin = deployment.engine(options, lowering=Lowering.PLUGIN)
    assert native.path == folder / "alexnet.fp16.tensorrt-rtx.sm86+sm89.engine"
    assert plugin.path == folder / "alexnet.fp16.tensorrt-rtx.sm86+sm89.lrn-plugin.engine"
    assert (native.facts["lrn"], plugin.facts["lrn"]) == ("native", "plugin")
    assert native.facts["lrn_reason"].startswith("by rule") and plugin.facts["lrn_reason"] == "asked for"
    assert native.facts["plan"]["plugins"] == []
    assert plugin.facts["plan"]["plugins"] == [POOLED_NODE, POOLED_NODE]
    assert plugin.facts["plan"]["plugin_sms"] == plugin.facts["plan"]["sms"] == ["sm86", "sm89"]
    passport = read_passport(plugin.path)
    assert passport is not None and [name for name, _ in passport.parents] == [PLUGIN_NAMES[Precision.FP16]]
    assert deployment.engine(options).reused and deployment.engine(options, lowering=Lowering.PLUGIN).reused
    assert plugin.path.with_name(f"{plugin.path.name}.log").is_file()


def test_a_form_in_place_of_the_other_is_built_anew(deployment: Deployment, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = EngineOptions(precision=Precision.FP16, backend="tensorrt-rtx", sms=(89,))
    output = tmp_path / "one.engine"
    deployment.engine(options, output=output)
    again = deployment.engine(options, output=output, lowering=Lowering.PLUGIN)
    assert not again.reused and read_plan(output.read_bytes()).plugins == (POOLED_NODE, POOLED_NODE)


def test_an_engine_in_which_a_norm_is_not_the_plugin_is_not_written(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    from alexnet_deploy.engines import plan

    honest = plan._plugins
    monkeypatch.setattr(plan, "_plugins", lambda data: honest(data)[1:])
    options = EngineOptions(precision=Precision.FP16, backend="tensorrt-rtx", sms=(89,))
    output = tmp_path / "one.engine"
    with pytest.raises(PrecisionProofError, match="every norm and SM") as caught:
        deployment.engine(options, output=output, lowering=Lowering.PLUGIN)
    assert "1 norms" in str(caught.value.got) and not output.exists()


@pytest.mark.parametrize("size", [4, 17])
def test_a_window_that_tensorrt_does_not_take_goes_there_as_the_plugin(size: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    deployment = deployment_over(tmp_path / "work", windowed(size, tmp_path / "wide.onnx"))
    options = EngineOptions(precision=Precision.FP16, backend="tensorrt-rtx", sms=(89,))
    artifact = deployment.engine(options)
    assert artifact.path.name == "wide.fp16.tensorrt-rtx.sm89.lrn-plugin.engine"
    assert artifact.facts["lrn"] == "plugin" and artifact.facts["lrn_reason"].startswith("by rule")
    assert artifact.facts["plan"]["plugins"] == [POOLED_NODE]


def windowed(size: int, path: Path) -> Path:
    """A net of someone else with one LRN."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(0, 0.2, (8, 3, 11, 11)).astype(np.float32),
        "v": random.normal(0, 0.2, (10, 8 * 11 * 11)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv1", strides=[4, 4]),
        helper.make_node("LRN", ["c"], ["n"], name="norm1", size=size, alpha=1e-3, bias=2.0),
        helper.make_node("MaxPool", ["n"], ["p"], name="pool1", kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten1"),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="fc2", transB=1),
    ]
    write_graph(model_of(nodes, ["N", 3, SMALL_SIDE, SMALL_SIDE], weights), path)
    return path

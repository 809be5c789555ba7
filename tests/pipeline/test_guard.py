"""The guard over real graphs: its images, how each target's graph is computed, and what becomes of a float layer."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from alexnet_deploy import export
from alexnet_deploy.data.batches import PreprocessedImages
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.engines.plan import read_plan
from alexnet_deploy.errors import AccuracyError, DataError, InputError, ParityError, PrecisionProofError
from alexnet_deploy.graph import read_graph, weighted_nodes
from alexnet_deploy.pipeline import guard
from alexnet_deploy.pipeline.guard import guard_choice, guard_images
from alexnet_deploy.pipeline.int8 import Int8Maker
from alexnet_deploy.pipeline.lrn_choice import LrnChoice, lrn_choice
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.target_graph import GraphRequest, graph_for_target
from alexnet_deploy.pipeline.workspace import Made, Workspace
from alexnet_deploy.precision.guard import Guarded, table_lines
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import GraphOptions, Lowering, Precision, Target
from tests.conftest import small_info, small_preprocessing
from tests.graphs import CONVOLUTIONS, LINEARS, evaluate, relative_error, shipped_batch, small_graph, small_table

COUNT = 24
LAYERS = [*CONVOLUTIONS, *LINEARS]


@cache
def few_images() -> ImageSource:
    return shipped_images(Split.GUARD).subset(range(COUNT))


def quiet() -> Voice:
    return Voice(quiet=True, stream=io.StringIO())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard of a few images."""
    monkeypatch.setattr(guard, "shipped_images", lambda split: few_images())


def choice_for(target: Target) -> LrnChoice:
    return lrn_choice(target, Precision.INT8, [])


def maker_for(target: Target, **changes: Any) -> Int8Maker:
    made = Int8Maker(
        model=small_graph(), info=small_info(), table=small_table(), target=target, choice=choice_for(target)
    )
    return replace(made, **changes)


# Which images.


def test_guard_images_are_those_that_ship() -> None:
    source = guard_images(small_table())
    assert len(source) == 1000
    assert source.content_hash(7) == shipped_images(Split.GUARD).content_hash(7)


def test_a_table_made_on_a_guard_image_is_refused() -> None:
    shared = shipped_images(Split.GUARD).content_hash(999)
    table = replace(small_table(), images=(*small_table().images, shared))
    with pytest.raises(DataError, match="guard images were used") as caught:
        guard_images(table)
    assert caught.value.got == "1 of 1000 shared" and caught.value.remedy


def test_guard_images_among_the_evaluation_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = shipped_images(Split.EVALUATION).subset(range(3))
    monkeypatch.setattr(guard, "shipped_images", lambda split: mixed)
    with pytest.raises(DataError, match="guard images were used") as caught:
        guard_images(small_table())
    assert caught.value.got == "3 of 3 shared"


# How a target is evaluated.


@pytest.mark.parametrize("target", Target, ids=str)
@pytest.mark.usefixtures("few")
def test_a_budget_of_everything_gives_nothing_back(target: Target) -> None:
    if target is Target.OPENVINO:
        pytest.importorskip("openvino")
    found = guard_choice(maker_for(target), 1.0, voice=quiet())
    assert (found.keep_float, found.images, len(found.steps), found.sensitivities) == ((), COUNT, 1, ())
    assert found.accuracy.top1 is not None
    # Quantized indeed, and still the same network.
    assert found.accuracy.sqnr_db is not None and 10 < found.accuracy.sqnr_db < 60


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.TENSORRT_RTX], ids=str)
@pytest.mark.parametrize("keep_float", [(), ("conv2", "fc6")], ids=["all", "two-kept"])
def test_tensorrt_is_computed_as_its_graph_is_written(target: Target, keep_float: tuple[str, ...]) -> None:
    images = shipped_batch(COUNT)
    ready = int8_from_fp32(small_graph(), small_table(), target, keep_float=keep_float)
    got = guard._logits(ready, target, images)
    expected = evaluate(ready, images)
    # Sums in another order may round a few activations to the step beside; quantization itself is far coarser.
    assert relative_error(got, expected) < 0.01 < relative_error(evaluate(small_graph(), images), expected)
    assert np.median(np.abs(got - expected)) < 1e-3 * np.abs(expected).max()


# A layer that quantization ruins.


def ruined(layer: str) -> CalibrationTable:
    """`small_table`, but what the layer reads is cut off at a hundredth."""
    table = small_table()
    name = next(str(found.activation.name) for found in weighted_nodes(small_graph()) if found.name == layer)
    entry = table.tensors[name]
    cut = replace(entry, thresholds={method: limit / 100 for method, limit in entry.thresholds.items()})
    return replace(table, tensors={**table.tensors, name: cut})


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.OPENVINO], ids=str)
@pytest.mark.parametrize("layer", ["conv2", "fc8"])
@pytest.mark.usefixtures("few")
def test_the_layer_that_quantization_ruins_goes_back_to_float(target: Target, layer: str) -> None:
    if target is Target.OPENVINO:
        pytest.importorskip("openvino")
    info = replace(small_info(), labels=())
    stream = io.StringIO()
    found = guard_choice(maker_for(target, info=info, table=ruined(layer)), 0.1, voice=Voice(stream=stream))
    assert found.keep_float[0] == found.sensitivities[0].layer == layer
    assert {row.layer for row in found.sensitivities} == set(LAYERS)
    assert found.drop <= 0.1 < found.steps[0]
    assert "not of the model's classes" in stream.getvalue()


@pytest.mark.usefixtures("few")
def test_labels_are_used_where_the_images_are_of_the_models_classes() -> None:
    stream = io.StringIO()
    found = guard_choice(maker_for(Target.TENSORRT), 1.0, voice=Voice(stream=stream))
    graph = int8_from_fp32(small_graph(), small_table(), Target.TENSORRT)
    source, spec = few_images(), small_preprocessing()
    images = PreprocessedImages(source=source, spec=spec, indices=np.arange(COUNT))
    first = evaluate(graph, images[0:COUNT]).argmax(axis=1)
    assert found.accuracy.top1 == pytest.approx(float((first == source.labels).mean()), abs=1.5 / COUNT)
    assert "warning" not in stream.getvalue()


# What becomes of a layer that is kept in float.


def returning(*keep_float: str) -> Any:
    """A guard that gives these layers back without looking."""

    def choose(*args: Any, **kwargs: Any) -> Guarded:
        found = guard_choice(args[0], 1.0, voice=quiet())
        return replace(found, keep_float=keep_float)

    return choose


def request_for(target: Target, **options: Any) -> GraphRequest:
    return GraphRequest(
        precision=Precision.INT8,
        target=target,
        choice=choice_for(target),
        table=small_table(),
        options=GraphOptions(**options),
    )


def quantized(made: Made) -> set[str]:
    """The layers whose weights are integers in the graph."""
    assert isinstance(made.data, bytes)
    names = ir.from_proto(__import__("onnx").load_from_string(made.data)).graph.initializers
    return {name.removesuffix(".weight.int8") for name in names if name.endswith(".weight.int8")}


@pytest.mark.parametrize("target", [Target.ONNXRUNTIME_CPU, Target.OPENVINO], ids=str)
@pytest.mark.usefixtures("few")
def test_the_facts_of_a_graph_say_what_was_kept_and_proved(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if target is Target.OPENVINO:
        pytest.importorskip("openvino")
    monkeypatch.setattr("alexnet_deploy.pipeline.target_graph.guard_choice", returning("conv1", "fc8"))
    stream = io.StringIO()
    made = graph_for_target(small_graph(), small_info(), request_for(target, max_drop=0.01), voice=Voice(stream=stream))
    others = [name for name in LAYERS if name not in ("conv1", "fc8")]
    assert made.facts["keep_float"] == ["conv1", "fc8"] == made.facts["guard"]["keep_float"]
    assert made.facts["proof"] == dict.fromkeys(others, "int8")
    assert made.facts["calibration_method"] == "max" and made.facts["target"] == target.value
    assert quantized(made) == set(others)
    assert "in float: conv1, fc8" in stream.getvalue() and "6 of 6 layers in int8" in stream.getvalue()


def test_without_a_budget_no_guard_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Guarded:
        raise AssertionError("the guard ran")

    monkeypatch.setattr("alexnet_deploy.pipeline.target_graph.guard_choice", never)
    made = graph_for_target(small_graph(), small_info(), request_for(Target.ONNXRUNTIME_CPU), voice=quiet())
    assert made.facts["keep_float"] == [] and "guard" not in made.facts
    assert made.facts["proof"] == dict.fromkeys(LAYERS, "int8") and quantized(made) == set(LAYERS)


def test_a_graph_of_a_target_that_shows_nothing_here_has_no_proof() -> None:
    made = graph_for_target(small_graph(), small_info(), request_for(Target.TENSORRT), voice=quiet())
    assert "proof" not in made.facts and made.facts["lrn"] == "native"


@pytest.mark.parametrize("allow_float", [False, True])
def test_a_layer_that_runs_in_float_fails_the_graph_unless_it_may(
    allow_float: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(
        model: ir.Model, table: CalibrationTable, target: Target, *, keep_float: Any, **more: Any
    ) -> ir.Model:
        return int8_from_fp32(model, table, target, keep_float=[*keep_float, "conv4"], **more)

    monkeypatch.setattr("alexnet_deploy.pipeline.int8.int8_from_fp32", forgetful)
    request = request_for(Target.ONNXRUNTIME_CPU, allow_float=allow_float)
    if not allow_float:
        with pytest.raises(PrecisionProofError, match="1 of 8") as caught:
            graph_for_target(small_graph(), small_info(), request, voice=quiet())
        assert caught.value.got == "conv4 fp32"
        return
    made = graph_for_target(small_graph(), small_info(), request, voice=quiet())
    assert made.facts["proof"] == {name: "fp32" if name == "conv4" else "int8" for name in LAYERS}


def test_a_layer_that_is_not_there_cannot_be_kept() -> None:
    with pytest.raises(InputError, match="no such layer") as caught:
        int8_from_fp32(small_graph(), small_table(), Target.TENSORRT, keep_float=["conv9"])
    assert caught.value.got == "conv9" and "conv5" in str(caught.value.expected)


# Through the stages.


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Deployment:
    folder = tmp_path_factory.mktemp("guard") / "work"
    made = Deployment(workspace=Workspace(folder=folder, voice=quiet()), model=str(small_checkpoint))
    made.calibration(images=16)
    return made


@pytest.mark.usefixtures("few")
def test_another_budget_makes_the_graph_anew(deployment: Deployment) -> None:
    def graph(**options: Any) -> bool:
        return deployment.graph(Precision.INT8, Target.ONNXRUNTIME_CPU, options=GraphOptions(**options)).reused

    assert [graph(), graph()] == [False, True]
    assert [graph(max_drop=1.0), graph(max_drop=1.0), graph(max_drop=0.9)] == [False, True, False]


@pytest.mark.usefixtures("few")
def test_a_budget_that_cannot_hold_writes_no_graph(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hopeless(*args: Any, **kwargs: Any) -> Guarded:
        raise AccuracyError("the accuracy budget does not hold with every layer in float")

    monkeypatch.setattr("alexnet_deploy.pipeline.target_graph.guard_choice", hopeless)
    with pytest.raises(AccuracyError):
        deployment.graph(
            Precision.INT8, Target.OPENVINO, options=GraphOptions(max_drop=0.0), output=tmp_path / "int8.onnx"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("few")
def test_a_layer_kept_in_float_is_float_in_the_engine_and_the_others_are_int8(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr("alexnet_deploy.pipeline.target_graph.guard_choice", returning("conv2"))
    options = EngineOptions(precision=Precision.INT8, backend="tensorrt-rtx", sms=(89,))
    artifact = deployment.engine(options, graph_options=GraphOptions(max_drop=0.01))
    graph = deployment.graph(Precision.INT8, Target.TENSORRT_RTX, options=GraphOptions(max_drop=0.01))
    assert graph.reused and graph.facts["keep_float"] == ["conv2"]
    assert "conv2.weight.int8" not in read_graph(graph.path).graph.initializers
    precisions = {layer.name: layer.precision for layer in read_plan(artifact.path.read_bytes()).layers}
    assert precisions.pop("conv2") in ("fp32", "fp16", "tf32")
    assert precisions == {name: "int8" for name in LAYERS if name != "conv2"}


def test_lowerings_reach_the_guard(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Lowering] = []
    honest = export.lowered

    def noting(model: ir.Model, lowering: Lowering, **form: bool) -> ir.Model:
        asked.append(lowering)
        return honest(model, lowering, **form)

    monkeypatch.setattr(export, "lowered", noting)
    target = Target.ONNXRUNTIME_CPU
    guard_choice(maker_for(target), 1.0, voice=quiet())
    assert asked == [Lowering.BANDED, Lowering.BANDED]


# A graph that computes something else.


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.ONNXRUNTIME_CPU], ids=str)
def test_an_int8_graph_that_computes_something_else_is_refused(target: Target) -> None:
    maker, images = maker_for(target), shipped_batch(4)
    found = guard.require_likeness(maker.graph(), maker, images)
    assert found is not None and found > 10
    tensors = maker.table.tensors.items()
    cut = {name: replace(entry, thresholds=dict.fromkeys(entry.thresholds, 1e-3)) for name, entry in tensors}
    broken = replace(maker, table=replace(maker.table, tensors=cut))
    with pytest.raises(ParityError, match="computes something else") as caught:
        guard.require_likeness(broken.graph(), broken, images)
    assert "dB" in str(caught.value.got) and "--max-drop" in str(caught.value.remedy)


@pytest.mark.usefixtures("few")
def test_ranked_layers_say_what_they_gain_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(variants: dict[str, Any], *_: Any) -> dict[str, Any]:
        assert next(iter(variants)) == "all in int8" and len(variants) == 1 + len(LAYERS)
        return {name: np.full(64, 1.5 if name == "fc6 in float" else 1.0) for name in variants}

    monkeypatch.setattr(guard, "timed", timed)
    maker = maker_for(Target.ONNXRUNTIME_CPU, info=replace(small_info(), labels=()), table=ruined("conv2"))
    found = guard_choice(maker, 0.1, voice=quiet())
    gains = {row.layer: row.gain for row in found.sensitivities}
    assert gains["fc6"] is not None and gains["fc6"].median == 1.5
    assert gains["conv1"] is not None and gains["conv1"].median == 1.0
    lines = table_lines(found)
    assert len(lines) == 1 + len(LAYERS) and any("1.50x" in line and line.startswith("fc6") for line in lines)
    assert sum("<- float" in line for line in lines) == len(found.keep_float)
    assert found.to_json()["sensitivities"][0]["gain"]["rounds"] > 0

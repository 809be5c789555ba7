"""Each stage makes what it needs from the one before, once, and refuses what belongs to another model."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.engines.options import EngineOptions, Profile
from alexnet_deploy.engines.plan import read_plan
from alexnet_deploy.errors import AlexnetDeployError, ArtifactError, InputError, PrecisionProofError
from alexnet_deploy.export import run_onnx
from alexnet_deploy.files import sha256_of
from alexnet_deploy.graph import graph_bytes, info_of, read_graph, write_graph
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import GraphOptions, Lowering, Precision, Target
from alexnet_deploy.weights import save_checkpoint
from tests.conftest import small_info, small_network
from tests.graphs import CONVOLUTIONS, LINEARS, operators, relative_error, shipped_batch, small_graph

IMAGES = 32


def deployment_over(folder: Path, model: Path, stream: io.StringIO | None = None) -> Deployment:
    voice = Voice(stream=stream) if stream else Voice(quiet=True, stream=io.StringIO())
    return Deployment(workspace=Workspace(folder=folder, voice=voice), model=str(model))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages") / "work"


@pytest.fixture(scope="module")
def deployment(folder: Path, small_checkpoint: Path) -> Deployment:
    """One export for all tests of this module."""
    made = deployment_over(folder, small_checkpoint)
    made.fp32_graph()
    return made


def test_the_graph_of_a_checkpoint_is_proved_and_described(deployment: Deployment, folder: Path) -> None:
    artifact = deployment.fp32_graph()
    assert artifact.path == folder / "alexnet.onnx" and artifact.reused
    model = read_graph(artifact.path)
    assert info_of(model) == small_info() == deployment.info
    assert graph_bytes(model) == graph_bytes(small_graph())
    facts = artifact.facts
    assert (facts["precision"], facts["lrn"], facts["opset"]) == ("fp32", "native", 18)
    assert facts["parity"]["images"] == 64 and facts["parity"]["max_relative_error"] < 1e-5
    assert [entry["spec"]["bias"] for entry in facts["lrn_recovered"]] == [2.0, 2.0]


def test_a_new_run_over_the_same_folder_reuses_the_graph(
    deployment: Deployment, folder: Path, small_checkpoint: Path
) -> None:
    deployment.fp32_graph()
    assert deployment_over(folder, small_checkpoint).fp32_graph().reused


def test_an_exported_graph_is_a_model_by_itself(deployment: Deployment, tmp_path: Path) -> None:
    path = deployment.fp32_graph().path
    again = deployment_over(tmp_path / "other", path)
    assert again.is_graph and again.stem == "alexnet"
    artifact = again.fp32_graph()
    assert artifact.path == path and artifact.reused
    assert again.info == small_info()


def test_an_exported_graph_that_was_changed_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "alexnet.onnx"
    source = deployment.fp32_graph().path
    path.write_bytes(source.read_bytes() + b"\x00")
    path.with_name("alexnet.onnx.json").write_bytes(source.with_name("alexnet.onnx.json").read_bytes())
    with pytest.raises(ArtifactError, match="not the file its passport describes"):
        deployment_over(tmp_path / "other", path).fp32_graph()


def test_calibration_takes_the_shipped_images(deployment: Deployment, folder: Path) -> None:
    artifact = deployment.calibration(images=IMAGES)
    assert artifact.path == folder / "calibration.json"
    table = CalibrationTable.read(artifact.path)
    assert (len(table.images), table.graph_sha256) == (IMAGES, sha256_of(folder / "alexnet.onnx"))
    assert table.preprocessing == small_info().preprocessing.fingerprint
    assert deployment.calibration(images=IMAGES).reused
    passport = read_passport(artifact.path)
    assert passport is not None and passport.facts["images"] == IMAGES


@pytest.mark.parametrize("images", [0, -1, 1_000_001])
def test_a_number_of_images_that_cannot_be_is_refused(deployment: Deployment, images: int) -> None:
    with pytest.raises(InputError, match="calibration"):
        deployment.calibration(images=images)


def class_folder(root: Path) -> Path:
    """Two shipped images of each class as a tree of PNG files."""
    source = shipped_images(Split.GUARD)
    for label, name in enumerate(source.classes):
        folder = root / name.replace("/", "-")
        folder.mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(source.labels == label)[:2]):
            Image.fromarray(source.image(int(index))).save(folder / f"{number}.png")
    return root


def test_calibration_takes_a_folder_and_can_leave_out_damaged_images(deployment: Deployment, tmp_path: Path) -> None:
    data = class_folder(tmp_path / "data")
    output = tmp_path / "table.json"
    artifact = deployment.calibration(data=str(data), images=1000, output=output)
    assert len(CalibrationTable.read(artifact.path).images) == 20
    assert len(CalibrationTable.read(deployment.calibration(data=str(data), images=5, output=output).path).images) == 5
    (data / "Bag" / "broken.png").write_bytes(b"not an image")
    stream = io.StringIO()
    loud = dataclasses.replace(
        deployment, workspace=dataclasses.replace(deployment.workspace, voice=Voice(stream=stream))
    )
    skipping = loud.calibration(data=str(data), images=1000, output=output, skip_bad=True)
    assert len(CalibrationTable.read(skipping.path).images) == 20
    assert "left out a damaged image" in stream.getvalue() and "broken.png" in stream.getvalue()


EXPECTED_NAMES = {
    (Precision.FP32, Target.ONNXRUNTIME_CPU): "alexnet.lrn-banded.onnx",
    (Precision.FP32, Target.OPENVINO): "alexnet.onnx",
    (Precision.FP32, Target.TENSORRT_RTX): "alexnet.onnx",
    (Precision.FP16, Target.TENSORRT_RTX): "alexnet.fp16.tensorrt-rtx.onnx",
    (Precision.BF16, Target.TENSORRT_RTX): "alexnet.bf16.tensorrt-rtx.onnx",
    (Precision.INT8, Target.TENSORRT_RTX): "alexnet.int8.tensorrt-rtx.onnx",
    (Precision.INT8, Target.TENSORRT): "alexnet.int8.tensorrt.onnx",
    (Precision.INT8, Target.OPENVINO): "alexnet.int8.openvino.onnx",
    (Precision.INT8, Target.ONNXRUNTIME_CPU): "alexnet.int8.onnxruntime-cpu.onnx",
}


@pytest.mark.parametrize(("precision", "target"), EXPECTED_NAMES, ids=lambda value: str(value))
def test_every_target_gets_its_graph(
    deployment: Deployment, folder: Path, precision: Precision, target: Target
) -> None:
    deployment.calibration(images=IMAGES)
    artifact = deployment.graph(precision, target)
    assert artifact.path == folder / EXPECTED_NAMES[precision, target]
    assert artifact.facts["precision"] == precision.value
    banded = target is Target.ONNXRUNTIME_CPU
    assert artifact.facts["lrn"] == ("banded" if banded else "native")
    model = read_graph(artifact.path)
    assert info_of(model) == small_info()
    assert ("LRN" in operators(model)) != banded
    assert ("QuantizeLinear" in operators(model)) == (precision is Precision.INT8)
    assert deployment.graph(precision, target).reused
    if precision is not Precision.BF16:
        images = shipped_batch(32)
        expected = run_onnx(read_graph(folder / "alexnet.onnx"), images)
        tolerance = {Precision.FP32: 1e-5, Precision.FP16: 1e-2, Precision.INT8: 0.2}[precision]
        assert relative_error(run_onnx(model, images), expected) < tolerance


def test_a_lowering_that_was_asked_for_is_taken(deployment: Deployment, tmp_path: Path) -> None:
    artifact = deployment.graph(
        Precision.FP32, Target.OPENVINO, lowering=Lowering.BANDED, output=tmp_path / "banded.onnx"
    )
    assert artifact.path == tmp_path / "banded.onnx"
    assert (artifact.facts["lrn"], artifact.facts["lrn_reason"]) == ("banded", "asked for")


def test_int8_takes_the_table_that_was_named(deployment: Deployment, tmp_path: Path) -> None:
    table = deployment.calibration(images=8, output=tmp_path / "eight.json")
    artifact = deployment.graph(Precision.INT8, Target.OPENVINO, calibration=table.path, output=tmp_path / "int8.onnx")
    passport = read_passport(artifact.path)
    assert passport is not None
    assert ("eight.json", sha256_of(table.path)) in passport.parents
    scale = read_graph(artifact.path).graph.initializers["input.scale"].const_value
    assert scale is not None
    expected, _ = CalibrationTable.read(table.path).range_of("input").affine
    assert float(scale.numpy()) == pytest.approx(expected, rel=1e-6)


def test_a_table_of_another_graph_is_refused_with_both_hashes(deployment: Deployment, tmp_path: Path) -> None:
    other = dataclasses.replace(
        CalibrationTable.read(deployment.calibration(images=IMAGES).path), graph_sha256="f" * 64
    )
    other.write(tmp_path / "other.json")
    with pytest.raises(ArtifactError, match=r"other\.json") as caught:
        deployment.graph(Precision.INT8, Target.OPENVINO, calibration=tmp_path / "other.json")
    assert "f" * 64 in str(caught.value.got)
    assert sha256_of(deployment.fp32_graph().path) in str(caught.value.expected)
    assert caught.value.remedy and "calibrate" in caught.value.remedy


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_an_engine_has_the_proof_in_its_passport(deployment: Deployment, folder: Path, precision: Precision) -> None:
    pytest.importorskip("tensorrt_rtx")
    deployment.calibration(images=IMAGES)
    options = EngineOptions(precision=precision, backend="tensorrt-rtx", sms=(86, 89))
    artifact = deployment.engine(options)
    assert artifact.path == folder / f"alexnet.{precision.value}.tensorrt-rtx.sm86+sm89.engine"
    plan = read_plan(artifact.path.read_bytes())
    assert artifact.facts["plan"] == plan.to_json()
    assert {layer.name: layer.precision for layer in plan.layers} == dict.fromkeys(
        CONVOLUTIONS + LINEARS, precision.value
    )
    assert artifact.path.with_name(f"{artifact.path.name}.log").is_file()
    passport = read_passport(artifact.path)
    assert passport is not None
    assert passport.parents == (
        (f"alexnet.{precision.value}.tensorrt-rtx.onnx", sha256_of(folder / passport.parents[0][0])),
    )
    assert passport.tools["tensorrt-rtx"].startswith("1.")
    assert deployment.engine(options).reused
    assert not deployment.engine(dataclasses.replace(options, profiles=(Profile(max=4),))).reused


def test_an_engine_that_fails_its_proof_is_not_written(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    fp16 = deployment.graph(Precision.FP16, Target.TENSORRT_RTX)
    monkeypatch.setattr(Deployment, "graph", lambda self, precision, target, **_: fp16)
    options = EngineOptions(precision=Precision.INT8, backend="tensorrt-rtx", sms=(89,))
    output = tmp_path / "engines" / "alexnet.engine"
    with pytest.raises(PrecisionProofError, match="8 of 8"):
        deployment.engine(options, output=output)
    assert not output.exists() and not output.with_name("alexnet.engine.json").exists()
    kept = deployment.engine(options, output=output, graph_options=GraphOptions(allow_float=True))
    assert kept.path.is_file()
    assert {layer["precision"] for layer in kept.facts["plan"]["layers"]} == {"fp16"}


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    for name, found in ((tmp_path / "nothing.safetensors", "no such file"), (tmp_path, "folder")):
        with pytest.raises(InputError, match="no model") as caught:
            deployment_over(tmp_path / "work", name).fp32_graph()
        assert found in str(caught.value.got) and caught.value.expected
    assert not (tmp_path / "work").exists()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of someone else: no description, other classes."""
    model = small_graph("caffenet")
    model.metadata_props.clear()
    path = tmp_path_factory.mktemp("foreign") / "net.onnx"
    write_graph(model, path)
    return path


def test_a_foreign_graph_is_taken_with_a_warning_about_its_preprocessing(foreign: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    deployment = deployment_over(tmp_path / "work", foreign, stream)
    artifact = deployment.fp32_graph()
    assert artifact.path == tmp_path / "work" / "net.onnx"
    assert "preprocess" in stream.getvalue() and "imagenet" in stream.getvalue()
    info = deployment.info
    assert info.network is None and info.labels == () and info.name == "net"
    assert deployment.graph(Precision.FP16, Target.TENSORRT_RTX).path.name == "net.fp16.tensorrt-rtx.onnx"


def test_a_foreign_graph_takes_the_preprocessing_that_was_named(foreign: Path, tmp_path: Path) -> None:
    described = dataclasses.replace(small_info().preprocessing, mean=(0.5, 0.25, 0.125))
    (tmp_path / "how.json").write_text(json.dumps(described.to_json()))
    deployment = dataclasses.replace(
        deployment_over(tmp_path / "work", foreign), preprocessing=str(tmp_path / "how.json")
    )
    deployment.fp32_graph()
    assert deployment.info.preprocessing == described
    caffe = dataclasses.replace(deployment_over(tmp_path / "caffe", foreign), preprocessing="caffe")
    caffe.fp32_graph()
    assert caffe.info.preprocessing.channel_order == "bgr"
    wrong = dataclasses.replace(deployment_over(tmp_path / "wrong", foreign), preprocessing=str(tmp_path / "no.json"))
    with pytest.raises(InputError, match=r"no\.json"):
        wrong.fp32_graph()


def test_a_model_of_other_classes_asks_for_its_own_images(foreign: Path, tmp_path: Path) -> None:
    deployment = deployment_over(tmp_path / "work", foreign)
    with pytest.raises(InputError, match="calibration") as caught:
        deployment.calibration()
    assert caught.value.remedy and "--data" in caught.value.remedy
    with pytest.raises(InputError, match="calibration"):
        deployment.graph(Precision.INT8, Target.OPENVINO)


def test_the_shipped_images_can_be_insisted_on(foreign: Path, tmp_path: Path) -> None:
    deployment = deployment_over(tmp_path / "work", foreign)
    assert len(CalibrationTable.read(deployment.calibration(data="shipped", images=4).path).images) == 4


def test_int8_uses_the_table_that_was_made_from_other_images(foreign: Path, tmp_path: Path) -> None:
    deployment = deployment_over(tmp_path / "work", foreign)
    table = deployment.calibration(data=str(class_folder(tmp_path / "data")), images=10)
    artifact = deployment.graph(Precision.INT8, Target.OPENVINO)
    passport = read_passport(artifact.path)
    assert passport is not None and passport.parents[1] == (table.path.name, sha256_of(table.path))


def test_another_checkpoint_in_the_same_folder_makes_everything_anew(
    deployment: Deployment, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sha256_of(deployment.fp32_graph().path)
    other = tmp_path / "other.safetensors"
    save_checkpoint(small_network(seed=5), small_info(), other)
    work = tmp_path / "work"
    work.mkdir()
    for name in ("alexnet.onnx", "alexnet.onnx.json"):
        (work / name).write_bytes((folder / name).read_bytes())
    artifact = deployment_over(work, other).fp32_graph()
    assert not artifact.reused and sha256_of(artifact.path) != before


def test_the_output_may_not_be_the_source(foreign: Path, tmp_path: Path) -> None:
    deployment = deployment_over(tmp_path / "work", foreign)
    before = foreign.read_bytes()
    with pytest.raises(InputError, match="own source"):
        deployment.fp32_graph(foreign)
    with pytest.raises(InputError, match="own source"):
        deployment_over(foreign.parent, foreign).fp32_graph()
    assert foreign.read_bytes() == before


def test_a_graph_that_normalisation_would_change_in_value_is_not_kept(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet_deploy import export
    from alexnet_deploy.errors import ParityError

    honest = export.run_onnx
    answers = iter([0.0, 1.0])
    monkeypatch.setattr(export, "run_onnx", lambda model, images: honest(model, images) + next(answers))
    with pytest.raises(ParityError):
        deployment_over(tmp_path / "work", foreign).fp32_graph()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_graph_from_a_file_of_its_own_opset_is_converted_on_request(foreign: Path, tmp_path: Path) -> None:
    deployment = dataclasses.replace(deployment_over(tmp_path / "work", foreign), opset=20)
    artifact = deployment.fp32_graph()
    assert onnx.load(str(artifact.path)).opset_import[0].version == 20


def test_an_exported_graph_is_converted_on_request_too(deployment: Deployment, tmp_path: Path) -> None:
    source = deployment.fp32_graph().path
    later = dataclasses.replace(deployment_over(tmp_path / "work", source), opset=20)
    artifact = later.fp32_graph()
    assert onnx.load(str(artifact.path)).opset_import[0].version == 20


@pytest.mark.parametrize("passport", [True, False], ids=["with-passport", "without-passport"])
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_a_graph_that_is_not_fp32_is_no_model(
    deployment: Deployment, tmp_path: Path, precision: Precision, passport: bool
) -> None:
    deployment.calibration(images=IMAGES)
    made = deployment.graph(precision, Target.TENSORRT_RTX).path
    path = tmp_path / "net.onnx"
    path.write_bytes(made.read_bytes())
    if passport:
        path.with_name("net.onnx.json").write_bytes(made.with_name(f"{made.name}.json").read_bytes())
    with pytest.raises(AlexnetDeployError) as caught:
        deployment_over(tmp_path / "work", path).fp32_graph()
    assert caught.value.remedy or caught.value.expected


def test_a_graph_with_banded_norms_is_no_model(deployment: Deployment, tmp_path: Path) -> None:
    """FP16 would square activations in FP16, and INT8 would quantize the band."""
    banded = deployment.graph(Precision.FP32, Target.ONNXRUNTIME_CPU).path
    with pytest.raises(AlexnetDeployError) as caught:
        deployment_over(tmp_path / "work", banded).fp32_graph()
    assert caught.value.remedy or caught.value.expected

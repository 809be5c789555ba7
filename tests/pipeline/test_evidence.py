"""What the report shows beside the rows is what the files and the logits hold."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.bench.candidate import Candidate, Taken
from alexnet_deploy.bench.runner import EvaluationData, LocalRunner, Runner
from alexnet_deploy.data.sources import ArraySource
from alexnet_deploy.files import write_json
from alexnet_deploy.pipeline.evidence import confusion, flipped, histograms, passports
from alexnet_deploy.pipeline.sensitivity import changes, sensitivity
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Interpolation, Precision, Preprocessing, Resize
from tests.conftest import small_preprocessing
from tests.passports import write_passport

NAMES = ("boot", "bag", "<coat>")
LABELS = np.array([0, 1, 2, 2])


def candidate(runtime: str, precision: Precision, classes: list[int] | None, *, path: Path = Path()) -> Candidate:
    logits = None if classes is None else np.eye(3, dtype=np.float32)[classes]
    spec = SessionSpec(runtime=runtime, precision=precision, path=path, threads=1)
    return Candidate(spec=spec, logits=logits, status="failed" if classes is None else "ok")


def source() -> ArraySource:
    pixels = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1).repeat(3, axis=3)
    return ArraySource(pixels, LABELS, NAMES, "four")


REFERENCE = candidate("torch", Precision.FP32, [0, 1, 2, 1])
INT8 = candidate("openvino", Precision.INT8, [0, 2, 2, 1])


def test_confusion_counts_labels_against_predictions() -> None:
    found = confusion([candidate("failed", Precision.FP32, None), REFERENCE, INT8], LABELS, NAMES)
    assert found is not None
    assert (found["reference"], found["session"]) == ("torch/fp32", "openvino/int8")
    assert found["reference_counts"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert found["counts"] == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]


def test_without_labels_a_pair_or_few_classes_there_is_no_confusion() -> None:
    assert confusion([REFERENCE, INT8], None, NAMES) is None
    assert confusion([REFERENCE], LABELS, NAMES) is None
    assert confusion([REFERENCE, INT8], LABELS, [str(k) for k in range(51)]) is None


def test_flipped_images_are_those_that_int8_says_something_else_of() -> None:
    twin = candidate("openvino", Precision.INT8, [1, 1, 1, 1])
    twin.same_as = "openvino/int8"
    (found,) = flipped([REFERENCE, INT8, twin], source(), np.array([3, 0, 1, 2]), LABELS, NAMES)
    assert (found["session"], found["index"]) == ("openvino/int8", 0)
    assert (found["label"], found["reference"], found["predicted"]) == ("bag", "bag", "<coat>")
    with Image.open(io.BytesIO(base64.b64decode(found["png"]))) as image:
        np.testing.assert_array_equal(np.asarray(image), source().image(0))


def test_at_most_so_many_are_kept_and_large_ones_are_made_small() -> None:
    pixels = np.zeros((40, 200, 300, 3), np.uint8)
    many = ArraySource(pixels, np.zeros(40, np.int64), NAMES, "many")
    one, other = candidate("torch", Precision.FP32, [0] * 40), candidate("openvino", Precision.INT8, [1] * 40)
    found = flipped([one, other], many, np.arange(40), None, NAMES)
    assert len(found) == 24 and found[0]["label"] is None
    with Image.open(io.BytesIO(base64.b64decode(found[0]["png"]))) as image:
        assert image.size == (96, 64)


def test_every_passport_is_shown_once(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    write_json(path, {})
    write_passport(path, kind="onnx", facts={"model": "a"})
    pair = [candidate("a", Precision.FP32, [0], path=path), candidate("b", Precision.FP32, [0], path=path)]
    (found,) = passports(pair, None, tmp_path / "nothing")
    assert found["file"] == "graph.onnx" and found["passport"]["facts"] == {"model": "a"}


@pytest.fixture(scope="module")
def table(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    deployment = Deployment(Workspace(folder=tmp_path_factory.mktemp("table")), model=str(small_checkpoint))
    return deployment.calibration().path


def test_histograms_hold_every_value_of_the_table(table: Path) -> None:
    found = histograms(table)
    assert found is not None
    read = CalibrationTable.read(table)
    assert (found["method"], found["images"]) == (read.method.value, len(read.images))
    assert [tensor["name"] for tensor in found["tensors"]] == list(read.tensors)
    for tensor in found["tensors"]:
        assert len(tensor["shares"]) == 128 and sum(tensor["shares"]) == pytest.approx(1, abs=1e-3)
        # The last bin holds the largest magnitude; thresholds lie within it.
        assert tensor["limit"] >= 0.999 * max(-tensor["min"], tensor["max"])
        assert 0 < tensor["thresholds"]["percentile"] <= tensor["thresholds"]["max"]
    assert histograms(None) is None


def test_changes_of_preprocessing_keep_the_size_of_the_image() -> None:
    for resize, size in ((Resize.STRETCH, 64), (Resize.SHORTER_SIDE, 73)):
        spec = Preprocessing(image_size=64, resize=resize, resize_size=size)
        found = changes(spec)
        assert len(found) == 2 and all(changed != spec and changed.image_size == 64 for _, changed in found)
        assert found[0][1].interpolation is not spec.interpolation
        assert found[1][1].resize is not spec.resize
    nearest = Preprocessing(image_size=64, resize_size=64, interpolation=Interpolation.NEAREST)
    assert changes(nearest)[0][1].interpolation is Interpolation.BILINEAR


class Brightness(FakeSession):
    """Class 9 where the images are brighter than a bound, class 0 elsewhere."""

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        bright = images.mean(axis=(1, 2, 3)) > 0
        answers: NDArray[np.float32] = np.eye(10, dtype=np.float32)[np.where(bright, 9, 0)]
        return answers


def test_sensitivity_sets_preprocessing_beside_int8() -> None:
    data = EvaluationData(data="shipped", preprocessing=small_preprocessing(), indices=np.arange(12))
    side = data.preprocessing.image_size
    asked: list[Preprocessing] = []

    def runner(_: SessionSpec, part: EvaluationData) -> Runner:
        asked.append(part.preprocessing)
        return LocalRunner(opener=lambda: Brightness((3, side, side)), images=part.open())

    logits = Brightness((3, side, side)).run(data.open()[:12])
    slow, fast, int8 = (
        Candidate(spec=SessionSpec(runtime=name, precision=precision, path=Path(), threads=1), logits=logits)
        for name, precision in (("torch", Precision.FP32), ("openvino", Precision.FP32), ("openvino", Precision.INT8))
    )
    for each, milliseconds in ((slow, 20.0), (fast, 10.0), (int8, 5.0)):
        each.taken[1] = Taken(milliseconds=[milliseconds], seconds=milliseconds / 1e3)
    found = sensitivity([slow, fast, int8], data, runner, None, Voice(quiet=True))
    assert found is not None
    assert (found["images"], found["session"]) == (12, "openvino/fp32")
    assert [row["kind"] for row in found["rows"]] == ["preprocessing", "preprocessing", "quantization"]
    assert found["rows"][-1]["agreement"] == 1.0 and found["rows"][-1]["top1"] is None
    assert asked == [changed for _, changed in changes(data.preprocessing)]
    assert sensitivity([int8], data, runner, None, Voice(quiet=True)) is None

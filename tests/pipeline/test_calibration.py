"""The calibration stage: which images it takes, what it reuses, and what an interrupted run leaves for the next one."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.data.batches import Batch, batches
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import ArtifactError, DataError, ImageError, InputError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.graph import write_graph
from alexnet_deploy.pipeline.calibration import calibrated, calibration_images
from alexnet_deploy.pipeline.workspace import Artifact, Workspace
from alexnet_deploy.precision import calibrate
from alexnet_deploy.precision.calibrate import CALIBRATION_BATCH, CalibrationOptions
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.progress import Voice
from tests.conftest import random_images, small_info
from tests.precision.test_calibrate import PLAIN, layers
from tests.precision.test_resume import Stopping

COUNT = 2 * CALIBRATION_BATCH + 3
INFO = replace(small_info(), network=None, preprocessing=PLAIN)


def voice() -> Voice:
    return Voice(quiet=True, stream=io.StringIO())


def images(count: int = COUNT) -> ImageSource:
    return random_images(count, side=4, colour=True)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    write_graph(layers(), path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work" / "calibration.json"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images that go through the graph, in order."""
    found: list[int] = []

    def noting(*args: Any, **kwargs: Any) -> Iterator[Batch]:
        for batch in batches(*args, **kwargs):
            found.extend(batch.indices)
            yield batch

    monkeypatch.setattr(calibrate, "batches", noting)
    return found


def stage(
    path: Path,
    graph: Path,
    *,
    source: ImageSource | None = None,
    options: CalibrationOptions | None = None,
    speaker: Voice | None = None,
) -> Artifact:
    workspace = Workspace(folder=path.parent, voice=speaker or voice())
    return calibrated(workspace, path, graph, layers(), INFO, source or images(), options)


def interrupted(path: Path, graph: Path, count: int, **arguments: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        stage(path, graph, speaker=Stopping(count), **arguments)


# Which images.


def test_the_shipped_images_are_taken_where_they_are_the_models_own() -> None:
    shipped = shipped_images(Split.CALIBRATION)
    source = calibration_images(small_info(), None, 5, voice=voice())
    assert [source.content_hash(index) for index in range(len(source))] == [
        shipped.content_hash(index) for index in range(5)
    ]
    assert len(calibration_images(small_info(), None, 1_000_000, voice=voice())) == len(shipped)


def test_the_shipped_images_of_another_model_must_be_named() -> None:
    info = replace(INFO, labels=())
    with pytest.raises(InputError, match="calibration") as caught:
        calibration_images(info, None, 5, voice=voice())
    assert caught.value.remedy and "--data" in caught.value.remedy
    assert len(calibration_images(info, "shipped", 5, voice=voice())) == 5


@pytest.mark.parametrize("count", [0, -1, 1_000_001])
def test_a_number_of_images_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="number of calibration images"):
        calibration_images(small_info(), "shipped", count, voice=voice())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images in two classes."""
    for index in range(6):
        place = tmp_path / "data" / ("ab"[index % 2])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images().image(index)).save(place / f"{index}.png")
    return tmp_path / "data"


def hashes(source: ImageSource) -> set[str]:
    return {source.content_hash(index) for index in range(len(source))}


def test_a_folder_gives_the_same_sample_each_time(folder: Path) -> None:
    everything = hashes(images(6))
    assert hashes(calibration_images(INFO, str(folder), 100, voice=voice())) == everything
    few = [hashes(calibration_images(INFO, str(folder), 3, voice=voice())) for _ in range(2)]
    assert few[0] == few[1] and len(few[0]) == 3 and few[0] < everything


def test_damaged_images_are_left_out_and_said(folder: Path) -> None:
    (folder / "a" / "cut.png").write_bytes((folder / "a" / "0.png").read_bytes()[:40])
    (folder / "b" / "text.png").write_text("no image")
    stream = io.StringIO()
    source = calibration_images(INFO, str(folder), 100, skip_bad=True, voice=Voice(quiet=True, stream=stream))
    assert hashes(source) == hashes(images(6))
    assert "left out 2 damaged images" in stream.getvalue() and "cut.png" in stream.getvalue()


def test_nothing_is_said_where_no_image_is_damaged(folder: Path) -> None:
    stream = io.StringIO()
    source = calibration_images(INFO, str(folder), 100, skip_bad=True, voice=Voice(stream=stream))
    assert len(source) == 6 and stream.getvalue() == ""


def test_a_damaged_image_is_an_error_unless_it_may_be_left_out(folder: Path, path: Path, graph: Path) -> None:
    (folder / "a" / "text.png").write_text("no image")
    source = calibration_images(INFO, str(folder), 100, voice=voice())
    with pytest.raises(ImageError, match=r"text\.png") as caught:
        stage(path, graph, source=source)
    assert caught.value.remedy and "--skip-bad" in caught.value.remedy
    assert not path.parent.exists() or list(path.parent.iterdir()) == []


def test_nothing_but_damaged_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    for name in ("one.png", "two.png"):
        (tmp_path / "data" / "a" / name).write_text("no image")
    with pytest.raises(DataError, match="can be read") as caught:
        calibration_images(INFO, str(tmp_path / "data"), 100, skip_bad=True, voice=voice())
    assert "2 damaged images" in str(caught.value.got) and caught.value.remedy


def test_a_table_without_the_damaged_images_is_the_table_of_the_others(folder: Path, path: Path, graph: Path) -> None:
    stage(path, graph, source=calibration_images(INFO, str(folder), 100, voice=voice()))
    before = path.read_bytes()
    (folder / "a" / "text.png").write_text("no image")
    skipping = calibration_images(INFO, str(folder), 100, skip_bad=True, voice=voice())
    assert stage(path, graph, source=skipping).reused
    stage(path.with_name("other.json"), graph, source=skipping)
    assert path.with_name("other.json").read_bytes() == before
    assert CalibrationTable.read(path).images == tuple(sorted(hashes(images(6))))


# What it makes, and what it reuses.


def test_the_table_and_its_passport_say_what_it_was_made_from(path: Path, graph: Path) -> None:
    options = CalibrationOptions(method=Method.MSE, percentile=99.0)
    artifact = stage(path, graph, options=options)
    assert (artifact.path, artifact.reused) == (path, False)
    table = CalibrationTable.read(path)
    assert (table.method, table.percentile, table.graph_sha256) == (Method.MSE, 99.0, sha256_of(graph))
    assert (table.preprocessing, table.images) == (PLAIN.fingerprint, tuple(sorted(hashes(images()))))
    assert json.loads(path.read_text()) == table.to_json()
    passport = read_passport(path)
    assert passport is not None and passport.parents == (("graph.onnx", sha256_of(graph)),)
    assert passport.facts == artifact.facts == {
        "method": "mse", "images": COUNT, "data": "noise", "origin": {}, "safety": [],
    }  # fmt: skip
    assert passport.tools.keys() & {"onnxruntime", "onnxruntime-gpu"}
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["calibration.json", "calibration.json.json"]


def test_the_same_images_in_another_order_are_the_same_table(path: Path, graph: Path, read: list[int]) -> None:
    stage(path, graph)
    backwards = images().subset(np.arange(COUNT)[::-1])
    assert stage(path, graph, source=backwards).reused
    assert len(read) == COUNT
    stage(path.with_name("other.json"), graph, source=backwards)
    assert path.with_name("other.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"source": images(COUNT - 1)},
        {"source": images(COUNT).subset([*range(COUNT - 1), 0])},
        {"options": CalibrationOptions(method=Method.ENTROPY)},
        {"options": CalibrationOptions(percentile=99.0)},
    ],
    ids=["an-image-less", "an-image-twice", "method", "percentile"],
)
def test_another_request_makes_another_table(path: Path, graph: Path, change: dict[str, Any]) -> None:
    stage(path, graph)
    before = path.read_bytes()
    assert not stage(path, graph, **change).reused
    assert path.read_bytes() != before
    assert stage(path, graph, **change).reused


def test_another_graph_makes_another_table(path: Path, graph: Path) -> None:
    stage(path, graph)
    graph.write_bytes(graph.read_bytes() + b"\x00")
    assert not stage(path, graph).reused
    assert CalibrationTable.read(path).graph_sha256 == sha256_of(graph)


# What is left of a run that was interrupted.


def test_an_interrupted_run_goes_on_and_leaves_nothing_behind(path: Path, graph: Path, read: list[int]) -> None:
    interrupted(path, graph, 1)
    assert [entry.name for entry in path.parent.iterdir()] == ["calibration.json.part"]
    assert len(read) == CALIBRATION_BATCH
    assert not stage(path, graph).reused
    assert sorted(read) == list(range(COUNT))
    assert not path.with_name("calibration.json.part").exists()
    stage(path.with_name("whole.json"), graph)
    assert path.with_name("whole.json").read_bytes() == path.read_bytes()


def test_an_interrupted_run_serves_every_method(path: Path, graph: Path, read: list[int]) -> None:
    interrupted(path, graph, 2)
    stage(path, graph, options=CalibrationOptions(method=Method.ENTROPY, percentile=90.0))
    assert sorted(read) == list(range(COUNT))
    table = CalibrationTable.read(path)
    assert (table.method, table.percentile) == (Method.ENTROPY, 90.0)


@pytest.mark.parametrize("what", ["images", "graph", "preprocessing", "runtime", "version"])
def test_counts_of_something_else_are_not_gone_on_with(
    path: Path, graph: Path, what: str, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(path, graph, 1)
    read.clear()
    source, info = images(), INFO
    if what == "images":
        source = random_images(COUNT, side=4, colour=True, seed=1)
    elif what == "graph":
        graph.write_bytes(graph.read_bytes() + b"\x00")
    elif what == "preprocessing":
        info = replace(INFO, preprocessing=replace(PLAIN, scale=0.02))
    elif what == "runtime":
        monkeypatch.setattr("alexnet_deploy.pipeline.calibration.tool_versions", lambda *names: {"onnxruntime": "0"})
    else:
        monkeypatch.setattr("alexnet_deploy.pipeline.calibration.__version__", "0.0.0")
    calibrated(Workspace(folder=path.parent, voice=voice()), path, graph, layers(), info, source)
    assert len(read) == COUNT
    assert not path.with_name("calibration.json.part").exists()


def test_a_damaged_file_of_counts_starts_anew(path: Path, graph: Path, read: list[int]) -> None:
    interrupted(path, graph, 1)
    part = path.with_name("calibration.json.part")
    part.write_bytes(part.read_bytes().replace(b'"done": 16', b'"done": 17'))
    read.clear()
    stage(path, graph)
    assert len(read) == COUNT


def test_a_table_that_cannot_be_written_costs_no_image_twice(
    path: Path, graph: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, **known: object) -> None:
        raise ArtifactError(f"{path} cannot be written")

    interrupted(path, graph, 2)
    monkeypatch.setattr("alexnet_deploy.pipeline.workspace.write_artifact", full)
    with pytest.raises(ArtifactError):
        stage(path, graph)
    monkeypatch.undo()
    assert path.with_name("calibration.json.part").is_file()
    stage(path, graph)
    assert len(read) == COUNT


def test_a_reused_table_leaves_the_counts_of_another_run_alone(path: Path, graph: Path) -> None:
    stage(path, graph)
    more = images(COUNT + CALIBRATION_BATCH)
    interrupted(path, graph, 1, source=more)
    assert stage(path, graph).reused
    assert path.with_name("calibration.json.part").is_file()


def test_an_image_that_turns_bad_between_two_runs_is_another_request(path: Path, graph: Path, read: list[int]) -> None:
    class Changing(ImageSource):
        def __init__(self, bad: int | None) -> None:
            self.name, self.classes, self.bad = "changing", ("noise",), bad
            self.labels: NDArray[np.int64] = np.zeros(COUNT, np.int64)

        def image(self, index: int) -> NDArray[np.uint8]:
            pixels = images().image(index)
            return 255 - pixels if index == self.bad else pixels

    interrupted(path, graph, 1, source=Changing(None))
    read.clear()
    stage(path, graph, source=Changing(5))
    assert len(read) == COUNT

"""The calibration commands: methods and percentiles, damaged images, an interrupt, and what `inspect` shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alexnet_deploy.data.batches import Batch, batches
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.precision import calibrate
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.precision.thresholds import Method
from tests.cli.conftest import Run, assert_refused

METHODS = ["max", "percentile", "entropy", "mse"]


@pytest.mark.parametrize("method", METHODS)
def test_the_method_and_the_percentile_are_in_the_table(
    run: Run, common: list[object], tmp_path: Path, method: str
) -> None:
    output = tmp_path / "table.json"
    arguments = ["calibrate", *common, "--images", 4, "--method", method, "--percentile", 99.5, "--output", output]
    ended = run(*arguments)
    assert (ended.code, ended.out) == (0, f"{output}\n"), ended.err
    table = CalibrationTable.read(output)
    assert (table.method, table.percentile, len(table.images)) == (Method(method), 99.5, 4)
    document = run(*arguments, "--json").document
    assert document["reused"] and document["passport"]["facts"]["method"] == method


def test_the_method_is_max_unless_another_is_asked_for(run: Run, common: list[object], work: Path) -> None:
    assert run("calibrate", *common, "--images", 4).code == 0
    table = CalibrationTable.read(work / "calibration.json")
    assert (table.method, table.percentile) == (Method.MAX, 99.99)


@pytest.mark.parametrize("percentile", ["0", "-1", "100.01", "nan", "inf", "most"])
def test_a_percentile_that_cannot_be_is_a_usage_error(
    run: Run, small_checkpoint: Path, tmp_path: Path, percentile: str
) -> None:
    ended = run("calibrate", "--model", small_checkpoint, "--workdir", tmp_path / "work", "--percentile", percentile)
    assert_refused(ended, 2, "--percentile")
    assert not (tmp_path / "work").exists()


def test_an_unknown_method_is_a_usage_error(run: Run, common: list[object]) -> None:
    assert_refused(run("calibrate", *common, "--method", "median"), 2, "--method", *METHODS)


def test_inspect_shows_every_threshold_of_every_tensor(run: Run, common: list[object], tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    assert run("calibrate", *common, "--images", 4, "--method", "entropy", "--output", output).code == 0
    table = CalibrationTable.read(output)
    document = run("inspect", output, "--json").document
    assert (document["method"], document["percentile"], document["images"]) == ("entropy", 99.99, 4)
    assert document["images_sha256"] == list(table.images)
    assert list(document["tensors"]) == list(table.tensors)
    for name, found in table.tensors.items():
        assert document["tensors"][name]["thresholds"] == {m.value: found.thresholds[m] for m in Method}
        assert set(document["tensors"][name]["scales"]) == set(METHODS)
    text = run("inspect", output).out
    assert "entropy in use" in text
    for method in METHODS:
        assert method in text
    # A terminal of a test is narrow, which may fold cells but not drop them.
    words = text.split()
    for found in table.tensors.values():
        for limit in found.thresholds.values():
            assert f"{limit:.5g}" in words


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight shipped images as files, among them two that cannot be read."""
    source = shipped_images(Split.CALIBRATION)
    for index in range(8):
        folder = tmp_path / "data" / source.classes[int(source.labels[index])].replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.image(index)).save(folder / f"{index}.png")
    (folder / "cut.png").write_bytes((folder / "7.png").read_bytes()[:60])
    (folder / "text.png").write_text("no image")
    return tmp_path / "data"


def test_damaged_images_are_counted_and_only_the_good_ones_are_in_the_table(
    run: Run, common: list[object], data: Path, tmp_path: Path
) -> None:
    arguments = ["calibrate", *common, "--data", data, "--output", tmp_path / "table.json"]
    assert_refused(run(*arguments), 1, "cannot be read as an image", "--skip-bad")
    assert not (tmp_path / "table.json").exists()
    ended = run(*arguments, "--skip-bad")
    assert ended.code == 0 and "left out 2 damaged images" in ended.err
    source = shipped_images(Split.CALIBRATION)
    table = CalibrationTable.read(tmp_path / "table.json")
    assert table.images == tuple(sorted(source.content_hash(index) for index in range(8)))


def test_nothing_but_damaged_images_is_an_error(run: Run, common: list[object], tmp_path: Path) -> None:
    (tmp_path / "data" / "one").mkdir(parents=True)
    (tmp_path / "data" / "one" / "text.png").write_text("no image")
    ended = run("calibrate", *common, "--data", tmp_path / "data", "--skip-bad", "--output", tmp_path / "table.json")
    assert ended.code == 1 and "no image of" in ended.err and "remedy:" in ended.err
    assert not (tmp_path / "table.json").exists()


def test_an_interrupted_calibration_goes_on_with_the_next_command(
    run: Run, common: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def stopping(*args: Any, **kwargs: Any) -> Iterator[Batch]:
        for batch in batches(*args, **kwargs):
            if len(read) == 16:
                raise KeyboardInterrupt
            read.extend(batch.indices)
            yield batch

    def noting(*args: Any, **kwargs: Any) -> Iterator[Batch]:
        for batch in batches(*args, **kwargs):
            read.extend(batch.indices)
            yield batch

    output = tmp_path / "table.json"
    arguments = ["calibrate", *common, "--images", 40, "--output", output]
    monkeypatch.setattr(calibrate, "batches", stopping)
    ended = run(*arguments)
    assert (ended.code, ended.out) == (130, "") and "interrupted" in ended.err
    assert not output.exists() and (tmp_path / "table.json.part").is_file()
    monkeypatch.setattr(calibrate, "batches", noting)
    assert run(*arguments).code == 0
    assert sorted(read) == list(range(40))
    assert not (tmp_path / "table.json.part").exists()
    whole = tmp_path / "whole.json"
    assert run("calibrate", *common, "--images", 40, "--output", whole).code == 0
    assert whole.read_bytes() == output.read_bytes()


def test_a_table_of_the_schema_before_is_refused_with_what_to_do(run: Run, tmp_path: Path) -> None:
    old = {"schema": 1, "method": "max", "tensors": {"input": {"min": 0.0, "max": 1.0, "scale": 1 / 127}}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert_refused(run("inspect", tmp_path / "old.json"), 2, "old.json", "alexnet-deploy calibrate")

"""`--executor local` and `--executor ray` give the same files; what does not go together is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from alexnet_deploy import optional
from alexnet_deploy.data.catalog import FASHION_MNIST_CLASSES
from alexnet_deploy.data.sources import FolderSource
from alexnet_deploy.machine import count_gpus
from alexnet_deploy.pipeline.calibration import table_images
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.scale import parquet
from alexnet_deploy.scale.cluster import Cluster
from tests.cli.conftest import Run, assert_refused, common, run, work
from tests.training.test_run import write_tree

__all__ = ["common", "run", "work"]
RAY = ["--executor", "ray", "--workers", 2]
# Rows of a bench that hold no times.
TIMED = ("latency_ms", "anchor_ms", "warm_up", "throughput_ips", "cold_start_ms", "peak_memory_bytes", "roofline")


def rows_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return found


def test_predictions_are_those_of_single_images(run: Run, common: list[object], pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "all.parquet"
    document = run("predict", "--data", pictures, *common, "--output", output, "--json", "--top", 5).document
    assert document["path"] == str(output)
    assert document["data"] == {"name": str(pictures), "images": 200, "skipped": 0}
    assert document["executor"] == {"name": "local"}
    rows, source = rows_of(output), FolderSource(pictures)
    assert [row["index"] for row in rows] == list(range(200))
    assert [pictures / row["file"] for row in rows] == source.paths
    chosen = [3, 150]
    alone = run("predict", *(source.paths[i] for i in chosen), *common, "--json").document["predictions"]
    for place, said in zip(chosen, alone, strict=True):
        row = rows[place]
        assert row["labels"] == [label for label, _ in said["classes"]]
        assert [FASHION_MNIST_CLASSES[index] for index in row["classes"]] == row["labels"]
        # A kernel may round by the batch's size.
        np.testing.assert_allclose(row["probabilities"], [share for _, share in said["classes"]], rtol=1e-4)


def test_images_of_no_class_are_predicted_calibrated_on_and_compared(
    run: Run, common: list[object], pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    paths = FolderSource(pictures).paths[::40]
    for number, path in enumerate(paths):
        (folder / f"{number}.png").symlink_to(path)
    output = tmp_path / "flat.parquet"
    assert run("predict", "--data", folder, *common, "--output", output).code == 0
    assert [row["file"] for row in rows_of(output)] == [f"{number}.png" for number in range(5)]
    whole = tmp_path / "whole.parquet"
    assert run("predict", "--data", pictures, *common, "--output", whole).code == 0
    assert [row["classes"] for row in rows_of(output)] == [row["classes"] for row in rows_of(whole)[::40]]
    table = run("calibrate", "--data", folder, "--images", 4, *common, "--output", tmp_path / "t.json", "--json")
    assert table.code == 0, table.err
    again = table_images(CalibrationTable.read(tmp_path / "t.json"), tmp_path / "t.json", 10)
    assert len(again) == 4 and {again.content_hash(i) for i in range(4)} <= {
        FolderSource(pictures).content_hash(i) for i in range(0, 200, 40)
    }
    other = ["--data", folder, *common, "--workdir", tmp_path / "other"]
    assert run("calibrate", *other, "--images", 4).code == 0
    assert_refused(run("bench", *other, "--accuracy-only"), 1, "used for calibration", "4 of 5 shared")
    assert not list((tmp_path / "other").glob("*int8*"))
    bench = run("bench", "--accuracy-only", "--data", folder, "--precision", "fp32", *common, "--json")
    assert bench.document["data"] == {"name": str(folder), "images": 5, "skipped": 0, "labelled": False}
    ran = [row for row in bench.document["rows"] if row["status"] == "ok"]
    assert ran and all(row["top1"] is None and row["agreement"] == 1 for row in ran)
    assert "lie in no folders of their classes" in bench.err


def test_a_folder_of_both_is_the_same_set_here_and_on_ray(
    run: Run, common: list[object], cluster: Cluster, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    for path in FolderSource(pictures).paths[::20]:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).symlink_to(path)
    (folder / "montage.png").symlink_to(path)
    for name, arguments in (("x", ["--data", folder]), ("y", ["--data", folder, *RAY])):
        ended = run("predict", *arguments, *common, "--output", tmp_path / f"{name}.parquet")
        assert ended.code == 0 and ended.err == "", ended.err
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "y.parquet").read_bytes()
    assert [row["file"] for row in rows_of(tmp_path / "x.parquet")][-1] == "montage.png"
    warned = [run("calibrate", "--data", folder, *how, *common, "--output", tmp_path / "t.json") for how in ([], RAY)]
    assert [ended.code for ended in warned] == [0, 0]
    assert warned[0].err == warned[1].err and "left out: 1" in warned[0].err
    # Its classes are the model's, by their names on disk or not; then every image counts.
    bench = run("bench", "--accuracy-only", "--data", folder, "--precision", "fp32", *common, *RAY, "--json")
    assert bench.document["data"] == {"name": str(folder), "images": 11, "skipped": 0, "labelled": False}


def test_ray_writes_the_same_predictions_with_damaged_images_and_without(
    run: Run, common: list[object], cluster: Cluster, damaged: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    arguments = ["predict", "--data", damaged, *common, "--top", 3]
    one = run(*arguments, "--output", here, "--skip-bad", "--json")
    other = run(*arguments, "--output", there, "--skip-bad", "--json", *RAY)
    assert here.read_bytes() == there.read_bytes()
    assert one.document["data"] == other.document["data"] == {"name": str(damaged), "images": 200, "skipped": 2}
    assert one.err == other.err and "left out 2 damaged images" in one.err
    assert other.document["executor"]["workers"] == 2
    assert [len(row["classes"]) for row in rows_of(here)] == [3] * 200
    refused = [run(*arguments, "--output", tmp_path / "no.parquet", *how) for how in ([], RAY)]
    for ended in refused:
        assert_refused(ended, 1, "cut.png", "--skip-bad")
    assert refused[0].err == refused[1].err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.parquet", "there.parquet"]


def test_ray_runs_the_runtime_that_is_asked_for(
    run: Run, common: list[object], cluster: Cluster, pictures: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    arguments = ["predict", "--data", pictures, *common, "--runtime", "torch", "--threads", 1]
    for output, how in ((here, []), (there, RAY)):
        assert run(*arguments, "--output", output, *how).code == 0
    assert here.read_bytes() == there.read_bytes()
    plain = tmp_path / "plain.parquet"
    assert run("predict", "--data", pictures, *common, "--output", plain).code == 0
    assert plain.read_bytes() != here.read_bytes()
    if count_gpus() == 0:
        gpu = ["--runtime", "onnxruntime-cuda", "--output", tmp_path / "no.parquet", *RAY]
        assert_refused(run("predict", "--data", pictures, *common, *gpu), 1, "no CUDA device")


def test_row_groups_do_not_depend_on_chunks(
    run: Run, common: list[object], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROWS", 30)
    assert run("predict", "--data", pictures, *common, "--output", tmp_path / "x.parquet").code == 0
    file = pyarrow.parquet.ParquetFile(tmp_path / "x.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [30] * 6 + [20]
    assert [row["index"] for row in rows_of(tmp_path / "x.parquet")] == list(range(200))


def test_ray_calibrates_to_the_same_table(
    run: Run, common: list[object], cluster: Cluster, damaged: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    arguments = ["calibrate", "--data", damaged, *common, "--images", 202, "--skip-bad", "--method", "entropy"]
    one, other = run(*arguments, "--output", here), run(*arguments, "--output", there, *RAY)
    assert (one.code, other.code) == (0, 0), other.err
    assert here.read_bytes() == there.read_bytes()
    assert "left out 2 damaged images" in other.err and one.err == other.err
    # Who counted is no part of what was asked for.
    assert run(*arguments, "--output", there, "--json").document["reused"]


def test_accuracy_alone_is_the_same_here_on_ray_and_in_a_bench(
    run: Run, common: list[object], cluster: Cluster, work: Path
) -> None:
    narrowed = ["bench", *common, "--images", 150, "--runtime", "onnxruntime-cpu", "--json"]
    chosen = [*narrowed, "--precision", "fp32", "--precision", "int8"]
    here = run(*chosen, "--accuracy-only").document
    there = run(*chosen, "--accuracy-only", *RAY).document
    assert here["executor"] == {"name": "local"} and there["executor"]["name"] == "ray"
    assert [row["key"] for row in here["rows"]] == ["onnxruntime-cpu/fp32/16", "onnxruntime-cpu/int8/16"]
    assert all(row["status"] == "ok" and row["images"] == 150 for row in here["rows"])
    assert all(row[name] is None for row in here["rows"] for name in TIMED) and not here["rows"][0]["samples_ms"]
    without = [[{**row, "threads": 0} for row in document["rows"]] for document in (here, there)]
    assert without[0] == without[1]
    assert not (work / "bench.json").exists() and (work / "accuracy.json").is_file()
    measured = run(*chosen, "--batch", 1, "--runs", 2, "--no-details").document["rows"]
    for row, other in zip(here["rows"], measured, strict=True):
        assert set(row) == set(other)
        for name in ("images", "top1", "top5", "agreement", "flips", "sqnr_db"):
            assert row[name] == other[name], name
        assert row["ece"] == pytest.approx(other["ece"], rel=1e-9)


def test_accuracy_alone_is_shown_as_a_table(run: Run, common: list[object]) -> None:
    ended = run("bench", *common, "--accuracy-only", "--images", 20, "--runtime", "torch")
    assert ended.code == 0 and "torch" in ended.out and "20 images" in ended.out and "top-1 %" in ended.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], ["IMAGES", "--data"]),
        (["predict", "x.png", "--data", "shipped"], ["IMAGES", "--data"]),
        (["predict", "x.png", "--executor", "ray"], ["--data"]),
        (["predict", "x.png", "--output", "x.parquet"], ["--data"]),
        (["predict", "--data", "shipped", "--workers", "2"], ["--executor ray"]),
        (["calibrate", "--ray-address", "auto"], ["--executor ray"]),
        (["bench", "--executor", "ray"], ["--accuracy-only"]),
        (["bench", "--accuracy-only", "--runs", "3", "--batch", "1"], ["--batch", "--runs", "--accuracy-only"]),
        (["bench", "--accuracy-only", "--scenario", "offline"], ["--accuracy-only", "--scenario"]),
    ],
)
def test_what_does_not_go_together_is_refused(run: Run, arguments: list[str], words: list[str]) -> None:
    assert_refused(run(*arguments), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["predict", "--data", "nowhere"], 2, ["no data source or folder"]),
        (["predict", "--data", "shipped", "--output", "x.csv"], 2, ["x.csv", ".parquet"]),
        (["predict", "nowhere.png"], 2, ["no image"]),
        (["bench", "--runtime", "cuda"], 2, ["no such runtime: cuda", "onnxruntime-cuda"]),
        (["bench", "--accuracy-only", "--runtime", "cuda"], 2, ["no such runtime: cuda"]),
        (["predict", "--data", "shipped", "--output", "."], 2, ["is a directory"]),
        (["calibrate", "--data", "nowhere"], 2, ["no data source or folder"]),
        (["predict", "--data", "shipped", "--executor", "ray"], 1, ["ray", "not installed"]),
        (["predict", "x.png", "--executor", "ray"], 2, ["go with --data"]),
        (["bench", "--executor", "ray"], 2, ["--accuracy-only"]),
        (["calibrate", "--executor", "ray"], 1, ["ray", "not installed"]),
        (["serve"], 1, ["serve needs the package ray", "not installed"]),
    ],
)
def test_what_will_not_do_is_refused_before_artifacts_are_made(
    run: Run, arguments: list[object], code: int, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional, "is_installed", lambda module: module != "ray")
    ended = run(*arguments, "--workdir", tmp_path / "work")
    assert_refused(ended, code, *words)
    assert "wrote" not in ended.err and not (tmp_path / "work").exists()


def test_labels_that_do_not_fit_leave_no_file(run: Run, common: list[object], pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    arguments = ["predict", "--data", pictures, *common, "--labels", tmp_path / "labels.txt"]
    assert_refused(run(*arguments, "--output", tmp_path / "out" / "x.parquet"), 2, "labels do not fit")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_cluster_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    # In a process that is connected to nothing yet.
    arguments = ["calibrate", "--executor", "ray", "--ray-address", "nowhere"]
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_deploy", *arguments, "--workdir", str(tmp_path / "work")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert "no Ray cluster at nowhere" in done.stderr and "Traceback" not in done.stderr


def test_a_model_of_ones_own_is_benched_without_a_table_and_with_one(run: Run, tmp_path: Path) -> None:
    photos, work = write_tree(tmp_path / "photos", each=8), tmp_path / "work"
    said = ["--workdir", work, "--runtime", "onnxruntime-cpu", "--accuracy-only", "--json"]
    small = ["--width", "0.125", "--image-size", "99", "--epochs", "1", "--batch-size", "8"]
    trained = run("train", "--data", photos, "--workdir", work, *small)
    model = work / "alexnet.safetensors"
    assert trained.code == 0 and f"with --model {model}" in trained.err and "epoch 1: loss " in trained.err
    found = run("bench", "--model", model, "--data", photos, *said)
    assert found.code == 0, found.err
    assert "was trained on images of" in found.err
    rows = {row["precision"]: row for row in found.document["rows"]}
    assert rows["fp32"]["status"] == "ok" and rows["int8"]["status"] == "skipped"
    assert "has no calibration table" in rows["int8"]["reason"] and "calibrate --data" in rows["int8"]["reason"]
    others = tmp_path / "others"
    others.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(100 + number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(others / f"{number}.png")
    assert run("calibrate", "--model", model, "--data", others, "--workdir", work).code == 0
    again = run("bench", "--model", model, "--data", photos, *said)
    assert [row["status"] for row in again.document["rows"]] == ["ok", "ok"]


def test_files_can_be_predicted_with_fewer_classes_and_without_the_damaged(
    run: Run, common: list[object], damaged: Path
) -> None:
    folder = sorted(damaged.iterdir())[0]
    assert_refused(run("predict", folder, *common), 1, "000 cut.png", "--skip-bad")
    found = run("predict", folder, *common, "--skip-bad", "--top", 2, "--json")
    assert found.code == 0 and "left out a damaged image" in found.err
    assert {len(each["classes"]) for each in found.document["predictions"]} == {2}

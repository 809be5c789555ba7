"""Graphs for a target from the command line: what goes together, what the passport says, and what is drawn."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.files import sha256_of
from alexnet_deploy.graph import read_graph
from alexnet_deploy.pipeline import guard
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.precision.thresholds import Method
from tests.cli.conftest import Run, assert_refused
from tests.graphs import CONVOLUTIONS, LINEARS, operators

LAYERS = [*CONVOLUTIONS, *LINEARS]
IMAGES = 16


@pytest.fixture
def calibrated(run: Run, common: list[object]) -> list[object]:
    """After `calibrate` on a few images, which later commands reuse."""
    assert run("calibrate", *common, "--images", IMAGES, "--method", "entropy").code == 0
    return common


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard of a few images."""
    source = shipped_images(Split.GUARD).subset(range(24))
    monkeypatch.setattr(guard, "shipped_images", lambda split: source)


# What does not go together.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "--precision", "int8"], ("--precision", "--target")),
        (["export", "--precision", "fp16", "--lrn", "banded"], ("--precision", "--target")),
        (["export", "--lrn", "auto"], ("--lrn auto", "--target")),
        (["export", "--max-drop", "1"], ("--max-drop", "--precision int8")),
        (["export", "--target", "openvino", "--max-drop", "1"], ("--max-drop", "--precision int8")),
        (["export", "--target", "openvino", "--precision", "fp16", "--max-drop", "0"], ("--max-drop", "int8")),
        (["export", "--target", "openvino", "--allow-float"], ("--allow-float", "--precision int8")),
        (["export", "--target", "openvino", "--precision", "int8", "--lrn", "auto"], ("--lrn auto", "FP32")),
        (["export", "--target", "tflite"], ("--target", "onnxruntime-cpu", "tensorrt-rtx")),
        (["export", "--target", "openvino", "--precision", "int4"], ("--precision int4", "--target tensorrt")),
        (["export", "--target", "onnxruntime-cpu", "--precision", "fp8"], ("--precision fp8", "--target tensorrt")),
        (["export", "--target", "openvino", "--precision", "fp16", "--rounding", "nearest"], ("rounding", "int8")),
        (["export", "--target", "openvino", "--placement", "measured"], ("--placement", "--precision int8")),
        (["export", "--target", "tensorrt", "--precision", "int8", "--placement", "measured"], ("--placement",)),
        (["build-engine", "--fp8", "--rounding", "nearest"], ("rounding", "--int8")),
        (["build-engine", "--fp16", "--calibration", __file__], ("--calibration", "--int4")),
        (["export", "--target", "openvino", "--precision", "int8", "--max-drop", "-1"], ("--max-drop",)),
        (["export", "--target", "openvino", "--precision", "int8", "--max-drop", "101"], ("--max-drop",)),
        (["export", "--target", "openvino", "--precision", "int8", "--calibration", "none.json"], ("none.json",)),
        (["build-engine", "--fp16", "--max-drop", "1"], ("--max-drop", "--int8")),
        (["build-engine", "--int8", "--max-drop", "-1"], ("--max-drop",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_go_together_are_usage_errors(
    run: Run, small_checkpoint: Path, tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    ended = run(*arguments, "--model", small_checkpoint, "--workdir", tmp_path / "work")
    assert_refused(ended, 2, *words)
    assert not (tmp_path / "work").exists()


def test_a_table_goes_with_int8(run: Run, calibrated: list[object], work: Path) -> None:
    ended = run("export", *calibrated, "--target", "openvino", "--calibration", work / "calibration.json")
    assert_refused(ended, 2, "--calibration", "--precision int8")


@pytest.mark.parametrize("precision", ["fp8", "int4"])
def test_low_bits_are_simulated_and_say_what_stays_in_half(
    run: Run, calibrated: list[object], few: None, precision: str
) -> None:
    ended = run("export", *calibrated, "--target", "tensorrt-rtx", "--precision", precision, "--json")
    assert ended.code == 0
    facts = json.loads(ended.out)["passport"]["facts"]
    kept = [*CONVOLUTIONS] if precision == "int4" else ["conv1"]
    assert facts["keep_float"] == kept and facts["precision"] == precision
    assert facts["simulated"]["agreement"] > 0.5 and facts["simulated"]["sqnr_db"] > 10


def test_rounding_to_the_nearest_and_measured_rounding_are_different_graphs(
    run: Run, calibrated: list[object], tmp_path: Path
) -> None:
    found = {}
    for way in ("nearest", "gptq"):
        output = tmp_path / f"{way}.onnx"
        common = ["--target", "onnxruntime-cpu", "--precision", "int8", "--output", output, "--json"]
        ended = run("export", *calibrated, *common, "--rounding", way)
        assert ended.code == 0
        facts = json.loads(ended.out)["passport"]["facts"]
        assert facts["rounding"] == {
            "rounding": way, "bias_correction": way == "gptq", "weight_thresholds": False,
        }  # fmt: skip
        found[way] = sha256_of(output)
    assert found["nearest"] != found["gptq"]


# What export writes.


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino"])
def test_an_int8_graph_is_written_with_its_proof(run: Run, calibrated: list[object], work: Path, target: str) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    path = work / f"alexnet.int8.{target}.onnx"
    ended = run("export", *calibrated, "--target", target, "--precision", "int8")
    assert (ended.code, ended.out) == (0, f"{path}\n")
    # Entropy saturates what the first layer reads.
    (warning,) = ended.err.splitlines()
    assert warning.startswith("warning: int8-clipping: the input of conv1 (")
    document = run("export", *calibrated, "--target", target, "--precision", "int8", "--json").document
    facts = document["passport"]["facts"]
    assert document["reused"] and document["passport"]["sha256"] == sha256_of(path)
    assert facts["proof"] == dict.fromkeys(LAYERS, "int8")
    assert (facts["calibration_method"], facts["keep_float"]) == ("entropy", [])
    assert (facts["precision"], facts["target"]) == ("int8", target)
    assert "guard" not in facts
    assert "QuantizeLinear" in operators(read_graph(path))


def test_the_named_table_and_output_are_taken(run: Run, common: list[object], tmp_path: Path) -> None:
    table, output = tmp_path / "mse.json", tmp_path / "sub" / "mine.onnx"
    assert run("calibrate", *common, "--images", 4, "--method", "mse", "--output", table).code == 0
    ended = run(
        "export", *common, "--target", "onnxruntime-cpu", "--precision", "int8", "--calibration", table,
        "--output", output, "--json",
    )  # fmt: skip
    passport = ended.document["passport"]
    assert (ended.code, ended.document["path"]) == (0, str(output)) and output.is_file()
    assert passport["facts"]["calibration_method"] == "mse"
    assert sha256_of(table) in json.dumps(passport["parents"])


def test_a_budget_is_in_points_and_in_the_passport(
    run: Run, calibrated: list[object], tmp_path: Path, few: None
) -> None:
    output = tmp_path / "guarded.onnx"
    ended = run(
        "export", *calibrated, "--target", "onnxruntime-cpu", "--precision", "int8", "--max-drop", 50,
        "--output", output, "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    facts = ended.document["passport"]["facts"]
    assert facts["guard"]["max_drop"] == 0.5 and facts["guard"]["images"] == 24
    assert facts["guard"]["drop"] <= 0.5 and facts["keep_float"] == facts["guard"]["keep_float"] == []


@pytest.mark.parametrize(
    ("target", "precision"),
    [("tensorrt-rtx", "fp16"), ("tensorrt", "int8"), ("onnxruntime-cpu", "fp32"), ("openvino", "fp32")],
)
def test_output_is_honoured_for_every_graph(
    run: Run, calibrated: list[object], work: Path, tmp_path: Path, target: str, precision: str
) -> None:
    output = tmp_path / "mine.onnx"
    before = {path.name for path in work.iterdir()}
    ended = run("export", *calibrated, "--target", target, "--precision", precision, "--output", output)
    assert (ended.code, ended.out) == (0, f"{output}\n"), ended.err
    names = operators(read_graph(output))
    assert ("LRN" in names) == (target != "onnxruntime-cpu")
    assert ("QuantizeLinear" in names) == (precision == "int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.onnx", "mine.onnx.json"]
    assert {path.name for path in work.iterdir()} == before


def test_fp32_for_a_target_that_runs_it_as_it_is_gives_the_exchanged_graph(
    run: Run, common: list[object], work: Path
) -> None:
    assert run("export", *common).out == f"{work / 'alexnet.onnx'}\n"
    assert run("export", *common, "--target", "openvino").out == f"{work / 'alexnet.onnx'}\n"


def all_float(path: Path, target: object, layers: list[str]) -> dict[str, str]:
    return dict.fromkeys(layers, "fp32")


PROOF = "alexnet_deploy.pipeline.target_graph.layer_precisions"


def test_a_graph_without_its_precision_ends_with_three_and_is_not_written(
    run: Run, calibrated: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PROOF, all_float)
    output = tmp_path / "int8.onnx"
    export = ["export", *calibrated, "--target", "onnxruntime-cpu", "--precision", "int8", "--output", output]
    assert_refused(run(*export), 3, "8 of 8 layers", "conv1 fp32", "--allow-float")
    assert list(tmp_path.iterdir()) == []
    kept = run(*export, "--allow-float", "--json")
    assert kept.code == 0 and output.is_file()
    assert kept.document["passport"]["facts"]["proof"] == dict.fromkeys(LAYERS, "fp32")


def test_a_bench_row_that_fails_its_proof_says_failed(
    run: Run, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PROOF, all_float)
    common: list[object] = ["--model", small_checkpoint, "--workdir", tmp_path / "work", "--quiet"]
    assert run("calibrate", *common, "--images", 4).code == 0
    ended = run(
        "bench", *common, "--runtime", "onnxruntime-cpu", "--runs", 1, "--batch", 1, "--images", 4, "--threads", 1,
        "--json",
    )  # fmt: skip
    rows = {row["precision"]: row for row in ended.document["rows"]}
    assert ended.code == 0
    assert (rows["fp32"]["status"], rows["fp32"]["reason"]) == ("ok", None)
    assert rows["int8"]["status"] == "failed" and "8 of 8 layers do not run in int8" in rows["int8"]["reason"]
    assert rows["int8"]["latency_ms"] is None
    assert "onnxruntime-cpu/int8/1 failed" in ended.err


def test_build_engine_takes_a_budget(run: Run, calibrated: list[object], few: None) -> None:
    pytest.importorskip("tensorrt_rtx")
    ended = run(
        "build-engine", *calibrated, "--int8", "--backend", "tensorrt-rtx", "--sm", "sm89", "--max-drop", 100, "--json"
    )
    assert ended.code == 0, ended.err
    layers: list[dict[str, Any]] = ended.document["engines"][0]["passport"]["facts"]["plan"]["layers"]
    assert {layer["name"]: layer["precision"] for layer in layers} == dict.fromkeys(LAYERS, "int8")


# The table for others, and for the eye.


def test_calibrate_writes_tensorrts_cache_too(run: Run, calibrated: list[object], work: Path, tmp_path: Path) -> None:
    cache = tmp_path / "sub" / "calibration.cache"
    arguments = ["calibrate", *calibrated, "--images", IMAGES, "--method", "entropy", "--tensorrt-cache", cache]
    ended = run(*arguments)
    assert (ended.code, ended.out, ended.err) == (0, f"{work / 'calibration.json'}\n", "")
    table = CalibrationTable.read(work / "calibration.json")
    assert table.method is Method.ENTROPY
    header, *lines = cache.read_text().splitlines()
    assert header == "TRT-8601-EntropyCalibration2"
    scale = struct.pack(">f", table.range_of("input").symmetric_scale).hex()
    assert f"input: {scale}" in lines and len(lines) == len(table.tensors)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_inspect_draws_a_table(run: Run, calibrated: list[object], work: Path, tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"table.{suffix}"
    ended = run("inspect", work / "calibration.json", "--draw", picture, "--json")
    assert ended.code == 0 and ended.document["kind"] == "calibration"
    assert f"drew {picture}" in ended.err
    if suffix == "png":
        with Image.open(picture) as image:
            assert image.format == "PNG" and min(image.size) > 200
    else:
        text = picture.read_text()
        assert all(name in text for name in ended.document["tensors"])


def test_a_picture_of_an_unknown_format_is_refused(
    run: Run, calibrated: list[object], work: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "table.jpg"
    assert_refused(run("inspect", work / "calibration.json", "--draw", picture), 2, "table.jpg", "svg, png, pdf")
    assert not picture.exists()


@pytest.mark.parametrize("which", ["graph", "checkpoint", "both", "shipped"])
def test_only_variants_and_tables_are_drawn(
    run: Run, calibrated: list[object], work: Path, small_checkpoint: Path, tmp_path: Path, which: str
) -> None:
    arguments: dict[str, list[object]] = {
        "graph": [work / "alexnet.onnx"],
        "checkpoint": [small_checkpoint],
        "both": [work / "calibration.json", "--variant", "paper"],
        "shipped": [],
    }
    picture = tmp_path / "net.svg"
    assert_refused(run("inspect", *arguments[which], "--draw", picture), 2, "--draw", "calibration table")
    assert not picture.exists()

"""Commands do what they say, print one document, and end with an exit code and a message that a person can act on."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from alexnet_deploy import __version__
from alexnet_deploy.cli.main import COMMANDS
from alexnet_deploy.data.catalog import FASHION_MNIST_CLASSES
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.engines.plan import read_plan
from alexnet_deploy.files import sha256_of
from alexnet_deploy.graph import read_graph, write_graph
from alexnet_deploy.machine import count_gpus
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.specs import Precision, Target
from alexnet_deploy.weights import save_checkpoint
from tests.cli.conftest import Run, assert_refused
from tests.conftest import small_info, small_network
from tests.graphs import CONVOLUTIONS, LINEARS, operators, small_graph

ROW_KEYS = {
    "key", "runtime", "precision", "batch", "threads", "hint", "lrn", "status", "reason", "scope", "latency_ms",
    "samples_ms", "anchor_ms", "warm_up", "evaluated", "in_flight", "cold_start_ms", "peak_memory_bytes",
    "throughput_ips", "images", "top1", "top5", "agreement", "cosine", "sqnr_db", "ece", "flips", "size_bytes",
    "roofline",
}  # fmt: skip


@pytest.fixture
def calibrated(run: Run, common: list[object]) -> list[object]:
    """After `calibrate` on a few images, which later commands reuse."""
    assert run("calibrate", *common, "--images", 32).code == 0
    return common


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three shipped images, one folder down."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    source = shipped_images(Split.GUARD)
    for index, name in enumerate(("a.png", "b.png", "more/c.png")):
        Image.fromarray(source.image(index)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Someone else's graph, which does not say what it was trained on."""
    model = small_graph("caffenet")
    model.metadata_props.clear()
    path = tmp_path_factory.mktemp("foreign") / "net.onnx"
    write_graph(model, path)
    return path


# What works.


def test_export_writes_a_graph_and_prints_its_path(run: Run, common: list[object], work: Path) -> None:
    ended = run("export", *common)
    assert (ended.code, ended.out, ended.err) == (0, f"{work / 'alexnet.onnx'}\n", "")
    model = read_graph(work / "alexnet.onnx")
    assert operators(model).count("LRN") == 2
    assert (work / "alexnet.onnx.json").is_file()


def test_export_says_what_it_did(run: Run, small_checkpoint: Path, work: Path, common: list[object]) -> None:
    run("export", *common)
    again = run("export", "--model", small_checkpoint, "--workdir", work)
    assert again.code == 0 and "reusing" in again.err
    fresh = run("export", "--model", small_checkpoint, "--workdir", work, "--output", work / "sub" / "other.onnx")
    assert fresh.code == 0 and fresh.out == f"{work / 'sub' / 'other.onnx'}\n"
    for words in ("LRN recovered", "parity", "wrote"):
        assert words in fresh.err


def test_export_prints_its_passport_as_one_document(run: Run, common: list[object], work: Path) -> None:
    document = run("export", *common, "--json").document
    assert (document["schema"], document["path"]) == (1, str(work / "alexnet.onnx"))
    assert document["passport"]["sha256"] == sha256_of(work / "alexnet.onnx")
    assert document["passport"]["facts"]["parity"]["max_relative_error"] < 1e-5


def test_export_writes_banded_norms_on_request(run: Run, common: list[object]) -> None:
    ended = run("export", *common, "--lrn", "banded")
    assert ended.code == 0
    assert "LRN" not in operators(read_graph(Path(ended.out.strip())))


def test_export_takes_a_foreign_graph(run: Run, foreign: Path, tmp_path: Path) -> None:
    ended = run("export", "--model", foreign, "--workdir", tmp_path / "work", "--opset", 20, "--preprocessing", "caffe")
    assert ended.code == 0 and "warning" not in ended.err
    assert onnx.load(ended.out.strip()).opset_import[0].version == 20


def test_calibrate_writes_a_table(run: Run, common: list[object], work: Path) -> None:
    ended = run("calibrate", *common, "--images", 32)
    assert (ended.code, ended.out) == (0, f"{work / 'calibration.json'}\n")
    assert len(CalibrationTable.read(work / "calibration.json").images) == 32
    document = run("calibrate", *common, "--images", 32, "--json").document
    assert document["reused"] and document["passport"]["facts"]["images"] == 32


def test_build_engine_proves_int8(run: Run, calibrated: list[object], work: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    ended = run("build-engine", *calibrated, "--int8", "--backend", "tensorrt-rtx", "--sm", "sm89")
    path = work / "alexnet.int8.tensorrt-rtx.sm89.engine"
    assert (ended.code, ended.out) == (0, f"{path}\n")
    plan = read_plan(path.read_bytes())
    assert plan.sms == (89,)
    assert {layer.name: layer.precision for layer in plan.layers} == dict.fromkeys(CONVOLUTIONS + LINEARS, "int8")


def test_build_engine_says_that_the_proof_holds(run: Run, work: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    ended = run(
        "build-engine", "--model", small_checkpoint, "--workdir", work, "--backend", "tensorrt-rtx", "--sm", "sm89",
        "--output", tmp_path / "mine.engine",
    )  # fmt: skip
    assert ended.code == 0 and ended.out == f"{tmp_path / 'mine.engine'}\n"
    assert "8 of 8 layers in fp16" in ended.err


def test_build_engine_builds_several_precisions_and_prints_one_document(run: Run, calibrated: list[object]) -> None:
    pytest.importorskip("tensorrt_rtx")
    ended = run("build-engine", *calibrated, "--fp16", "--int8", "--backend", "tensorrt-rtx", "--sm", "sm89", "--json")
    assert ended.code == 0
    text = json.dumps(ended.document)
    assert "alexnet.fp16." in text and "alexnet.int8." in text


def test_an_engine_without_its_precision_ends_with_three(
    run: Run, calibrated: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    honest = Deployment.graph

    def float_graph(self: Deployment, precision: Precision, target: Target, **options: Any) -> Any:
        return honest(self, Precision.FP16, target)

    monkeypatch.setattr(Deployment, "graph", float_graph)
    output = tmp_path / "x.engine"
    build = ["build-engine", *calibrated, "--int8", "--backend", "tensorrt-rtx", "--sm", "sm89", "--output", output]
    assert_refused(run(*build), 3, "8 of 8 layers", "fp16", "int8")
    assert not output.exists()
    assert run(*build, "--allow-float").code == 0 and output.exists()


@pytest.mark.parametrize("kind", ["variant", "checkpoint", "onnx", "calibration", "engine"])
def test_inspect_describes_each_kind(
    kind: str, run: Run, calibrated: list[object], work: Path, small_checkpoint: Path
) -> None:
    by_kind: dict[str, list[object]] = {
        "variant": ["--variant", "paper"],
        "checkpoint": [small_checkpoint],
        "onnx": [work / "alexnet.onnx"],
        "calibration": [work / "calibration.json"],
        "engine": [work / "alexnet.fp16.tensorrt-rtx.sm86.engine"],
    }
    arguments = by_kind[kind]
    if kind == "engine":
        pytest.importorskip("tensorrt_rtx")
        assert run("build-engine", *calibrated, "--backend", "tensorrt-rtx", "--sm", "sm86").code == 0
    text = run("inspect", *arguments)
    assert text.code == 0 and text.err == ""
    document = run("inspect", *arguments, "--json").document
    assert document["kind"] == kind
    names = list(document["tensors"]) if kind == "calibration" else [layer["name"] for layer in document["layers"]]
    for name in names:
        if not name.startswith(("relu", "drop")):
            assert name in text.out
    if kind != "variant":
        assert document["passport"] is None or document["passport"]["sha256"] == document["sha256"]


def test_inspect_draws_a_variant(run: Run, tmp_path: Path) -> None:
    ended = run("inspect", "--variant", "owt", "--draw", tmp_path / "net.svg", "--json")
    assert ended.code == 0 and ended.document["network"]["variant"] == "owt"
    assert (tmp_path / "net.svg").read_text().startswith("<svg")


def test_inspect_prints_a_variant_as_a_textbook_does(run: Run) -> None:
    ended = run("inspect", "--variant", "paper")
    assert "60,965,224" in ended.out and "floor((224 + 2*2 - 11) / 4) + 1 = 55" in ended.out


def test_the_shipped_model_is_what_its_card_says(run: Run) -> None:
    document = run("inspect", "--json").document
    assert document["size_bytes"] <= 16_000_000
    assert document["model"]["network"] == {
        "variant": "paper", "classes": 10, "width": 1.0, "image_size": 224, "softmax": False,
    }  # fmt: skip
    assert document["density"]["fc6"] == pytest.approx(0.04, abs=1e-3)
    assert document["density"]["conv3"] > 0.99


def expected_labels(paths: list[Path]) -> list[str]:
    images = [np.asarray(Image.open(path)) for path in paths]
    with torch.inference_mode():
        logits = small_network()(torch.from_numpy(batch_from_images(images, small_info().preprocessing)))
    return [FASHION_MNIST_CLASSES[index] for index in logits.argmax(1).tolist()]


def test_predict_names_what_torch_names(run: Run, common: list[object], pictures: Path) -> None:
    paths = [pictures / "a.png", pictures / "b.png", pictures / "more" / "c.png"]
    ended = run("predict", pictures, *common, "--json", "--threads", 1)
    assert ended.code == 0
    found = ended.document["predictions"]
    assert [entry["path"] for entry in found] == [str(path) for path in paths]
    assert [entry["classes"][0][0] for entry in found] == expected_labels(paths)
    for entry in found:
        shares = [share for _, share in entry["classes"]]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 1e-9


def test_predict_takes_files_and_folders_in_the_order_they_are_named(
    run: Run, common: list[object], pictures: Path
) -> None:
    found = run("predict", pictures / "more", pictures / "a.png", *common, "--json").document["predictions"]
    assert [entry["path"] for entry in found] == [str(pictures / "more" / "c.png"), str(pictures / "a.png")]


def test_predict_prints_five_lines_below_each_image(run: Run, common: list[object], pictures: Path) -> None:
    ended = run("predict", pictures / "a.png", *common)
    lines = ended.out.splitlines()
    assert ended.code == 0 and lines[0] == str(pictures / "a.png") and len(lines) == 6
    assert all("%" in line for line in lines[1:])


def test_predict_takes_labels_and_int8(run: Run, calibrated: list[object], pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(f"class {index}" for index in range(10)))
    ended = run("predict", pictures / "a.png", *calibrated, "--labels", tmp_path / "labels.txt", "--precision", "int8")
    assert ended.code == 0 and ended.out.splitlines()[1].split("%")[1].strip().startswith("class ")


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_predict_takes_another_runtime(run: Run, common: list[object], pictures: Path, runtime: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    default, other = (
        run("predict", pictures, *common, "--json", *more).document["predictions"]
        for more in ([], ["--runtime", runtime])
    )
    for one, another in zip(default, other, strict=True):
        assert another["path"] == one["path"] and another["classes"][0][0] == one["classes"][0][0]
        assert dict(another["classes"]) == pytest.approx(dict(one["classes"]), rel=1e-3)
        assert dict(another["classes"]) != dict(one["classes"])


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU")
@pytest.mark.parametrize("command", ["predict", "serve"])
def test_a_gpus_runtime_without_a_gpu_is_refused(
    run: Run, small_checkpoint: Path, pictures: Path, tmp_path: Path, command: str
) -> None:
    images = [pictures / "a.png"] if command == "predict" else []
    words = ["--model", small_checkpoint, "--workdir", tmp_path / "work", "--runtime", "onnxruntime-cuda"]
    assert_refused(run(command, *images, *words), 1, "onnxruntime-cuda cannot run", "no CUDA device", "openvino")
    assert not (tmp_path / "work").exists()


def test_doctor_says_what_is_here(run: Run) -> None:
    text, document = run("doctor"), run("doctor", "--json").document
    assert text.code == 0 and text.err == ""
    assert set(document) == {"schema", "environment", "findings"}
    for finding in document["findings"]:
        assert finding["subject"] in text.out
        assert set(finding) == {"subject", "state", "detail", "remedy"}


def test_bench_measures_and_prints_one_document(run: Run, calibrated: list[object], work: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.json"
    ended = run(
        "bench", *calibrated, "--runs", 2, "--batch", "1,4", "--runtime", "onnxruntime-cpu", "--images", 64,
        "--threads", 1, "--output", output, "--json",
    )  # fmt: skip
    assert ended.code == 0
    document = ended.document
    assert document == json.loads(output.read_text())
    assert output.with_suffix(".md").read_text().startswith("#")
    assert output.with_suffix(".html").read_text().startswith("<!doctype html>")
    assert [row["key"] for row in document["rows"]] == [
        f"onnxruntime-cpu/{precision}/{batch}" for precision in ("fp32", "int8") for batch in (1, 4)
    ]
    for row in document["rows"]:
        assert set(row) == ROW_KEYS
        assert (row["status"], row["reason"], row["lrn"], row["threads"]) == ("ok", None, "banded", 1)
        # More where a turn of them would be over at once.
        assert len(row["samples_ms"]) == row["latency_ms"]["runs"] >= 2
        assert row["latency_ms"]["median"] > 0 and row["throughput_ips"] > 0 and row["cold_start_ms"] > 0
        assert row["peak_memory_bytes"] > 40_000_000
        assert 0 <= row["top1"] <= row["top5"] <= 1
    fp32, int8 = document["rows"][0], document["rows"][2]
    assert (fp32["agreement"], fp32["sqnr_db"]) == (1.0, None)
    assert int8["agreement"] >= 0.9 and int8["sqnr_db"] > 20
    assert int8["size_bytes"] == (work / "alexnet.int8.onnxruntime-cpu.onnx").stat().st_size
    assert document["data"] == {"name": document["data"]["name"], "images": 64, "skipped": 0, "labelled": True}
    assert document["model"]["name"] == "small" and document["options"]["runs"] == 2


def test_bench_of_what_cannot_run_gives_rows_with_reasons(
    run: Run, common: list[object], work: Path, tmp_path: Path
) -> None:
    run("export", *common)
    ended = run(
        "bench", "--model", work / "alexnet.onnx", "--workdir", tmp_path, "--runtime", "torch", "--runs", 1, "--quiet"
    )
    # Nothing was measured: a gate must not pass.
    assert ended.code == 1
    assert "torch fp32: skipped: " in ended.out and "ONNX" in ended.out
    rows = json.loads((tmp_path / "bench.nothing-ran.json").read_text())["rows"]
    assert {row["status"] for row in rows} == {"skipped"} and all(row["reason"] for row in rows)
    assert (tmp_path / "bench.nothing-ran.html").is_file()


def test_help_lists_every_command(run: Run) -> None:
    ended = run("--help")
    assert ended.code == 0
    for name, text in COMMANDS.items():
        assert name in ended.out and text.split()[0] in ended.out


def test_version(run: Run) -> None:
    ended = run("--version")
    assert ended.code == 0 and __version__ in ended.out


# What is refused.


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("exprot", "export"), ("build_engine", "build-engine"), ("benchmark", "bench"), ("infer", None)],
)
def test_an_unknown_command_is_answered_with_the_nearest(run: Run, wrong: str, right: str | None) -> None:
    ended = run(wrong)
    assert_refused(ended, 2, wrong)
    assert ("Did you mean" in ended.err) == (right is not None)
    assert right is None or f"Did you mean {right}?" in ended.err


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_a_usage_error(run: Run, command: str) -> None:
    assert_refused(run(command, "--modle", "x"), 2, "--modle")


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "--opset", "17"],
        ["export", "--lrn", "folded"],
        ["calibrate", "--images", "0"],
        ["calibrate", "--images", "many"],
        ["build-engine", "--backend", "cuda"],
        ["build-engine", "--sm", "sm99"],
        ["build-engine", "--min-batch", "9", "--max-batch", "8"],
        ["build-engine", "--fp16", "--int8", "--output", "x.engine"],
        ["build-engine", "--calibration", "nothing.json", "--int8"],
        ["bench", "--runtime", "tflite"],
        ["bench", "--batch", "one"],
        ["bench", "--batch", "0"],
        ["bench", "--runs", "0"],
        ["bench", "--threads", "0"],
        ["inspect", "--draw", "net.svg"],
        ["inspect", "--variant", "vgg"],
        ["inspect", "--variant", "paper", "--image-size", "20"],
        ["inspect", "--variant", "paper", "--classes", "0"],
        ["predict"],
    ],
    ids=" ".join,
)
def test_values_that_cannot_be_are_usage_errors(run: Run, common: list[object], arguments: list[str]) -> None:
    options = [] if arguments[0] == "inspect" else common
    assert_refused(run(*arguments, *options), 2)


def test_turing_and_int8_do_not_go_together(run: Run, common: list[object]) -> None:
    assert_refused(run("build-engine", *common, "--int8", "--sm", "sm75,sm86"), 2, "SM75", "int8", "--fp16")


def test_one_output_for_two_engines_is_refused(run: Run, common: list[object]) -> None:
    assert_refused(run("build-engine", *common, "--fp32", "--fp16", "--output", "x.engine"), 2, "--output", "several")


def test_a_table_without_int8_is_refused(run: Run, calibrated: list[object], work: Path) -> None:
    ended = run("build-engine", *calibrated, "--fp16", "--calibration", work / "calibration.json")
    assert_refused(ended, 2, "--calibration", "--int8")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_backend_that_is_not_installed_says_how_to_get_it(run: Run, common: list[object]) -> None:
    ended = run("build-engine", *common, "--backend", "tensorrt")
    assert_refused(ended, 1, "tensorrt", "pip install 'alexnet-deploy[tensorrt]'")


@pytest.mark.parametrize("command", ["export", "calibrate", "build-engine", "bench"])
def test_a_missing_model_is_refused(run: Run, command: str, work: Path) -> None:
    ended = run(command, "--model", "nothing.safetensors", "--workdir", work)
    assert_refused(ended, 2, "nothing.safetensors", "expected:")


def test_a_missing_model_is_refused_by_predict_and_inspect(run: Run, work: Path, pictures: Path) -> None:
    ended = run("predict", pictures, "--model", "nothing.safetensors", "--workdir", work)
    assert_refused(ended, 2, "nothing.safetensors")
    assert_refused(run("inspect", "nothing.safetensors"), 2, "nothing.safetensors")


def test_a_folder_is_no_model(run: Run, work: Path, tmp_path: Path) -> None:
    assert_refused(run("export", "--model", tmp_path, "--workdir", work), 2, "a folder")


@pytest.mark.parametrize("name", ["a.onnx", "a.safetensors", "a.safetensors.zst", "a.pth", "a.pt", "a.tflite"])
def test_a_text_by_another_name_is_no_model(run: Run, work: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("this is not what its name says\n")
    assert_refused(run("export", "--model", path, "--workdir", tmp_path / "work"), 2, name)


def test_weights_of_another_variant_are_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "owt.pth"
    torch.save(small_network("owt").state_dict(), path)
    ended = run("export", "--model", path, "--variant", "paper", "--workdir", tmp_path / "work")
    assert_refused(ended, 1, "owt.pth", "got:", "expected:")


def test_weights_that_are_not_what_they_say_are_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(small_network("paper"), dataclasses.replace(small_info("owt"), labels=()), path)
    ended = run("export", "--model", path, "--workdir", tmp_path / "work")
    assert_refused(ended, 1, "other.safetensors", "got:", "expected:", "--variant")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "nothing"], "expected: fashion-mnist"),
        (["train", "--data", "empty"], "no images"),
        (["calibrate", "--data", "empty"], "no images"),
        (["inspect", "empty"], "a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_data_and_files_that_are_not_there_leave_nothing_behind(
    run: Run, tmp_path: Path, small_checkpoint: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    options: list[object] = ["--model", small_checkpoint, "--quiet"] if arguments[0] == "calibrate" else []
    ended = run(*arguments, *options)
    assert ended.code in (1, 2)
    assert_refused(ended, ended.code, words)
    if arguments[0] != "calibrate":
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_work_directory_that_is_a_file_is_refused(run: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file")
    ended = run("export", "--model", small_checkpoint, "--workdir", tmp_path / "work")
    assert_refused(ended, 2, "work", "is a file")
    inside = run("export", "--model", small_checkpoint, "--workdir", tmp_path / "work" / "inside")
    assert_refused(inside, 1, "cannot be written", "--workdir")
    assert (tmp_path / "work").read_text() == "a file"


def test_a_graph_is_not_written_over_itself(run: Run, foreign: Path, tmp_path: Path) -> None:
    before = foreign.read_bytes()
    ended = run("export", "--model", foreign, "--workdir", tmp_path / "work", "--output", foreign)
    assert_refused(ended, 2, "own source", "--output")
    assert foreign.read_bytes() == before


def test_a_file_of_someone_else_is_not_written_over(run: Run, common: list[object], tmp_path: Path) -> None:
    output = tmp_path / "alexnet.onnx"
    output.write_bytes(b"someone's work")
    assert_refused(run("export", *common, "--output", output), 2, "alexnet.onnx", "did not make it")
    assert output.read_bytes() == b"someone's work"


def test_a_folder_without_images_is_refused_before_anything_is_made(
    run: Run, small_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    ended = run("predict", tmp_path / "empty", "--model", small_checkpoint, "--workdir", tmp_path / "work")
    assert_refused(ended, 2, "no images")
    assert not (tmp_path / "work").exists()


def test_a_missing_image_is_refused(run: Run, common: list[object]) -> None:
    assert_refused(run("predict", "nothing.png", *common), 2, "nothing.png")


def test_a_damaged_image_is_named(run: Run, common: list[object], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert_refused(run("predict", tmp_path / "broken.png", *common), 1, "broken.png")


def test_labels_that_do_not_fit_are_refused(run: Run, common: list[object], pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    ended = run("predict", pictures / "a.png", *common, "--labels", tmp_path / "labels.txt")
    assert_refused(ended, 2, "labels", "got: 2", "expected: 10")


@pytest.mark.parametrize("content", ["not json", "{}"])
def test_a_file_that_is_no_table_is_refused(run: Run, calibrated: list[object], tmp_path: Path, content: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    (tmp_path / "table.json").write_text(content)
    ended = run(
        "build-engine", *calibrated, "--int8", "--backend", "tensorrt-rtx", "--calibration", tmp_path / "table.json"
    )
    assert_refused(ended, 2, "table.json", "alexnet-deploy calibrate")


def test_data_that_is_not_there_is_refused(run: Run, common: list[object]) -> None:
    assert_refused(run("calibrate", *common, "--data", "no/such/folder"), 2, "no/such/folder")


def test_a_model_of_unknown_classes_asks_for_its_images(run: Run, foreign: Path, tmp_path: Path) -> None:
    ended = run("calibrate", "--model", foreign, "--workdir", tmp_path, "--quiet")
    assert_refused(ended, 2, "calibration images", "--data")


@pytest.mark.parametrize("command", ["build-engine", "bench", "predict"])
def test_commands_without_calibration_data_point_to_the_one_that_takes_it(
    run: Run, foreign: Path, tmp_path: Path, pictures: Path, command: str
) -> None:
    options: dict[str, list[object]] = {
        "build-engine": ["--int8", "--backend", "tensorrt-rtx"],
        "bench": ["--runtime", "onnxruntime-cpu", "--runs", 1, "--images", 2],
        "predict": [pictures / "a.png", "--precision", "int8"],
    }
    if command == "build-engine":
        pytest.importorskip("tensorrt_rtx")
    ended = run(command, *options[command], "--model", foreign, "--workdir", tmp_path / "work", "--quiet")
    assert "alexnet-deploy calibrate" in ended.out + ended.err


def test_an_interrupt_ends_with_its_own_code(run: Run, common: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Deployment, output: Path | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Deployment, "fp32_graph", interrupted)
    ended = run("export", *common)
    assert (ended.code, ended.out) == (130, "") and "interrupted" in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--version"], 0, ""),
        (["exprot"], 2, "Did you mean export?"),
        (["inspect", "nothing.onnx"], 2, "no file 'nothing.onnx'"),
        (["bench", "--runtime", "tflite"], 2, "tflite"),
    ],
    ids=["version", "unknown-command", "missing-file", "unknown-runtime"],
)
def test_the_process_itself_ends_with_the_code(
    arguments: list[str], code: int, words: str, small_checkpoint: Path
) -> None:
    options = ["--model", str(small_checkpoint)] if arguments[0] == "bench" else []
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_deploy", *arguments, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert words in done.stderr and "Traceback" not in done.stderr
    assert (done.stdout == "") == (code != 0)

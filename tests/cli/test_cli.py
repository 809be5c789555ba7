"""Every command does its work on small real input, and says what is wrong with wrong input in one message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.cli.main import main
from alexnet_deploy.engines.plan import read_plan
from tests.conftest import small_info, small_network

ROW_KEYS = {
    "key", "runtime", "precision", "batch", "threads", "hint", "lrn", "status", "reason", "scope", "latency_ms",
    "samples_ms", "cold_start_ms", "peak_memory_bytes", "throughput_ips", "top1", "top5", "agreement", "sqnr_db", "ece",
    "flips", "size_bytes", "roofline",
}  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One work directory for the module: later commands reuse what earlier ones made."""
    return tmp_path_factory.mktemp("work")


def run(*arguments: object) -> int:
    """Calls the command line as a shell would, and returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    return code if isinstance(code, int) else 0


def png(path: Path) -> Path:
    """Writes a grey picture."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)).save(path)
    return path


def test_export_prints_the_path_and_reuses_it(
    small_checkpoint: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "--model", small_checkpoint, "--workdir", workdir) == 0
    assert capsys.readouterr().out.strip() == str(workdir / "alexnet.onnx")
    assert run("export", "--model", small_checkpoint, "--workdir", workdir, "--json") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["reused"] and document["passport"]["facts"]["parity"]["max_relative_error"] < 1e-4
    assert "reusing" in printed.err


def test_export_writes_banded_lrn_under_a_name_of_the_users(
    small_checkpoint: Path, workdir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "mine.onnx"
    arguments = ("export", "--model", small_checkpoint, "--workdir", workdir, "--lrn", "banded", "--output", output)
    assert run(*arguments) == 0
    assert output.is_file() and (tmp_path / "mine.onnx.json").is_file()


def test_calibrate_writes_a_table_that_inspect_shows(
    small_checkpoint: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("calibrate", "--model", small_checkpoint, "--workdir", workdir, "--images", 32) == 0
    assert run("inspect", workdir / "calibration.json") == 0
    printed = capsys.readouterr().out
    assert "max over 32 images" in printed and "relu5" in printed


def test_build_engine_int8_proves_every_layer(
    small_checkpoint: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    assert run("build-engine", "--int8", "--model", small_checkpoint, "--workdir", workdir, "--sm", "sm89") == 0
    engine = Path(capsys.readouterr().out.strip())
    assert engine.name == "alexnet.int8.tensorrt-rtx.sm89.engine"
    plan = read_plan(engine.read_bytes())
    assert plan.sms == (89,)
    assert [layer.name for layer in plan.layers] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    assert {layer.precision for layer in plan.layers} == {"int8"}
    assert run("inspect", engine, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "engine" and document["sms"] == ["sm89"] and document["passport"]["kind"] == "engine"


def test_bench_prints_one_document_with_every_key(
    small_checkpoint: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("bench", "--model", small_checkpoint, "--workdir", workdir, "--runtime", "onnxruntime-cpu")
    assert run(*arguments, "--runs", 2, "--images", 32, "--batch", "1,3", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in document["rows"]] == [
        "onnxruntime-cpu/fp32/1", "onnxruntime-cpu/fp32/3", "onnxruntime-cpu/int8/1", "onnxruntime-cpu/int8/3",
    ]  # fmt: skip
    for row in document["rows"]:
        assert row.keys() == ROW_KEYS and row["status"] == "ok" and len(row["samples_ms"]) == 2
    assert document["rows"][0]["agreement"] == 1.0
    assert "<h1>small</h1>" in (workdir / "report.html").read_text()


def test_predict_reads_files_and_folders(
    small_checkpoint: Path, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    pictures = [png(tmp_path / "one.png"), png(tmp_path / "folder" / "two.png")]
    arguments = ("predict", pictures[0], tmp_path / "folder", "--model", small_checkpoint, "--workdir", workdir)
    assert run(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [entry["path"] for entry in found] == [str(path) for path in pictures]
    assert found[0]["classes"] == found[1]["classes"] and len(found[0]["classes"]) == 5


def test_inspect_prints_a_variant_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = tmp_path / "paper.svg"
    assert run("inspect", "--variant", "paper", "--draw", drawing) == 0
    printed = capsys.readouterr().out
    assert "60,965,224" in printed and "floor((224 + 2*2 - 11) / 4) + 1 = 55" in printed
    assert drawing.read_text().startswith("<svg") and "norm2" in drawing.read_text()


def test_the_shipped_model_is_what_its_card_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["size_bytes"] <= 16_000_000
    assert document["model"]["network"] == {
        "variant": "paper", "classes": 10, "width": 1.0, "image_size": 224, "softmax": False,
    }  # fmt: skip
    assert document["density"]["fc6"] == pytest.approx(0.04, abs=1e-3)
    assert document["density"]["conv3"] > 0.99


def test_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json") == 0
    findings = {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["torch"]["state"] == "ok"
    assert all(finding["remedy"] for finding in findings.values() if finding["state"] == "missing")


def _other_network(folder: Path) -> Path:
    """A checkpoint whose tensors are not those that its description says."""
    import dataclasses

    from alexnet_deploy.weights import save_checkpoint

    info = small_info("owt")
    path = folder / "other.safetensors"
    save_checkpoint(small_network("paper"), dataclasses.replace(info, labels=()), path)
    return path


def _text(folder: Path) -> Path:
    path = folder / "text.onnx"
    path.write_text("hello\n")
    return path


def _empty(folder: Path) -> Path:
    path = folder / "empty"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("exprt",), 2, "Did you mean export"),
        (("export", "--nonsense"), 2, "nonsense"),
        (("export", "--model", "nothere.pth"), 2, "expected: shipped"),
        (("export", "--model", _text), 2, "not a valid ONNX file"),
        (("export", "--model", _other_network), 1, "remedy: name another --variant"),
        (("export", "--workdir", _text), 2, "is a file"),
        (("predict",), 2, "IMAGES"),
        (("predict", "nothere.png"), 2, "remedy: check the path"),
        (("predict", _empty), 2, "holds no images"),
        (("train", "--data", "nothere"), 2, "expected: fashion-mnist"),
        (("train", "--data", _empty), 2, "holds no images"),
        (("inspect", "nothere"), 2, "expected: a checkpoint"),
        (("inspect", _empty), 2, "got: a folder"),
        (("build-engine", "--int8", "--sm", "sm75"), 2, "SM75 cannot hold int8"),
        (("build-engine", "--sm", "sm1"), 2, "no such SM"),
        (("build-engine", "--int8", "--fp16", "--output", "x.engine"), 2, "names one file"),
        (("build-engine", "--fp16", "--min-batch", "4"), 2, "1 <= min <= opt <= max"),
        (("bench", "--batch", "many"), 2, "not a list of batch sizes"),
        (("bench", "--runtime", "nothing"), 2, "expected: torch"),
    ],
)
def test_wrong_input_gets_one_message_and_the_right_code(
    arguments: tuple[object, ...], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument(tmp_path) if callable(argument) else argument for argument in arguments]
    before = set(tmp_path.rglob("*"))
    assert run(*given) == code
    printed = capsys.readouterr()
    assert words in printed.err and "Traceback" not in printed.err and printed.out == ""
    left = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert not left


def test_an_unwritable_work_directory_is_refused_before_the_work(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run("export", "--model", small_checkpoint, "--workdir", tmp_path / "file" / "below") == 1
    printed = capsys.readouterr().err
    assert "cannot be written" in printed and "remedy: name another folder with --workdir" in printed

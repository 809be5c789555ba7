"""`package` from the command line: what it writes, says and refuses."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run, assert_refused


def test_package_writes_a_repository_and_finds_it_again(run: Run, work: Path, common: list[object]) -> None:
    first = run("package", *common)
    folder = work / "triton" / "alexnet-fp32-onnxruntime-cpu"
    assert (first.code, first.out.strip()) == (0, str(folder))
    assert {path.name for path in folder.iterdir()} == {
        "1", "config.pbtxt", "labels.txt", "package.json", "preprocessing.json",
    }  # fmt: skip
    document = run("package", *common, "--json").document
    assert document["reused"] and document["backend"] == "onnxruntime"
    assert document["input"]["shape"] == [-1, 3, 99, 99]
    assert document["tuning"]["max_batch"] == 4


def test_package_keeps_what_a_person_edited(run: Run, tmp_path: Path, common: list[object]) -> None:
    arguments = ["package", *common, "--output", tmp_path / "models", "--name", "mine"]
    assert run(*arguments).code == 0
    config = tmp_path / "models" / "mine" / "config.pbtxt"
    config.write_text(config.read_text() + "# edited\n")
    assert_refused(run(*arguments), 2, "config.pbtxt was changed", "--force")
    forced = run(*arguments, "--force")
    assert forced.code == 0 and "models.mine.before-1" in forced.err
    assert "# edited" not in config.read_text()


def test_package_refuses_what_contradicts_itself(run: Run, tmp_path: Path, common: list[object]) -> None:
    assert_refused(run("package", *common, "--precision", "fp8"), 2, "does not hold that precision")
    assert_refused(run("package", *common, "--name", "a/b"), 2, "no name for a model")
    assert_refused(run("package", *common, "--bench", tmp_path / "none.json"), 2, "none.json")
    artifact = tmp_path / "a.onnx"
    artifact.write_bytes(b"x")
    assert_refused(run("package", *common, "--artifact", artifact), 2, "--artifact")
    assert_refused(run("package", "--workdir", tmp_path, "--artifact", artifact), 1, "no passport")


def test_package_takes_what_bench_wrote(run: Run, work: Path, tmp_path: Path, common: list[object]) -> None:
    bench = tmp_path / "bench.json"
    narrow = ["--runtime", "onnxruntime-cpu", "--precision", "fp32", "--batch", "1,4", "--threads", 1]
    short = ["--runs", 2, "--images", 32, "--no-details", "--output", bench]
    assert run("bench", *common, *narrow, *short).code == 0
    ended = run("package", *common, "--bench", bench, "--name", "tuned", "--json")
    assert ended.code == 0
    tuning = ended.document["tuning"]
    assert (tuning["max_batch"], tuning["threads"]) == (4, 1)
    assert tuning["preferred_batch"] in (1, 4)
    assert "measured on" in tuning["reasons"][0]
    config = (work / "triton" / "tuned" / "config.pbtxt").read_text()
    assert 'key: "intra_op_thread_count"' in config
    other = run("package", *common, "--bench", bench, "--runtime", "openvino")
    assert_refused(other, 2, "no row of openvino/fp32")

"""What `make gpu-check` writes: every test with its outcome, the bench's rows; and what it does without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.errors import EngineError
from benchmarks import gpu_check

JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase classname="tests.gpu.test_cuda" name="test_a" time="0.5"><properties>
<property name="fp16 batch 1" value="{'median': 0.2}"/></properties></testcase>
<testcase classname="tests.gpu.test_cuda" name="test_b" time="0.1">
<failure message="AssertionError: 3 &lt; 2&#10;more">
trace</failure></testcase>
<testcase classname="tests.gpu.test_cuda" name="test_c" time="0.0">
<skipped message="tensorrt is not installed"/></testcase>
<testcase classname="tests.gpu.test_cuda" name="test_d" time="0.0"><error message="fixture broke"/></testcase>
</testsuite></testsuites>"""

ROW: dict[str, Any] = {
    "key": "tensorrt/fp16/1", "status": "ok", "reason": None, "top1": 0.9, "agreement": 0.999,
    "latency_ms": {"median": 0.25, "ci95": [0.24, 0.26]},
}  # fmt: skip


def document() -> dict[str, Any]:
    return {
        "made": "2026-01-01T00:00:00+00:00",
        "environment": {"cpu": "a CPU", "python": "3.11.7", "packages": {"tensorrt-rtx": "1.7.1"}},
        "gpu": {
            "sm": 89,
            "cuda_driver": "13.0",
            "before": {"name": "a card", "driver_version": "580.1", "clocks.sm": "300 MHz"},
            "after": {},
        },
        "tests": gpu_check.outcomes(JUNIT),
        "failed": gpu_check.failures(1, gpu_check.outcomes(JUNIT)),
        "bench": {
            "data": {"images": 2000},
            "options": {"runs": 100},
            "rows": [ROW, {"key": "tensorrt/int8/1", "status": "skipped", "reason": "not installed\nmore"}],
        },
    }


def test_outcomes_are_read_from_pytests_report() -> None:
    rows = gpu_check.outcomes(JUNIT)
    assert [(row["name"], row["outcome"]) for row in rows] == [
        ("test_cuda::test_a", "passed"), ("test_cuda::test_b", "failed"), ("test_cuda::test_c", "skipped"),
        ("test_cuda::test_d", "failed"),
    ]  # fmt: skip
    assert rows[0]["recorded"] == {"fp16 batch 1": "{'median': 0.2}"} and rows[0]["seconds"] == 0.5
    assert rows[1]["message"] == "AssertionError: 3 < 2"


def test_the_page_has_everything_that_was_found() -> None:
    page = gpu_check.markdown(document())
    for words in (
        "# GPU check: a card, SM89", "driver 580.1 (CUDA 13.0)", "| tensorrt-rtx | 1.7.1 |",
        "Clock 300 MHz before, ? after",
        "## Tests: 1 passed, 2 failed, 1 skipped", "- FAILED test_cuda::test_b: AssertionError: 3 < 2",
        "- 1 skipped: tensorrt is not installed", "| fp16 batch 1 | {'median': 0.2} |",
        "| tensorrt/fp16/1 | 0.250 | 0.240 to 0.260 | 90.00 % | 99.90 % |",
        "| tensorrt/int8/1 | skipped: not installed | | | |",
    ):  # fmt: skip
        assert words in page, words


def test_without_a_gpu_it_says_so_and_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "count_gpus", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["gpu_check", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert "no CUDA device" in str(ended.value.code) and not (tmp_path / "out").exists()


PASSED = [row for row in gpu_check.outcomes(JUNIT) if row["outcome"] == "passed"]


@pytest.mark.parametrize(
    ("code", "tests", "reasons"),
    [
        (0, PASSED, []),
        (
            1,
            gpu_check.outcomes(JUNIT),
            ["test_cuda::test_b: AssertionError: 3 < 2", "test_cuda::test_d: fixture broke"],
        ),
        (-11, [], ["pytest ended with -11", "no test passed"]),
        (-11, PASSED, ["pytest ended with -11"]),
        (0, [row for row in gpu_check.outcomes(JUNIT) if row["outcome"] == "skipped"], ["no test passed"]),
    ],
)
def test_a_crash_and_a_run_of_nothing_are_failures(code: int, tests: list[dict[str, Any]], reasons: list[str]) -> None:
    found = gpu_check.failures(code, tests)
    assert len(found) == len(reasons) and all(one.startswith(two) for one, two in zip(found, reasons, strict=True))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(gpu_check, "count_gpus", lambda: 1)
    monkeypatch.setattr(gpu_check, "gpu_sm", lambda: 89)
    monkeypatch.setattr(gpu_check, "tested", lambda: (0, PASSED))
    monkeypatch.setattr(gpu_check, "bench_document", lambda *_: document()["bench"])
    monkeypatch.setattr(sys, "argv", ["gpu_check", str(tmp_path)])
    return tmp_path


def test_both_files_are_written(gpu: Path) -> None:
    gpu_check.main()
    written = json.loads((gpu / "gpu-check.json").read_text())
    assert written["gpu"]["sm"] == 89 and written["environment"]["python"] and written["doctor"]
    assert written["failed"] == [] and written["bench"]["rows"]
    assert (gpu / "gpu-check.md").read_text() == gpu_check.markdown(written)


def test_a_crash_leaves_both_files_and_fails(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "tested", lambda: (-11, []))
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert "pytest ended with -11" in str(ended.value.code)
    assert "- FAILED pytest ended with -11" in (gpu / "gpu-check.md").read_text()


def test_a_bench_that_fails_does_not_take_the_tests_along(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise EngineError("the builder failed")

    monkeypatch.setattr(gpu_check, "bench_document", broken)
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert "the builder failed" in str(ended.value.code)
    page = (gpu / "gpu-check.md").read_text()
    assert "## Bench: not run" in page and "## Tests: 1 passed" in page

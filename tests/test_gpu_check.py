"""What `make gpu-check` writes: every test with its outcome, the bench's rows; and what it does without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize(
    ("junit", "code"), [(JUNIT, True), (JUNIT.split("<testcase")[0] + "</testsuite></testsuites>", False)]
)
def test_both_files_are_written_and_a_failure_fails(
    junit: str, code: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "count_gpus", lambda: 1)
    monkeypatch.setattr(gpu_check, "gpu_sm", lambda: 89)
    monkeypatch.setattr(gpu_check, "tested", lambda: gpu_check.outcomes(junit))
    monkeypatch.setattr(gpu_check, "bench_document", lambda *_: document()["bench"])
    monkeypatch.setattr(sys, "argv", ["gpu_check", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert bool(ended.value.code) is code
    written = json.loads((tmp_path / "gpu-check.json").read_text())
    assert written["gpu"]["sm"] == 89 and written["environment"]["python"] and written["doctor"]
    assert (tmp_path / "gpu-check.md").read_text() == gpu_check.markdown(written)

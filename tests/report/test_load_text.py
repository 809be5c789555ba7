"""What LoadGen said, in a table and in Markdown: every figure, every verdict, every reason."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from alexnet_deploy.report.load_text import markdown_from_load, print_load, sentences

PERCENTILES = {"p50": 5.11, "p90": 6.08, "p95": 6.58, "p97": 8.16, "p99": 11.9, "p99.9": 124.67}


def row_of(session: str, value: float, unit: str = "ms", **changes: Any) -> dict[str, Any]:
    return {
        "session": session,
        "status": "ok",
        "reason": None,
        "valid": True,
        "invalid_because": [],
        "metric": {"name": "90th percentile latency", "value": value, "unit": unit},
        "latency_ms": PERCENTILES,
        "queries": 1880,
        "accuracy": {"answers": 341, "top1": 0.9208},
        "loadgen": {"version": "6.0.17 @ d6147c7eb7", "errors": []},
    } | changes


def document(**rules: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = dict.fromkeys(
        ("valid", "invalid_because", "metric", "latency_ms", "queries", "accuracy", "loadgen")
    )
    return {
        "options": {"scenario": "single-stream"},
        "rules": {
            "mlperf_model": "resnet50",
            "min_duration_s": 10.0,
            "mlperf_min_duration_s": 600.0,
            "target_latency_ms": None,
            "mlperf_target_latency_ms": None,
            "relaxed": ["min_duration_s"],
        }
        | rules,
        "rows": [
            row_of("onnxruntime-cpu/int8", 8.25),
            row_of("openvino/int8", 6.0786),
            row_of("torch/fp32", 1.5, valid=False, invalid_because=["min queries not satisfied", "Do <more> | that."]),
            row_of("tensorrt/int8", 0) | nothing | {"status": "skipped", "reason": "no CUDA device\nhere [bold]"},
        ],
    }


def printed(values: dict[str, Any], width: int) -> str:
    stream = io.StringIO()
    print_load(values, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 96, 112, 120])
def test_no_figure_is_cut_of_long_names_and_times(width: int) -> None:
    long = dict.fromkeys(PERCENTILES, 181780.4)
    values = document()
    values["rows"] = [
        row_of("onnxruntime-tensorrt-rtx/fp16", 1041.5, latency_ms=PERCENTILES, queries=270_336),
        row_of("onnxruntime-cpu/int8", 2000.5, latency_ms=long, accuracy={"answers": 1041, "top1": 1.0}),
    ]
    text = printed(values, width)
    assert "…" not in text and "top-1 is of 341 to 1041 answers" in " ".join(text.split())


@pytest.mark.parametrize("width", [80, 96, 112, 120])
def test_the_table_keeps_every_number_at_any_width(width: int) -> None:
    text = " ".join(printed(document(), width).split())
    assert "…" not in text
    for words in (
        "single-stream",
        "at least 10 s",
        "LoadGen 6.0.17",
        "6.08",
        "8.25",
        "11.90",
        "1880",
        "92.08 %",
        "of 341 answers",
    ):
        assert words in text, words
    assert ("6.58" in text) == (width >= 112)


def test_valid_rows_come_first_and_the_best_of_them_at_the_top() -> None:
    text = printed(document(), 120)
    places = [text.index(name) for name in ("openvino/int8", "onnxruntime-cpu/int8", "torch/fp32")]
    assert places == sorted(places)
    more = document()
    for row, value in zip(more["rows"], (100.0, 200.0), strict=False):
        row["metric"] = {"name": "samples per second", "value": value, "unit": "images/s"}
    more["rows"] = more["rows"][:2]
    text = printed(more, 120)
    assert text.index("openvino/int8") < text.index("onnxruntime-cpu/int8") and "200.0" in text


def test_every_reason_is_said() -> None:
    assert sentences(document()) == [
        "torch/fp32: INVALID: min queries not satisfied; Do <more> | that.",
        "tensorrt/int8: skipped: no CUDA device; here [bold]",
        "rules: those of MLPerf for resnet50, but min duration 10 s (MLPerf: 600)",
    ]
    assert "here [bold]" in printed(document(), 120)


def test_rules_that_are_mlperfs_are_called_so() -> None:
    full = document(min_duration_s=600.0, relaxed=[])
    assert sentences(full)[-1] == "rules: those of MLPerf for resnet50"


def test_errors_that_loadgen_logged_on_the_way_to_valid_are_said() -> None:
    values = document()
    values["rows"] = [row_of("openvino/int8", 6.1, loadgen={"version": "6.0.17 @ x", "errors": ["clocks differ"]})]
    assert sentences(values)[0] == "openvino/int8: LoadGen logged errors: clocks differ"


def test_a_servers_bound_is_in_the_title() -> None:
    assert "99 % within 15 ms" in printed(document(target_latency_ms=15.0, mlperf_target_latency_ms=15.0), 120)


def test_markdown_has_every_percentile_and_escapes_what_it_shows() -> None:
    text = markdown_from_load(document())
    header, rule, first, *_ = (line for line in text.splitlines() if line.startswith("|"))
    assert header.count("|") == rule.count("|") == first.count("|")
    assert first.startswith("| openvino/int8 | 6.08 |") and first.endswith("| VALID |") and "| 125 |" in first
    assert "Do \\<more\\> \\| that." in text and text.endswith("\n")


def test_where_nothing_ran_the_reasons_are_left() -> None:
    values = document()
    values["rows"] = values["rows"][3:]
    assert "tensorrt/int8: skipped" in printed(values, 80)
    assert "| session" not in markdown_from_load(values) and "no CUDA device" in markdown_from_load(values)

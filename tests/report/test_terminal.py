"""The terminal's tables keep every number at any width, and the words say the figures."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from alexnet_deploy.report.terminal import label_of, percent, print_bench, reasons, sentences
from tests.report.documents import document, row_of, skipped, spoiled, whole_document


def printed(values: dict[str, Any], width: int) -> str:
    stream = io.StringIO()
    print_bench(values, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 96, 98, 104, 120])
def test_the_table_keeps_every_number_at_any_width(width: int) -> None:
    values = document()
    values["rows"].append(row_of("onnxruntime-cuda", "fp16", 1, 1234.56, throughput_ips=98765.4, top1=1.0))
    values["rows"][0]["latency_ms"]["noisy"] = True
    text = printed(values, width)
    assert "…" not in text
    for words in (
        "torch fp32", "onnxruntime-cpu int8", "onnxruntime-cuda fp16", "~41.37", "20.46", "10.23", "8.75", "1234.6",
        "98765", "100.00", "91.35", "90.85", "98.75", "244", "661.9", "noisy",
    ):  # fmt: skip
        assert words in text, words
    for line in text.splitlines():
        if "onnxruntime-" in line and ":" not in line:
            assert len(line) <= width


def test_the_interval_is_shown_where_it_fits() -> None:
    assert "20.05-20.87" in printed(document(), 120)
    assert "20.05-20.87" not in printed(document(), 80)


def test_the_table_is_ordered_by_latency_and_tells_what_did_not_run() -> None:
    text = printed(document(), 80)
    first = text[text.index("batch 1,") : text.index("batch 16,")]
    places = [first.index(name) for name in ("openvino int8", "onnxruntime-cpu int8", "onnxruntime-cpu fp32", "torch")]
    assert places == sorted(places)
    assert text.count("tensorrt-rtx int8: skipped: built, not run: no CUDA device") == 1
    assert "openvino fp32: failed: line one; line two" in text


def test_markup_in_a_reason_is_shown_as_it_is() -> None:
    values = document()
    values["rows"] = [skipped("torch", "fp32", 1, "[red]not red[/red] [/nothing]")]
    assert "[red]not red[/red] [/nothing]" in printed(values, 80)


def test_sentences_compare_int8_with_fp32_of_the_same_runtime() -> None:
    lines = sentences(document())
    assert len(lines) == 2
    assert lines[0].startswith("onnxruntime-cpu: INT8 is 2.00x faster than FP32 at batch 1")
    # Of 2,000 images twelve are lost and five won.
    assert "-0.35 points" in lines[0] and "p = 0.14" in lines[0]
    assert "batch 16" in lines[1] and "points" not in lines[1]


def test_a_reference_without_rows_is_named() -> None:
    values = document()
    assert sentences(values | {"reference": "torch/fp32"}) == sentences(values)
    values["rows"] = [row_of("openvino", "int8", 1, 10.0)]
    assert sentences(values | {"reference": "onnxruntime-cpu/fp32"}) == [
        "agreement is with onnxruntime-cpu fp32, which was not timed"
    ]


def test_a_slower_int8_is_called_slower() -> None:
    values = document()
    values["rows"] = [row_of("openvino", "fp32", 1, 10.0), row_of("openvino", "int8", 1, 15.0)]
    (line,) = sentences(values)
    assert "1.50x slower than FP32" in line
    values["rows"][1] = row_of("openvino", "int8", 1, 10.02)
    assert "INT8 is as fast as FP32" in sentences(values)[0]


def test_no_sentence_without_a_pair() -> None:
    values = document()
    values["rows"] = [row_of("torch", "fp32", 1, 10.0), row_of("openvino", "int8", 1, 15.0)]
    assert sentences(values) == []


def test_reasons_are_given_once_a_session() -> None:
    assert reasons(document()["rows"]) == [
        "tensorrt-rtx int8: skipped: built, not run: no CUDA device",
        "openvino fp32: failed: line one; line two",
    ]


@pytest.mark.parametrize(("fraction", "text"), [(0.9135, "91.35 %"), (1.0, "100.00 %"), (0.0, "0.00 %"), (None, "")])
def test_percent(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text


def test_warnings_come_first_and_the_recommendation_last() -> None:
    lines = printed(whole_document(), 100).splitlines()
    assert lines[0] == "warning: the load average was 1.31: something else was running"
    assert lines[-1] == "For batch 16 deploy openvino int8, because nothing is faster."


def test_limits_and_sessions_are_shown_where_they_fit() -> None:
    wide, narrow = printed(whole_document(), 120), printed(whole_document(), 80)
    for words in ("limit %", "62", "first inference ms", "23", "alexnet.int8.onnx"):
        assert words in wide, words
    assert "limit %" not in narrow and "first inference ms" not in narrow
    assert "limit %" not in printed(document(), 120)


@pytest.mark.parametrize("width", [80, 120])
def test_a_row_under_load_is_marked(width: int) -> None:
    text = printed(whole_document(), width)
    assert "openvino int8 throughput" in " ".join(text.split()) and "30.00*" in text and "under load" in text
    assert "under load" not in printed(document(), width)


@pytest.mark.parametrize(
    ("precision", "hint", "label"),
    [
        ("bf16", "bf16", "openvino bf16"),
        ("int8", "throughput", "openvino int8 throughput"),
        ("fp16", "cuda-graph", "openvino fp16 cuda-graph"),
        ("fp32", None, "openvino fp32"),
    ],
)
def test_a_label_has_the_hint_that_the_precision_does_not_say(precision: str, hint: str | None, label: str) -> None:
    assert label_of({"runtime": "openvino", "precision": precision, "hint": hint}) == label


def test_a_row_under_load_gets_no_sentence() -> None:
    values = document()
    values["rows"] = [
        row_of("openvino", "fp32", 1, 10.0),
        row_of("openvino", "int8", 1, 15.0, hint="throughput", in_flight=4, key="openvino/int8+throughput/1"),
    ]
    assert sentences(values) == []


def test_hostile_texts_are_printed_as_they_are() -> None:
    values = spoiled(whole_document())
    values["conditions"]["warnings"] = ["[red]hot[/red]"]
    values["rows"][0]["runtime"] = "[bold]torch[/bold]"
    text = printed(values, 200)
    assert "warning: [red]hot[/red]" in text and "[bold]torch[/bold]" in text


def test_a_bench_in_which_nothing_ran() -> None:
    values = document()
    values["rows"] = [skipped("tensorrt", "int8", 1, "no CUDA device")]
    assert printed(values, 80) == "tensorrt int8: skipped: no CUDA device\n"

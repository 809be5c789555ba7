"""Reports escape what they show, need nothing from elsewhere, keep every number, and say the figures in words."""

from __future__ import annotations

import copy
import io
import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from alexnet_deploy.inspection import inspect_variant
from alexnet_deploy.pipeline.demo import write_bench
from alexnet_deploy.report.drawing import svg_from_layers
from alexnet_deploy.report.html import page_from_bench
from alexnet_deploy.report.inspect_text import print_inspection
from alexnet_deploy.report.svg import Point, bars, scatter
from alexnet_deploy.report.terminal import percent, print_bench, reasons, sentences
from alexnet_deploy.variants import VARIANTS, NetworkSpec

HOSTILE = '<script>alert("x")</script>&\'"'


def row_of(runtime: str, precision: str, batch: int, median: float, **changes: Any) -> dict[str, Any]:
    return {
        "key": f"{runtime}/{precision}/{batch}",
        "runtime": runtime,
        "precision": precision,
        "batch": batch,
        "threads": 2,
        "hint": None,
        "lrn": "native",
        "status": "ok",
        "reason": None,
        "scope": "compute+copies",
        "latency_ms": {
            "median": median,
            "p90": median * 1.1,
            "p99": median * 1.2,
            "min": median * 0.9,
            "ci95": [median * 0.98, median * 1.02],
            "runs": 50,
            "noisy": False,
        },
        "samples_ms": [median] * 50,
        "cold_start_ms": 123.4,
        "peak_memory_bytes": 512_000_000,
        "throughput_ips": round(batch / median * 1e3, 2),
        "top1": 0.9135,
        "top5": 0.9981,
        "agreement": 0.9875,
        "sqnr_db": 31.25,
        "ece": 0.0123,
        "flips": {"lost": 12, "won": 5, "p_value": 0.1435},
        "size_bytes": 243_861_504,
        "roofline": None,
    } | changes


def skipped(runtime: str, precision: str, batch: int, reason: str, status: str = "skipped") -> dict[str, Any]:
    nothing = dict.fromkeys(
        ("latency_ms", "cold_start_ms", "peak_memory_bytes", "throughput_ips", "top1", "top5", "agreement", "sqnr_db",
         "ece", "flips")
    )  # fmt: skip
    return row_of(runtime, precision, batch, 1.0, status=status, reason=reason, samples_ms=[], **nothing)


def document() -> dict[str, Any]:
    rows = []
    for batch in (1, 16):
        rows += [
            row_of("torch", "fp32", batch, 41.37 * batch, sqnr_db=None, agreement=1.0),
            row_of("onnxruntime-cpu", "fp32", batch, 20.46 * batch),
            row_of("onnxruntime-cpu", "int8", batch, 10.23 * batch, top1=0.9085),
            row_of("openvino", "int8", batch, 8.75 * batch),
            skipped("tensorrt-rtx", "int8", batch, "built, not run: no CUDA device"),
            skipped("openvino", "fp32", batch, "line one\nline two", status="failed"),
        ]
    return {
        "schema": 1,
        "made": "2026-01-02T03:04:05+00:00",
        "environment": {
            "cpu": "A processor @ 2.50GHz",
            "cpu_family": "6/85/7",
            "cpus": 2,
            "cpu_flags": ["avx2"],
            "memory_bytes": 24_000_000_000,
            "gpus": 0,
            "system": "Linux x86_64",
            "python": "3.11.7",
            "packages": {"torch": "2.9.0", "onnxruntime-gpu": "1.24.0"},
        },
        "model": {"name": "alexnet", "network": None, "preprocessing": {}, "labels": [], "source": "a.safetensors"},
        "data": {"name": "shipped evaluation", "images": 2000, "skipped": 0, "labelled": True},
        "options": {"batches": [1, 16], "runs": 50, "rounds": 5},
        "rows": rows,
    }


class Tags(HTMLParser):
    """Every tag and attribute of a page; fails where tags do not close in order."""

    VOID = frozenset({"meta", "rect", "line", "circle", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names, self.attributes, self.text = list[str](), list[tuple[str, str]](), ""
        self.open = list[str]()
        self.feed(page)
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_says_every_row() -> None:
    tags = Tags(page_from_bench(document()))
    for words in (
        "alexnet", "41.37", "20.46", "10.23", "8.75", "91.35 %", "90.85 %", "98.75 %", "12 / 5", "31.2", "243.9",
        "built, not run: no CUDA device", "line one; line two", "2000", "shipped evaluation", "A processor",
        "onnxruntime-gpu 1.24.0", "3.11.7", "Batch 1", "Batch 16",
    ):  # fmt: skip
        assert words in tags.text, words
    assert tags.names.count("table") == 3 and tags.names.count("svg") == 4


def test_hostile_texts_are_escaped_everywhere() -> None:
    hostile = document()
    hostile["model"]["name"] = hostile["data"]["name"] = hostile["made"] = HOSTILE
    hostile["environment"] |= {"cpu": HOSTILE, "system": HOSTILE, "python": HOSTILE, "cpu_flags": [HOSTILE]}
    hostile["environment"]["packages"] = {HOSTILE: HOSTILE}
    for row in hostile["rows"]:
        row |= {"runtime": HOSTILE, "precision": HOSTILE, "lrn": HOSTILE, "reason": HOSTILE}
    page = page_from_bench(hostile)
    clean = Tags(page_from_bench(document()))
    tags = Tags(page)
    assert "script" not in tags.names
    assert set(tags.names) <= set(clean.names) | {"td"}
    assert HOSTILE in tags.text
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert "<script" not in page and "alert(&quot;x&quot;)" in page


def test_the_page_refers_to_nothing_outside_itself() -> None:
    page = page_from_bench(document())
    without_namespaces = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.findall(r"https?://|//[a-z]|@import|url\(|src=|href=|javascript:", without_namespaces)
    assert not {"script", "link", "img", "iframe", "object"} & set(Tags(page).names)


def test_a_page_without_labels_shows_agreement() -> None:
    unlabelled = document()
    unlabelled["data"]["labelled"] = False
    for row in unlabelled["rows"]:
        row |= {"top1": None, "top5": None, "ece": None}
    tags = Tags(page_from_bench(unlabelled))
    assert "agreement with the reference" in tags.text
    assert "top-1" not in tags.text.split("median milliseconds")[0].split("Batch 1")[1]


def test_a_page_of_a_bench_in_which_nothing_ran() -> None:
    nothing = document()
    nothing["rows"] = [skipped("tensorrt", "int8", 1, "no CUDA device")]
    tags = Tags(page_from_bench(nothing))
    assert "no CUDA device" in tags.text and "svg" not in tags.names


def test_a_page_of_rows_that_are_all_alike() -> None:
    alike = document()
    alike["rows"] = [row_of("torch", "fp32", 1, 10.0, top1=1.0, agreement=1.0) for _ in range(3)]
    alike["options"]["batches"] = [1]
    page = page_from_bench(alike)
    assert "nan" not in page.lower().replace("finance", "") and Tags(page).names.count("circle") == 3


def test_bench_writes_document_passport_and_page(tmp_path: Any) -> None:
    path, report = write_bench(document(), tmp_path)
    assert json.loads(path.read_text()) == document()
    assert json.loads((tmp_path / "bench.json.json").read_text())["kind"] == "bench"
    assert report.read_text() == page_from_bench(document())
    other, page = write_bench(document(), tmp_path, tmp_path / "sub" / "mine.json")
    assert (other.name, page.name) == ("mine.json", "mine.html") and page.is_file()


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
    assert "-0.50 points" in lines[0] and "p = 0.14" in lines[0]
    assert "batch 16" in lines[1] and "points" not in lines[1]


def test_a_slower_int8_is_called_slower() -> None:
    values = document()
    values["rows"] = [row_of("openvino", "fp32", 1, 10.0), row_of("openvino", "int8", 1, 15.0)]
    (line,) = sentences(values)
    assert "1.50x slower" in line


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


def test_pictures_are_well_formed_and_keep_every_point() -> None:
    points = [
        Point(label=f"<{runtime}> & co", runtime=runtime, x=x, interval=(x * 0.9, x * 1.1), y=0.9 + x / 1000)
        for runtime, x in (("torch", 41.0), ("openvino", 8.7), ("onnxruntime-cpu", 20.5))
    ]
    for picture in (scatter(points, x_title="ms & more", y_title="<top-1>"), bars(points, title="latency <ms>")):
        root = ElementTree.fromstring(picture)
        titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
        assert sorted(title.split(":")[0] for title in titles) == sorted(point.label for point in points)
        for element in root.iter():
            for name in ("x", "y", "x1", "x2", "cx", "cy", "width"):
                if name in element.attrib:
                    assert -1 <= float(element.attrib[name]) <= 761


def test_a_point_without_a_fraction_is_left_out_of_the_scatter() -> None:
    point = Point(label="torch", runtime="torch", x=1.0, interval=(0.9, 1.1), y=None)
    assert scatter([point], x_title="x", y_title="y") == ""
    assert "torch" in bars([point], title="latency")
    assert bars([], title="latency") == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_drawing_has_a_box_for_every_layer_that_has_a_shape_of_its_own(variant: str) -> None:
    values = inspect_variant(NetworkSpec(variant=variant))
    root = ElementTree.fromstring(svg_from_layers(values))
    titles = {(element.text or "").split(":")[0] for element in root.iter("{http://www.w3.org/2000/svg}title")}
    drawn = {layer["name"] for layer in values["layers"] if layer["type"] in ("conv", "lrn", "pool", "linear")}
    assert titles == drawn | {"input"}
    text = "".join(root.itertext())
    assert f"{sum(layer['parameters'] for layer in values['layers']):,}" in text


def test_a_drawing_refers_to_nothing_outside_itself() -> None:
    picture = svg_from_layers(inspect_variant(NetworkSpec()))
    assert re.findall(r"https?://[^\"]*", picture) == ["http://www.w3.org/2000/svg"]


def inspected(values: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_inspection(values, Console(file=stream, width=160))
    return stream.getvalue()


def test_the_textbook_table_has_the_papers_numbers() -> None:
    text = inspected(inspect_variant(NetworkSpec(variant="paper")))
    for words in (
        "96x55x55",
        "256x27x27",
        "256x6x6",
        "60,965,224",
        "conv 11x11, stride 4, pad 2",
        "LRN over 5 channels",
    ):
        assert words in text, words
    assert "…" not in text


def test_names_with_markup_are_shown_as_they_are() -> None:
    values = copy.deepcopy(inspect_variant(NetworkSpec(variant="owt")))
    values["summary"] = "[bold]x[/bold]"
    assert "[bold]x[/bold]" in inspected(values)


def test_a_row_with_cuda_graphs_is_told_from_the_one_without() -> None:
    values = document()
    values["rows"] += [
        row_of("tensorrt", "fp16", 1, 0.5),
        row_of("tensorrt", "fp16", 1, 0.4, hint="cuda-graph", key="tensorrt/fp16+cuda-graph/1"),
        skipped("tensorrt", "int8", 1, "no CUDA device") | {"hint": "cuda-graph"},
    ]
    console = Console(file=io.StringIO(), width=120)
    print_bench(values, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "tensorrt fp16 cuda-graph" in text and "tensorrt int8 cuda-graph: skipped" in text
    page = page_from_bench(values)
    assert "<td>fp16 cuda-graph</td>" in page and "<td>fp16</td>" in page

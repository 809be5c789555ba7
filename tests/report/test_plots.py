"""Pictures have a mark for every figure, inside their frames, and say it in words too."""

from __future__ import annotations

import itertools
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from alexnet_deploy.report.html import page_from_bench
from alexnet_deploy.report.plots.canvas import Scale
from alexnet_deploy.report.plots.labels import Box, labels_beside, spaced
from alexnet_deploy.report.rows import front_of, quantile
from alexnet_deploy.report.words import label_of
from tests.report.documents import BATCHES, LAYERS, crowded_document, document, row_of, whole_document
from tests.report.pages import SVG, having, pictures_of, section_of


def ran(values: dict[str, Any], batch: int | None = None) -> list[dict[str, Any]]:
    return [row for row in values["rows"] if row["status"] == "ok" and batch in (None, row["batch"])]


def pictures(values: dict[str, Any], anchor: str) -> list[ElementTree.Element]:
    return pictures_of(section_of(page_from_bench(values), anchor))


def shapes(picture: ElementTree.Element) -> int:
    return len(having(picture, "shape")) + len(having(picture, "hollow"))


def stops(picture: ElementTree.Element) -> list[ElementTree.Element]:
    return [element for element in picture.iter() if element.get("tabindex") == "0"]


@pytest.mark.parametrize("make", [document, whole_document])
def test_the_front_has_a_mark_for_every_row_and_a_ring_for_every_member(make: Any) -> None:
    values = make()
    for picture, batch in zip(pictures(values, "front"), BATCHES, strict=True):
        assert shapes(picture) == len(stops(picture)) == len(ran(values, batch))
        assert len(having(picture, "on-front")) == len(front_of(values, batch))
        (steps,) = having(picture, "front")
        assert len(re.findall("V", steps.get("d", ""))) == len(front_of(values, batch))
        names = {stop.get("aria-label", "").split(":")[0] for stop in stops(picture)}
        assert names == {label_of(row) for row in ran(values, batch)}


@pytest.mark.parametrize("images", [1, 5, 2000, 50_000])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_no_axis_of_shares_goes_beyond_the_whole(share: float, images: int) -> None:
    values = document()
    values["data"]["images"] = images
    for row in ran(values):
        row["top1"] = share
    for picture in pictures(values, "front"):
        written = [float(text[:-2]) for text in picture.itertext() if re.fullmatch(r"[\d.]+ %", text)]
        assert len(written) >= 2 and min(written) >= 0 and max(written) <= 100
        rings = [float(ring.get("cy", "")) for ring in having(picture, "on-front")]
        assert rings and min(rings) >= 10


def test_the_front_holds_what_nothing_beats() -> None:
    values = document()
    values["rows"] = [
        row_of("a", "int8", 1, 5.0, top1=0.80),
        row_of("b", "fp16", 1, 7.0, top1=0.79),
        row_of("c", "fp16", 1, 8.0, top1=0.85),
        row_of("d", "fp32", 1, 9.0, top1=0.85),
    ]
    assert [row["runtime"] for row in front_of(values, 1)] == ["a", "c"]
    values["recommendation"] = [{"batch": 1, "key": "c/fp16/1", "front": ["c/fp16/1"], "sentence": "c"}]
    assert [row["runtime"] for row in front_of(values, 1)] == ["c"]


def test_a_strip_has_a_dot_for_every_sample_and_a_line_for_every_quantile() -> None:
    values = whole_document()
    for picture, batch in zip(pictures(values, "latency"), BATCHES, strict=True):
        rows = ran(values, batch)
        dots = having(picture, "dots")
        assert [path.get("d", "").count("h0") for path in dots] == [len(row["samples_ms"]) for row in rows]
        for kind in ("p50", "p90", "p99", "box"):
            assert len(having(picture, kind)) == len(rows)
        # One height a turn.
        heights = {point.split()[1] for point in re.findall(r"M([\d. ]+)h0", dots[0].get("d", ""))}
        assert len(heights) == values["options"]["rounds"]


def test_a_noisy_row_is_marked() -> None:
    values = document()
    values["rows"][0]["latency_ms"]["noisy"] = True
    picture = pictures(values, "latency")[0]
    assert [text.text for text in having(picture, "label")].count("~ torch fp32") == 1
    assert sum("noisy" in stop.get("aria-label", "") for stop in stops(picture)) == 1


def test_a_row_without_samples_has_its_quantiles_still() -> None:
    values = document()
    values["rows"][0]["samples_ms"] = []
    picture = pictures(values, "latency")[0]
    assert len(having(picture, "p50")) == 4 and len(having(picture, "dots")) == 3


def test_throughput_has_a_line_for_every_session_and_a_mark_for_every_row() -> None:
    values = whole_document()
    (picture,) = pictures(values, "throughput")
    assert shapes(picture) == len(ran(values))
    assert len(having(picture, "line")) == len(having(picture, "label")) == len(ran(values, 1))


def test_starts_have_two_bars_of_time_and_one_of_memory() -> None:
    values = whole_document()
    sessions = [session for session in values["sessions"] if session["status"] == "ok"]
    (picture,) = pictures(values, "start")
    assert len(having(picture, "bar")) == 3 * len(sessions) and len(having(picture, "second")) == len(sessions)


def test_a_profile_has_a_bar_for_every_layer_and_a_line_for_every_limit() -> None:
    values = whole_document()
    found = pictures(values, "layers")
    assert len(found) == len(values["profiles"])
    for picture in found:
        assert len(having(picture, "layer")) == len(LAYERS) and len(having(picture, "layer-other")) == 1
        assert len(having(picture, "limit")) == 2 and len(having(picture, "compute")) == 1


def test_the_roofline_has_a_roof_for_every_peak_and_a_mark_for_every_row() -> None:
    values = whole_document()
    values["rows"][0]["roofline"] = None
    (picture,) = pictures(values, "roofline")
    assert shapes(picture) == len(ran(values)) - 1
    assert len(having(picture, "roof")) == 1 + len(values["peaks"]["macs_per_second"])


def test_what_reaches_its_limit_lies_on_the_roof() -> None:
    values = whole_document()
    (row,) = values["rows"] = [row_of("torch", "fp32", 1, 10.0)]
    peak, bandwidth = 1.6e11, 2.1e10
    values["peaks"] |= {"macs_per_second": {"fp32": peak}, "read_bytes_per_second": bandwidth}
    row["roofline"] = {"bound": "compute", "limit_ms": 10.0, "fraction": 1.0, "macs": peak / 100, "bytes": 1_000_000}
    row["throughput_ips"] = 100.0
    (picture,) = pictures(values, "roofline")
    (shape,) = having(picture, "shape")
    roof = next(path for path in having(picture, "roof") if "memory" not in path.get("class", ""))
    height = re.search(r"translate\([\d.]+ ([\d.]+)\)", shape.get("transform", ""))
    flat = re.search(r"M[\d.]+ ([\d.]+)H", roof.get("d", ""))
    assert height and flat and float(height[1]) == pytest.approx(float(flat[1]), abs=0.11)


def test_a_histogram_has_its_bins_and_four_thresholds_of_which_one_is_chosen() -> None:
    values = whole_document()
    tensors = values["calibration"]["tensors"]
    found = pictures(values, "calibration")
    assert len(found) == len(tensors)
    for picture, tensor in zip(found, tensors, strict=True):
        (outline,) = having(picture, "histogram")
        assert outline.get("d", "").count("Z") == sum(share > 0 for share in tensor["shares"])
        assert len(having(picture, "threshold")) == 4
        assert [line.get("class") for line in having(picture, "chosen")] == ["threshold percentile chosen"]


def test_a_histogram_of_nothing_is_empty() -> None:
    values = whole_document()
    values["calibration"]["tensors"] = [values["calibration"]["tensors"][0] | {"shares": [0.0] * 128, "limit": 0.0}]
    (picture,) = pictures(values, "calibration")
    assert having(picture, "histogram")[0].get("d") == ""


def test_matrices_have_a_cell_for_every_count_and_an_edge_where_they_differ() -> None:
    values = whole_document()
    found = pictures(values, "confusion")
    assert [len(having(picture, "cell")) for picture in found] == [5, 5]
    assert [len(having(picture, "cell-edge")) for picture in found] == [2, 2]
    titles = [title.text for title in found[0].iter(f"{SVG}title")]
    assert "Shirt taken for Coat: 3 (elsewhere 1)" in titles and "Bag taken for Bag: 70" in titles


def test_a_matrix_without_a_reference_stands_alone() -> None:
    values = whole_document()
    values["confusion"] |= {"reference": None, "reference_counts": None}
    (picture,) = pictures(values, "confusion")
    assert len(having(picture, "cell")) == 5 and not having(picture, "cell-edge")


def test_a_precision_without_a_peak_has_no_roof() -> None:
    values = whole_document()
    values["peaks"]["macs_per_second"] |= {"bf16": None, "int8": 0}
    (picture,) = pictures(values, "roofline")
    assert len(having(picture, "roof")) == 2
    values["peaks"]["macs_per_second"] = {}
    assert pictures(values, "roofline") == []


def test_flipped_images_are_pictures_with_words() -> None:
    markup = section_of(page_from_bench(whole_document()), "flipped")
    assert markup.count("<img ") == 2
    assert 'alt="image 17, Shirt; the reference says Shirt, openvino int8 says Coat"' in markup


@pytest.mark.parametrize("make", [document, whole_document, crowded_document])
def test_everything_lies_within_its_picture(make: Any) -> None:
    for picture in pictures_of(page_from_bench(make())):
        width, height = (float(side) for side in picture.get("viewBox", "").split()[2:])
        for element in picture.iter():
            for names, most in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "y2", "cy"), height)):
                for name in names:
                    if name in element.attrib:
                        assert -1 <= float(element.attrib[name]) <= most + 1, ElementTree.tostring(element)


@pytest.mark.parametrize(
    ("low", "high", "log"), [(4.5, 62.0, True), (0.91, 0.92, False), (9.9, 10.1, True), (1, 1e7, True)]
)
def test_ticks_are_within_and_not_too_many(low: float, high: float, log: bool) -> None:
    ticks = Scale(low=low, high=high, start=0, stop=100, logarithmic=log).ticks(8)
    assert all(low <= tick <= high for tick in ticks) and len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_labels_do_not_lie_on_each_other() -> None:
    points = [(100.0 + index, 100.0, f"label {index}") for index in range(8)]
    found = [ElementTree.fromstring(part) for part in labels_beside(points, within=Box(0, 0, 400, 300))]
    texts = [element for element in found if element.tag == "text"]
    assert len(texts) == len(points)
    boxes = []
    for element in texts:
        x, y, width = float(element.attrib["x"]), float(element.attrib["y"]), 6.6 * len(element.text or "")
        left = x - width if element.get("text-anchor") == "end" else x
        boxes.append(Box(left, y - 10, left + width, y))
    assert not [1 for index, box in enumerate(boxes) for other in boxes[:index] if box.meets(other)]


def test_spaced_heights_keep_their_gap_and_their_range() -> None:
    found = spaced([1, 2, 3, 95, 99, 100], 10, 0, 100)
    assert found[0] >= 0 and found[-1] <= 100
    assert all(after - before >= 10 - 1e-9 for before, after in itertools.pairwise(found))


def test_quantiles_are_interpolated() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.25) == 1.75 and quantile([5.0], 0.75) == 5.0

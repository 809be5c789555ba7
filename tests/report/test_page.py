"""The page escapes what it shows, needs nothing from elsewhere, and leaves out what its document lacks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.pipeline.demo import write_bench
from alexnet_deploy.report.html import page_from_bench
from alexnet_deploy.report.style import RUNTIME_COLOURS, stylesheet
from alexnet_deploy.report.words import few_megabytes, moment
from tests.report.documents import (
    HOSTILE,
    crowded_document,
    document,
    row_of,
    skipped,
    spoiled,
    whole_document,
)
from tests.report.pages import Tags, pictures_of, section_of

# Parts of a document that may be missing, and the section that goes with each.
OPTIONAL = {
    "peaks": "roofline",
    "profiles": "layers",
    "calibration": "calibration",
    "confusion": "confusion",
    "flipped": "flipped",
    "passports": "passports",
}
ANCHORS = (
    "recommendation", "front", "figures", "latency", "throughput", "start", "layers", "roofline", "accuracy",
    "calibration", "confusion", "flipped", "not-run", "how", "environment", "passports",
)  # fmt: skip


def anchors_of(page: str) -> list[str]:
    return re.findall(r'<section id="([\w-]+)"', page)


def without_style(page: str) -> str:
    return re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_a_whole_page_has_every_section_and_says_every_row() -> None:
    page = page_from_bench(whole_document())
    assert anchors_of(page) == list(ANCHORS)
    text = Tags(page).text
    for words in (
        "alexnet", "41.37", "20.46", "10.23", "8.75", "91.35 %", "90.85 %", "98.75 %", "12 / 5", "31.2", "243.9",
        "built, not run: no CUDA device", "line one; line two", "2,000", "shipped evaluation", "A processor",
        "onnxruntime-gpu 1.24.0", "3.11.7", "Batch 1", "Batch 16", "62 % memory", "0.999912",
        "the load average was 1.31",
        "For batch 1 deploy openvino int8", "interpolation nearest instead of bilinear", "2e-04", "percentile 9.5",
        "torch.mm", "gptq", "alexnet.int8.onnx", "3.4 %", "A card", "power", "4 at once", "Shirt ✓", "Coat ✗",
    ):  # fmt: skip
        assert words in text, words


def test_the_recommendation_comes_before_everything_else() -> None:
    page = without_style(page_from_bench(whole_document()))
    order = [page.index(words) for words in ("the load average was", "For batch 1 deploy", "8.75 ms", "<svg")]
    assert order == sorted(order)


def test_every_link_of_the_contents_leads_to_a_section() -> None:
    page = page_from_bench(whole_document())
    assert re.findall(r'<a href="#([\w-]+)"', page) == list(ANCHORS)
    identifiers = re.findall(r' id="([\w-]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    for named in re.findall(r'aria-labelledby="([\w-]+)"', page):
        assert named in identifiers


@pytest.mark.parametrize("part", OPTIONAL)
@pytest.mark.parametrize("nothing", [None, "absent", "empty"])
def test_a_part_that_is_missing_leaves_no_heading(part: str, nothing: str | None) -> None:
    values = whole_document()
    if nothing == "absent":
        del values[part]
    else:
        values[part] = None if nothing is None else type(values[part])()
    anchors = anchors_of(page_from_bench(values))
    assert anchors == [anchor for anchor in ANCHORS if anchor != OPTIONAL[part]]


@pytest.mark.parametrize("part", ["sensitivity", "conditions", "sessions", "recommendation", "network", "seconds"])
def test_a_part_without_a_section_of_its_own_may_be_missing(part: str) -> None:
    values = whole_document()
    del values[part]
    assert anchors_of(page_from_bench(values)) == list(ANCHORS)
    assert page_from_bench(values | {part: None}) == page_from_bench(values)


def test_a_document_of_schema_1_is_shown_still() -> None:
    page = page_from_bench(document())
    assert anchors_of(page) == [
        "recommendation", "front", "figures", "latency", "throughput", "start", "accuracy", "not-run", "how",
        "environment",
    ]  # fmt: skip
    assert "INT8 is 2.00x faster" in section_of(page, "recommendation")


@pytest.mark.parametrize("make", [document, whole_document])
def test_hostile_texts_are_escaped_everywhere(make: Any) -> None:
    page, clean = page_from_bench(spoiled(make())), page_from_bench(make())
    tags, before = Tags(page), Tags(clean)
    assert "script" not in tags.names and "<script" not in page
    assert set(tags.names) <= set(before.names)
    assert tags.text.count(HOSTILE) > 20
    assert {name for name, _ in tags.attributes} == {name for name, _ in before.attributes}
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    for picture in pictures_of(page):
        assert picture.tag.endswith("svg")


def test_every_text_of_the_document_is_shown() -> None:
    """Counts the markup at the end of each text: what is dropped silently would be missing."""
    text = Tags(page_from_bench(spoiled(whole_document()))).text
    for words in (
        "alexnet", "A processor @ 2.50GHz", "avx2", "Linux x86_64", "2.9.0", "shipped evaluation", "a.safetensors",
        "the load average was 1.31: something else was running", "A card", "power", "fc6", "relu1", "Shirt", "Bag",
        "alexnet.int8.onnx", "built, not run: no CUDA device", "a sum",
        "For batch 1 deploy openvino int8, because nothing is faster.", "interpolation nearest instead of bilinear",
    ):  # fmt: skip
        assert words + HOSTILE in text, words


@pytest.mark.parametrize("png", ["not base64!", '"><script>alert(1)</script>', ""])
def test_a_picture_that_is_no_base64_is_left_out(png: str) -> None:
    values = whole_document()
    values["flipped"][0]["png"] = png
    page = page_from_bench(values)
    assert Tags(page).names.count("img") == 1 and "alert(1)" not in page


def test_the_page_refers_to_nothing_outside_itself() -> None:
    page = page_from_bench(whole_document())
    bare = page.replace('xmlns="http://www.w3.org/2000/svg"', "").replace('src="data:image/png;base64,', "")
    assert not re.findall(r"https?:|[\s\"'(]//[a-z]|@import|url\(|src=|javascript:|<base", bare)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', page))
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(Tags(page).names)


def test_the_policy_forbids_what_the_page_does_not_need() -> None:
    page = page_from_bench(whole_document())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode()
    assert len(styles) == 1 and " style=" not in page
    assert policy[1].split("; ") == [
        "default-src 'none'", f"style-src 'sha256-{digest}'", "img-src data:", "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip


def test_the_style_sheet_has_each_colour_for_light_and_for_dark() -> None:
    style = stylesheet()
    for light, dark in RUNTIME_COLOURS.values():
        assert f"light-dark({light},{dark})" in style
    assert "prefers-color-scheme:dark" in style and "</" not in style
    used, defined = set(re.findall(r"var\((--[\w-]+)", style)), set(re.findall(r"(--[\w-]+):", style))
    assert used <= defined


def contrast(one: str, other: str) -> float:
    """Of two colours, as WCAG 2.2 defines it."""

    def shine(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((shine(one), shine(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("runtime", RUNTIME_COLOURS)
def test_every_runtime_can_be_seen_on_its_paper(runtime: str) -> None:
    light, dark = RUNTIME_COLOURS[runtime]
    assert contrast(light, "#ffffff") >= 4.5 and contrast(dark, "#14171b") >= 4.5


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        ("2026-11-24T14:12:15+00:00", "2026-11-24 14:12 UTC"),
        ("2026-11-24T14:12:15.123456Z", "2026-11-24 14:12 UTC"),
        ("2026-11-24T14:12:15+02:00", "2026-11-24T14:12:15+02:00"),
        ("yesterday", "yesterday"),
    ],
)
def test_the_moment_is_readable(made: str, shown: str) -> None:
    assert moment(made) == shown


def test_a_page_without_labels_shows_agreement() -> None:
    values = whole_document()
    values["data"]["labelled"] = False
    values["confusion"] = values["sensitivity"] = None
    for row in values["rows"]:
        row |= {"top1": None, "top5": None, "ece": None}
    page = page_from_bench(values)
    assert "agreement with the reference" in Tags(section_of(page, "front")).text
    assert "top-1" not in section_of(page, "front")


def test_a_page_of_a_bench_in_which_nothing_ran() -> None:
    nothing = document()
    nothing["rows"] = [skipped("tensorrt", "int8", 1, "no CUDA device")]
    tags = Tags(page_from_bench(nothing))
    assert "no CUDA device" in tags.text and "Nothing ran on this machine" in tags.text and "svg" not in tags.names
    assert "Nothing ran" in Tags(page_from_bench(nothing | {"rows": []})).text


def test_a_page_of_rows_that_are_all_alike() -> None:
    alike = document()
    alike["rows"] = [row_of("torch", "fp32", 1, 10.0, top1=1.0, agreement=1.0, samples_ms=[10.0]) for _ in range(3)]
    for row in alike["rows"]:
        row["latency_ms"] |= {"p99": 10.0, "min": 10.0, "p90": 10.0, "ci95": [10.0, 10.0]}
    alike["options"] |= {"batches": [1], "rounds": 1}
    page = page_from_bench(alike)
    assert "nan" not in page.lower() and len(pictures_of(section_of(page, "front"))) == 1
    assert "throughput" not in anchors_of(page)


def test_a_page_of_many_rows() -> None:
    page = page_from_bench(crowded_document())
    assert Tags(page).text.count("runtime-with-a-name-39") >= 4


def test_bench_writes_document_passport_and_page(tmp_path: Any) -> None:
    path, report = write_bench(document(), tmp_path)
    assert json.loads(path.read_text()) == document()
    assert json.loads((tmp_path / "bench.json.json").read_text())["kind"] == "bench"
    assert report.read_text() == page_from_bench(document())
    other, page = write_bench(document(), tmp_path, tmp_path / "sub" / "mine.json")
    assert (other.name, page.name) == ("mine.json", "mine.html") and page.is_file()


def test_the_page_says_which_samples_are_those_of_the_evaluation() -> None:
    words = "At batch 16 the evaluation of the images is what was timed"
    plain, evaluated = whole_document(), whole_document()
    for row in evaluated["rows"]:
        if row["batch"] == 16 and row["status"] == "ok":
            row["evaluated"] = True
    assert words not in Tags(page_from_bench(plain)).text
    assert words in Tags(page_from_bench(evaluated)).text
    assert "At batch 1 the" not in Tags(page_from_bench(evaluated)).text


def test_a_bench_in_which_nothing_ran_takes_no_other_ones_place(tmp_path: Path) -> None:
    good, page = write_bench(document(), tmp_path)
    before = good.read_bytes(), page.read_bytes()
    nothing = document()
    for row in nothing["rows"]:
        row["status"] = "skipped"
    path, report = write_bench(nothing, tmp_path)
    assert (path.name, report.name) == ("bench.nothing-ran.json", "bench.nothing-ran.html")
    assert (good.read_bytes(), page.read_bytes()) == before
    assert write_bench(nothing, tmp_path, tmp_path / "named.json")[0].name == "named.json"


@pytest.mark.parametrize(("size", "text"), [(None, ""), (400_000, "0.4"), (9_950_000, "9.9"), (56_995_843, "57")])
def test_small_files_are_not_of_zero_megabytes(size: int | None, text: str) -> None:
    assert few_megabytes(size) == text

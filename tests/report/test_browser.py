"""The page in a real browser: it loads in silence, fits a phone, follows light and dark, obeys the keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.report.html import page_from_bench
from benchmarks.chromium import NAMES, Browser, BrowserError, find_chromium
from tests.report.documents import (
    BATCHES,
    crowded_document,
    document,
    many_classes_document,
    skipped,
    spoiled,
    whole_document,
)
from tests.security.hostile import nasty

PHONE, DESK = (360, 740), (1280, 900)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is on PATH (apt-get install chromium)")
    with Browser(executable) as opened:
        yield opened


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Callable[..., Browser]:
    """Opens the page of a document in a window of a size."""

    def opened(values: dict[str, Any], size: tuple[int, int] = DESK, **looks: Any) -> Browser:
        path = tmp_path / "report.html"
        path.write_text(page_from_bench(values))
        browser.look(*size, **looks)
        browser.open(path)
        return browser

    return opened


def nothing_ran() -> dict[str, Any]:
    return document() | {"rows": [skipped("tensorrt", "int8", 1, "no CUDA device")]}


DOCUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "whole": whole_document,
    "schema 1": document,
    "hostile": lambda: spoiled(whole_document()),
    "nasty": lambda: nasty(whole_document()),
    "crowded": crowded_document,
    "many classes": many_classes_document,
    "nothing ran": nothing_ran,
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_a_page_loads_in_silence_and_never_scrolls_sideways(
    show: Callable[..., Browser], name: str, size: tuple[int, int]
) -> None:
    page = show(DOCUMENTS[name](), size)
    assert page.problems == []
    # The page itself and its pictures, which it carries.
    assert [address for address in page.requested if not address.startswith("data:image/png")] == page.requested[:1]
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [size[0], size[0]]
    # What is wider scrolls in a region of its own, which the keyboard reaches.
    outside = page.evaluate(
        "[...document.querySelectorAll('table, svg, pre, img')].filter(found => "
        "found.getBoundingClientRect().right > innerWidth && !found.closest('.scroll[tabindex=\"0\"]')).length"
    )
    assert outside == 0


def test_a_program_that_is_no_browser_is_an_error() -> None:
    with pytest.raises(BrowserError, match="went away"), Browser("/bin/true"):
        raise AssertionError


def test_a_browser_tells_what_goes_wrong(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'"><script>throw 1</script>'
        '<img src="https://example.invalid/x.png">'
    )
    browser.open(tmp_path / "bad.html")
    assert len(browser.problems) == 2
    with pytest.raises(BrowserError, match="not here"):
        browser.evaluate("throw new Error('not here')")


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_the_text_of_pictures_can_be_read(show: Callable[..., Browser], size: tuple[int, int]) -> None:
    page = show(whole_document(), size)
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg text')].map(text => "
        "parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b) || 99))"
    )
    assert smallest >= 10.9


@pytest.mark.parametrize("make", [whole_document, crowded_document, many_classes_document])
def test_the_text_of_pictures_is_not_clipped(show: Callable[..., Browser], make: Callable[[], dict[str, Any]]) -> None:
    page = show(make())
    clipped = page.evaluate(
        "[...document.querySelectorAll('svg')].flatMap(picture => { const frame = picture.getBoundingClientRect();"
        "return [...picture.querySelectorAll('text:not(.tip)')].filter(text => {"
        "const box = text.getBoundingClientRect();"
        "return box.left < frame.left - 2 || box.right > frame.right + 2 || box.top < frame.top - 2 ||"
        "box.bottom > frame.bottom + 3 }).map(text => text.textContent) })"
    )
    assert clipped == []


def test_the_plots_have_their_marks(show: Callable[..., Browser]) -> None:
    values = whole_document()
    page = show(values)
    rows = [row for row in values["rows"] if row["status"] == "ok"]

    def drawn(selector: str) -> int:
        """How many elements are there and take up room."""
        return int(
            page.evaluate(
                f"[...document.querySelectorAll({selector!r})].filter(found => {{ const box = "
                "found.getBoundingClientRect(); return box.width + box.height > 0 }).length"
            )
        )

    assert drawn("#front .mark .shape, #front .mark .hollow") == len(rows)
    assert drawn("#latency .dots") == len(rows)
    assert drawn("#throughput .mark .shape, #throughput .mark .hollow") == len(rows)
    assert drawn("#roofline .mark .shape, #roofline .mark .hollow") == len(rows)
    assert drawn("#layers .layer, #layers .layer-other") == 4 * len(values["profiles"])
    assert drawn("#calibration .threshold") == 4 * len(values["calibration"]["tensors"])
    assert drawn("#confusion .cell") == 10
    assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [28, 28]


def colours(page: Browser) -> list[str]:
    found: list[str] = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        "getComputedStyle(document.querySelector('.mark.rt-openvino .shape')).fill]"
    )
    return found


LIGHT = ["rgb(255, 255, 255)", "rgb(27, 31, 36)", "rgb(154, 47, 124)"]
DARK = ["rgb(20, 23, 27)", "rgb(230, 232, 235)", "rgb(232, 149, 207)"]


@pytest.mark.parametrize(("scheme", "expected", "other"), [("light", LIGHT, DARK), ("dark", DARK, LIGHT)])
def test_the_page_follows_the_system_and_the_switch(
    show: Callable[..., Browser], scheme: str, expected: list[str], other: list[str]
) -> None:
    page = show(whole_document(), scheme=scheme)
    assert colours(page) == expected
    page.evaluate(f"document.getElementById('theme-{'dark' if scheme == 'light' else 'light'}').click()")
    assert colours(page) == other
    page.evaluate("document.getElementById('theme-auto').click()")
    assert colours(page) == expected


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(show: Callable[..., Browser], scheme: str) -> None:
    """Four and a half to one, as WCAG 2.2 asks of text (1.4.3); three to one of marks (1.4.11)."""
    page = show(whole_document(), scheme=scheme)
    ratios = page.evaluate(
        "(() => { const shine = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(part => "
        "(part /= 255) <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4); "
        "return .2126 * r + .7152 * g + .0722 * b };"
        "const ratio = (one, two) => { const [low, high] = [shine(one), shine(two)].sort((a, b) => a - b);"
        "return (high + .05) / (low + .05) };"
        "const behind = found => { for (; found; found = found.parentElement) { const colour = "
        "getComputedStyle(found).backgroundColor; if (colour != 'rgba(0, 0, 0, 0)') return colour } };"
        "const texts = [...document.querySelectorAll('p, li, a:not(.skip), h1, h2, h3, td, th, dt, dd, figcaption')];"
        "const marks = [...document.querySelectorAll('.mark .shape')];"
        "return [Math.min(...texts.map(text => ratio(getComputedStyle(text).color, behind(text)))),"
        "Math.min(...marks.map(mark => ratio(getComputedStyle(mark).fill, behind(mark))))] })()"
    )
    assert ratios[0] >= 4.5 and ratios[1] >= 3


def focused(page: Browser) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        "(() => { const at = document.activeElement; return {tag: at.localName, text: at.textContent.slice(0, 60),"
        "label: at.getAttribute('aria-label') || '', outline: getComputedStyle(at).outlineStyle,"
        "tip: at.nextElementSibling ? getComputedStyle(at.nextElementSibling).display : ''} })()"
    )
    return found


def test_the_tab_key_goes_from_the_skip_link_through_contents_to_marks(show: Callable[..., Browser]) -> None:
    values = whole_document()
    page = show(values)
    seen = []
    for _ in range(120):
        page.press("Tab", code=9)
        seen.append(focused(page))
        if seen[-1]["tag"] == "g":
            break
    assert seen[0]["text"] == "Skip to the report"
    assert [stop["text"] for stop in seen[1:4]] == ["Recommendation", "Latency against accuracy", "All figures"]
    assert all(stop["outline"] not in ("none", "") for stop in seen)
    # The fastest row is the first mark; it is spelt out above the picture while it has the focus.
    assert seen[-1]["label"].startswith("openvino int8: 8.75 ms (8.57 to 8.93), 91.35 %, on the front")
    assert seen[-1]["tip"] == "block"
    page.press("Tab", code=9)
    assert focused(page)["tag"] == "g"
    shown = page.evaluate(
        "[...document.querySelectorAll('.tip')].filter(tip => getComputedStyle(tip).display != 'none')"
    )
    assert len(shown) == 1


def test_the_skip_link_goes_past_the_contents(show: Callable[..., Browser]) -> None:
    page = show(whole_document())
    page.press("Tab", code=9)
    page.press("Enter", code=13)
    page.press("Tab", code=9)
    assert focused(page)["tag"] in ("div", "g")


def test_every_mark_that_can_be_visited_has_a_name(show: Callable[..., Browser]) -> None:
    values = whole_document()
    page = show(values)
    names = page.evaluate("[...document.querySelectorAll('[tabindex=\"0\"]')].map(at => at.getAttribute('aria-label'))")
    assert all(names)
    ran = sum(row["status"] == "ok" for row in values["rows"])
    assert page.evaluate("document.querySelectorAll('g[tabindex=\"0\"]').length") == 4 * ran + ran // len(BATCHES)


def test_a_passport_opens_by_keyboard(show: Callable[..., Browser]) -> None:
    page = show(whole_document())
    page.evaluate("document.querySelector('summary').focus()")
    page.press("Enter", code=13)
    assert page.evaluate("document.querySelector('details').open") is True


def test_paper_shows_no_contents_and_hides_nothing(show: Callable[..., Browser]) -> None:
    page = show(whole_document(), (760, 1000), scheme="dark", media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.side')).display") == "none"
    assert colours(page) == LIGHT
    assert (
        page.evaluate("Math.max(...[...document.querySelectorAll('svg')].map(at => at.getBoundingClientRect().right))")
        <= 760
    )

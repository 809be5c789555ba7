"""Reads pages for the tests of reports."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"


class Tags(HTMLParser):
    """Every tag and attribute of a page; fails where tags do not close in order."""

    VOID = frozenset({"meta", "rect", "line", "circle", "br", "img", "input"})

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


def section_of(page: str, anchor: str) -> str:
    """The markup of one section; empty where the page has none of that name."""
    start = page.find(f'<section id="{anchor}"')
    return page[start : page.index("</section>", start) + len("</section>")] if start >= 0 else ""


def pictures_of(markup: str) -> list[ElementTree.Element]:
    """The pictures in a piece of markup, read as strict XML."""
    found = []
    end = 0
    while (start := markup.find("<svg ", end)) >= 0:
        end = markup.index("</svg>", start) + len("</svg>")
        found.append(ElementTree.fromstring(markup[start:end]))
    return found


def having(picture: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    """The elements of a class."""
    return [element for element in picture.iter() if kind in element.get("class", "").split()]

"""Markdown has the page's figures in tables, and no text of the document becomes markup."""

from __future__ import annotations

import re
from typing import Any

import pytest

from alexnet_deploy.report.markdown import escaped, markdown_from_bench
from tests.report.documents import document, skipped, spoiled, whole_document

HEADINGS = (
    "Conditions that were not clean", "Recommendation", "Batch 1", "Batch 16", "Start and memory", "Accuracy",
    "Sensitivity", "Time by layer", "What did not run, and why", "Environment",
)  # fmt: skip


def tables_of(text: str) -> list[list[str]]:
    return [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]


def cells_of(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_every_part_has_its_heading_and_every_row_its_figures() -> None:
    text = markdown_from_bench(whole_document())
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == HEADINGS
    for words in ("41.37", "8.75", "91.35 %", "90.85 %", "243.9", "62 %", "0.999912", "2e-04", "23", "2,000"):
        assert words in text, words


@pytest.mark.parametrize("make", [document, whole_document])
@pytest.mark.parametrize("hostile", [False, True])
def test_tables_are_whole(make: Any, hostile: bool) -> None:
    text = markdown_from_bench(spoiled(make()) if hostile else make())
    tables = tables_of(text)
    assert tables
    for lines in tables:
        assert re.fullmatch(r"(\| -{3}:? )+\|", lines[1])
        assert len({cells_of(line) for line in lines}) == 1


def test_a_bench_in_which_nothing_ran() -> None:
    values = document()
    values["rows"] = [skipped("tensorrt", "int8", 1, "no CUDA device")]
    text = markdown_from_bench(values)
    assert "- tensorrt int8: skipped: no CUDA device" in text and "## Batch" not in text


def test_no_text_becomes_markup() -> None:
    text = markdown_from_bench(spoiled(whole_document()))
    assert not re.findall(r"(?<!\\)[<>`]", text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("*a* _b_ `c` ~d~", r"\*a\* \_b\_ \`c\` \~d\~"),
        ("[a](b) ![c](d)", r"\[a\](b) \!\[c\](d)"),
        ("<b>&amp;", r"\<b\>\&amp;"),
        ("# a", r"\# a"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("a\nb | c\r\n\n# d", r"a b \| c \# d"),
        ("back\\slash", r"back\\slash"),
        ("@someone #12", r"\@someone \#12"),
        ("see https://x.test and www.x.test", "see https&#8203;://x.test and www&#8203;.x.test"),
        ("1.24.0, 91.35 %", "1.24.0, 91.35 %"),
    ],
)
def test_texts_are_shown_as_they_are(text: str, shown: str) -> None:
    assert escaped(text) == shown

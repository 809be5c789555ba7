"""The picture of a calibration table: every tensor by name, the same file for the same table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.errors import InputError
from alexnet_deploy.report.histograms import picture_from_table
from tests.graphs import small_table


def document() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(small_table().to_json()))
    return values


def test_an_svg_is_the_same_each_time() -> None:
    first = picture_from_table(document(), Path("table.svg"))
    assert first == picture_from_table(document(), Path("table.svg"))
    assert b"<svg" in first


@pytest.mark.parametrize(("name", "magic"), [("t.png", b"\x89PNG"), ("t.PNG", b"\x89PNG"), ("t.pdf", b"%PDF")])
def test_the_suffix_says_the_format(name: str, magic: bytes) -> None:
    assert picture_from_table(document(), Path(name)).startswith(magic)


@pytest.mark.parametrize("name", ["table", "table.txt"])
def test_another_suffix_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="suffix"):
        picture_from_table(document(), Path(name))

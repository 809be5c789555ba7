"""Drawings of variants have a box for every layer; tables of what `inspect` says have the paper's numbers."""

from __future__ import annotations

import copy
import io
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from alexnet_deploy.inspection import inspect_variant
from alexnet_deploy.report.drawing import svg_from_layers
from alexnet_deploy.report.inspect_text import print_inspection
from alexnet_deploy.variants import VARIANTS, NetworkSpec


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

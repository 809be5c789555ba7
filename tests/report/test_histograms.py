"""The picture of a table is in the format of its suffix, names every tensor, and is the same each time."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.errors import InputError
from alexnet_deploy.precision.table import CalibrationTable, observed
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.report.histograms import picture_from_table
from tests.precision.test_table import TABLE as WITH_A_DEAD_TENSOR
from tests.precision.test_table import noise

TABLE = replace(WITH_A_DEAD_TENSOR, tensors={**WITH_A_DEAD_TENSOR.tensors, "never": observed(noise(2.0, seed=2), 99.9)})


def document(table: CalibrationTable = TABLE) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(table.to_json()))
    return values


def test_an_svg_names_every_tensor_and_every_method() -> None:
    root = ElementTree.fromstring(picture_from_table(document(), Path("table.svg")))
    assert root.tag.endswith("svg")
    # Text is drawn as paths, with what it says in a comment before it.
    text = picture_from_table(document(), Path("table.svg")).decode()
    for name in TABLE.tensors:
        assert f"<!-- {name}  (" in text
    for method in Method:
        assert f"<!-- {method.value} -->" in text
    assert f"{len(TABLE.images)} images" in text


def test_a_tensor_that_is_always_zero_is_drawn_without_a_warning() -> None:
    text = picture_from_table(document(WITH_A_DEAD_TENSOR), Path("table.svg")).decode()
    assert "never  (100 % in the first bin)" in text


@pytest.mark.parametrize("name", ["table.svg", "table.png"])
def test_the_same_table_is_the_same_file(name: str) -> None:
    first = picture_from_table(document(), Path(name))
    assert picture_from_table(document(), Path("other") / name) == first


def pixels(table: CalibrationTable) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(picture_from_table(document(table), Path("table.png")))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_a_png_shows_which_method_is_in_use() -> None:
    by_max, by_mse = pixels(TABLE), pixels(replace(TABLE, method=Method.MSE))
    assert by_max.shape == by_mse.shape and min(by_max.shape[:2]) > 100
    # The line of the method in use is thicker.
    red, green, blue = 0, 1, 2
    counts = []
    for image in (by_max.astype(int), by_mse.astype(int)):
        # Lines are smoothed: MSE's green, lighter or darker.
        counts.append(
            int(((image[..., green] > image[..., red] + 15) & (image[..., green] > image[..., blue] + 40)).sum())
        )
    assert counts[1] > counts[0] > 0


def test_a_pdf_is_drawn_and_capitals_are_fine() -> None:
    assert picture_from_table(document(), Path("table.PDF")).startswith(b"%PDF-")


@pytest.mark.parametrize("count", [1, 3, 4])
def test_any_number_of_tensors_is_drawn(count: int) -> None:
    tensors = {f"tensor{index}": TABLE.tensors["pool1"] for index in range(count)}
    text = picture_from_table(document(replace(TABLE, tensors=tensors)), Path("table.svg")).decode()
    assert [f"<!-- tensor{index}  (" in text for index in range(4)] == [index < count for index in range(4)]


@pytest.mark.parametrize(("name", "got"), [("table.jpg", ".jpg"), ("table", "none"), ("table.svg.gz", ".gz")])
def test_another_suffix_is_refused(name: str, got: str) -> None:
    with pytest.raises(InputError, match="suffix") as caught:
        picture_from_table(document(), Path(name))
    assert (caught.value.got, caught.value.expected) == (got, "svg, png, pdf")

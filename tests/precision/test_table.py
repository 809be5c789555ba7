"""A calibration table comes back from its file, refuses what is not one, and gives scales that hold the range."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.precision.table import CalibrationTable, Range

TABLE = CalibrationTable(
    method="max",
    tensors={"input": Range(minimum=-2.5, maximum=1.25), "pool1": Range(minimum=0.0, maximum=1 / 3)},
    graph_sha256="a" * 64,
    preprocessing="b" * 16,
    images=512,
    images_sha256="c" * 64,
)


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    TABLE.write(path)
    assert CalibrationTable.read(path) == TABLE


def test_the_file_shows_a_person_ranges_and_scales(tmp_path: Path) -> None:
    TABLE.write(tmp_path / "calibration.json")
    values = json.loads((tmp_path / "calibration.json").read_text())
    assert values["tensors"]["input"] == {"min": -2.5, "max": 1.25, "scale": 2.5 / 127}
    assert (values["schema"], values["method"], values["images"]) == (1, "max", 512)


def broken(**changes: Any) -> str:
    return json.dumps(TABLE.to_json() | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "null",
        "{}",
        broken(schema=2),
        broken(tensors=[]),
        broken(tensors={"input": {"min": 0}}),
        broken(tensors={"input": {"min": "low", "max": 1}}),
        broken(images="many"),
        json.dumps({key: value for key, value in TABLE.to_json().items() if key != "graph_sha256"}),
    ],
)
def test_what_is_not_a_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"wrong\.json") as caught:
        CalibrationTable.read(path)
    assert caught.value.remedy


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00calibration")
    with pytest.raises(InputError, match=r"binary\.json"):
        CalibrationTable.read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json"):
        CalibrationTable.read(tmp_path / "nothing.json")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError):
        TABLE.write(tmp_path / "file" / "calibration.json")


def test_a_range_is_found_by_name() -> None:
    assert TABLE.range_of("pool1") == Range(minimum=0.0, maximum=1 / 3)


def test_an_unknown_tensor_names_itself_and_what_is_known() -> None:
    with pytest.raises(InputError, match="conv9") as caught:
        TABLE.range_of("conv9")
    assert "input" in str(caught.value.got) and caught.value.remedy


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [(-2.54, 1.0, 0.02), (-1.0, 2.54, 0.02), (0.0, 127.0, 1.0), (-5.08, -1.0, 0.04), (0.0, 0.0, 1.0)],
)
def test_the_symmetric_scale_reaches_the_larger_side(low: float, high: float, scale: float) -> None:
    assert Range(minimum=low, maximum=high).symmetric_scale == pytest.approx(scale, rel=1e-15)


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [
        (0.0, 255.0, 1.0, 0),
        (-127.5, 127.5, 1.0, 128),
        (-255.0, 0.0, 1.0, 255),
        (3.0, 5.1, 0.02, 0),
        (-5.1, -3.0, 0.02, 255),
        (-1.0, 4.1, 0.02, 50),
        (0.0, 0.0, 1.0, 0),
    ],
)
def test_the_affine_scale_covers_the_range_and_zero(low: float, high: float, scale: float, zero: int) -> None:
    got_scale, got_zero = Range(minimum=low, maximum=high).affine
    assert got_scale == pytest.approx(scale, rel=1e-15)
    assert got_zero == zero


FINITE = st.floats(-1e30, 1e30).filter(lambda value: value == 0 or abs(value) > 1e-30)


@given(FINITE, FINITE)
def test_every_range_is_held_to_half_a_step(one: float, other: float) -> None:
    found = Range(minimum=min(one, other), maximum=max(one, other))
    scale, zero = found.affine
    assert scale > 0 and 0 <= zero <= 255
    for value in (found.minimum, found.maximum, 0.0):
        # The zero point is rounded, so that an end may lie half a step outside.
        assert -zero * scale - 0.5001 * scale <= value <= (255 - zero) * scale + 0.5001 * scale
    symmetric = found.symmetric_scale
    assert symmetric > 0
    assert math.isclose(127 * symmetric, max(abs(one), abs(other)), rel_tol=1e-12) or one == other == 0

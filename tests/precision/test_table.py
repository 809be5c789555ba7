"""A calibration table comes back from its file, refuses what is not one, and gives scales that hold the range."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.table import CalibrationTable, Observed, Range, observed
from alexnet_deploy.precision.thresholds import Method, threshold


def counted(*values: float) -> Histogram:
    histogram = Histogram()
    histogram.add(np.asarray(values, np.float32))
    return histogram


def noise(scale: float, *, seed: int) -> Histogram:
    return counted(*np.random.default_rng(seed).laplace(0, scale, 5000))


# Thresholds that tell the methods apart at a glance.
BY_HAND = Observed(
    histogram=counted(-2.5, 1.25),
    thresholds={Method.MAX: 2.5, Method.PERCENTILE: 2.0, Method.ENTROPY: 1.0, Method.MSE: 0.5},
)
TABLE = CalibrationTable(
    method=Method.MAX,
    percentile=99.9,
    tensors={"input": BY_HAND, "pool1": observed(noise(1 / 3, seed=1), 99.9), "never": observed(counted(0.0), 99.9)},
    graph_sha256="a" * 64,
    preprocessing="b" * 16,
    images=("c" * 64, "d" * 64, "e" * 64),
)


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    TABLE.write(path)
    back = CalibrationTable.read(path)
    assert back == TABLE
    back.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    for name, found in TABLE.tensors.items():
        np.testing.assert_array_equal(back.tensors[name].histogram.positive, found.histogram.positive)
        np.testing.assert_array_equal(back.tensors[name].histogram.negative, found.histogram.negative)
        assert back.tensors[name].thresholds == found.thresholds


@pytest.mark.parametrize(
    "change",
    [
        {"method": Method.MSE},
        {"percentile": 99.0},
        {"graph_sha256": "f" * 64},
        {"preprocessing": "f" * 16},
        {"images": ("c" * 64,)},
        {"tensors": {**TABLE.tensors, "input": observed(counted(-2.5, 1.26), 99.9)}},
        {"tensors": {**TABLE.tensors, "input": dataclasses.replace(BY_HAND, thresholds=dict.fromkeys(Method, 1.0))}},
    ],
)
def test_every_part_is_kept_and_compared(tmp_path: Path, change: dict[str, Any]) -> None:
    other = dataclasses.replace(TABLE, **change)
    assert other != TABLE
    other.write(tmp_path / "other.json")
    assert CalibrationTable.read(tmp_path / "other.json") == other


def test_the_file_shows_a_person_ranges_thresholds_and_scales(tmp_path: Path) -> None:
    TABLE.write(tmp_path / "calibration.json")
    values = json.loads((tmp_path / "calibration.json").read_text())
    shown = values["tensors"]["input"]
    assert (shown["min"], shown["max"]) == (-2.5, 1.25)
    assert shown["thresholds"] == {"max": 2.5, "percentile": 2.0, "entropy": 1.0, "mse": 0.5}
    assert shown["scales"] == {"max": 2.5 / 127, "percentile": 2.0 / 127, "entropy": 1.0 / 127, "mse": 0.5 / 127}
    assert shown["histogram"] == BY_HAND.histogram.to_json()
    assert values["tensors"]["never"]["scales"] == dict.fromkeys(Method, 1.0)
    assert (values["schema"], values["method"], values["percentile"], values["images"]) == (2, "max", 99.9, 3)
    assert values["images_sha256"] == ["c" * 64, "d" * 64, "e" * 64]


def broken(**changes: Any) -> str:
    return json.dumps(TABLE.to_json() | changes)


def with_input(**changes: Any) -> str:
    return broken(tensors={"input": BY_HAND.to_json() | changes})


def without(key: str) -> str:
    return json.dumps({name: value for name, value in TABLE.to_json().items() if name != key})


WRONG = {
    "empty": "",
    "no-json": "not json",
    "list": "[]",
    "null": "null",
    "nothing-in-it": "{}",
    "later-schema": broken(schema=3),
    "tensors-list": broken(tensors=[]),
    "tensor-list": broken(tensors={"input": []}),
    "range-alone": broken(tensors={"input": {"min": 0, "max": 1}}),
    "word-for-a-number": with_input(min="low"),
    "infinite-minimum": with_input(min=-math.inf),
    "maximum-not-a-number": with_input(max=math.nan),
    "three-thresholds": with_input(thresholds={"max": 1.0, "percentile": 1.0, "mse": 1.0}),
    "infinite-threshold": with_input(thresholds=dict.fromkeys(Method, math.inf)),
    "threshold-not-a-number": with_input(thresholds=dict.fromkeys(Method, math.nan)),
    "no-histogram": with_input(histogram=None),
    "histogram-of-another-width": with_input(histogram=BY_HAND.histogram.to_json() | {"exponent": 3}),
    "histogram-of-no-width": with_input(histogram=BY_HAND.histogram.to_json() | {"exponent": 10**30}),
    "histogram-of-others": with_input(histogram=BY_HAND.histogram.to_json() | {"sha256": counted(1.0).digest}),
    "unknown-method": broken(method="median"),
    "word-for-a-percentile": broken(percentile="most"),
    "number-for-the-images": broken(images_sha256=512),
    **{f"no-{key}": without(key) for key in TABLE.to_json() if key not in ("images", "schema")},
    "no-schema": without("schema"),
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_what_is_not_a_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"wrong\.json") as caught:
        CalibrationTable.read(path)
    assert caught.value.remedy


def test_a_table_of_the_schema_before_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(
        json.dumps(
            {
                "schema": 1,
                "method": "max",
                "graph_sha256": "a" * 64,
                "preprocessing": "b" * 16,
                "images": 512,
                "images_sha256": "c" * 64,
                "tensors": {"input": {"min": -2.5, "max": 1.25, "scale": 2.5 / 127}},
            }
        )
    )
    with pytest.raises(InputError, match=r"old\.json") as caught:
        CalibrationTable.read(tmp_path / "old.json")
    assert "schema 1" in str(caught.value.got) and "2" in str(caught.value.got)
    assert caught.value.remedy and "alexnet-deploy calibrate" in caught.value.remedy


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


@pytest.mark.parametrize(
    ("method", "minimum", "maximum"),
    [(Method.MAX, -2.5, 1.25), (Method.PERCENTILE, -2.0, 1.25), (Method.ENTROPY, -1.0, 1.0), (Method.MSE, -0.5, 0.5)],
)
def test_a_range_is_what_was_seen_cut_off_at_the_methods_threshold(
    method: Method, minimum: float, maximum: float
) -> None:
    table = TABLE.by_method(method)
    assert (table.method, TABLE.method) == (method, Method.MAX)
    found = table.range_of("input")
    assert found == Range(minimum=minimum, maximum=maximum)
    assert found.symmetric_scale == BY_HAND.thresholds[method] / 127
    assert found.affine[0] == pytest.approx((maximum - minimum) / 255, rel=1e-15)
    assert dataclasses.replace(table, method=Method.MAX) == TABLE


def test_no_method_is_the_tables_own() -> None:
    table = dataclasses.replace(TABLE, method=Method.ENTROPY)
    assert table.by_method(None) == table
    assert TABLE.by_method(Method.MAX, 99.9) == TABLE


def test_another_percentile_changes_that_method_alone() -> None:
    table = TABLE.by_method(Method.PERCENTILE, 80.0)
    assert (table.method, table.percentile) == (Method.PERCENTILE, 80.0)
    before, after = TABLE.tensors["pool1"], table.tensors["pool1"]
    assert after.thresholds[Method.PERCENTILE] == threshold(before.histogram, Method.PERCENTILE, 80.0)
    assert after.thresholds[Method.PERCENTILE] < before.thresholds[Method.PERCENTILE]
    for method in set(Method) - {Method.PERCENTILE}:
        assert after.thresholds[method] == before.thresholds[method]
    assert after.histogram == before.histogram
    assert table.range_of("pool1").maximum == after.thresholds[Method.PERCENTILE]


@pytest.mark.parametrize("percentile", [0.0, -1.0, 101.0, math.nan])
def test_what_is_no_percentile_is_refused(percentile: float) -> None:
    with pytest.raises(InputError, match="percentile"):
        TABLE.by_method(Method.PERCENTILE, percentile)


def test_thresholds_of_one_histogram_are_those_of_the_methods() -> None:
    histogram = noise(2.0, seed=5)
    assert observed(histogram, 98.0).thresholds == {m: threshold(histogram, m, 98.0) for m in Method}


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


@given(
    st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=1, max_size=40),
    st.sampled_from(Method),
    st.floats(1e-3, 100.0),
)
@settings(deadline=None, max_examples=30)
def test_a_range_by_any_method_is_inside_what_was_seen_and_reaches_the_threshold(
    values: list[float], method: Method, percentile: float
) -> None:
    found = observed(counted(*values), percentile)
    limit, cut = found.thresholds[method], found.range_by(method)
    assert found.histogram.minimum <= cut.minimum <= cut.maximum <= found.histogram.maximum
    assert cut.symmetric_scale == (limit / 127 or 1.0)

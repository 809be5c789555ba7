"""The cache is the text that TensorRT's calibrators read: a header, then names and big-endian hexadecimal scales."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import pytest

from alexnet_deploy.precision.table import CalibrationTable, observed
from alexnet_deploy.precision.tensorrt_cache import DEFAULT_VERSION, cache_from_table
from alexnet_deploy.precision.thresholds import Method
from tests.graphs import small_table
from tests.precision.test_table import BY_HAND, TABLE, counted


def test_scales_are_the_digits_of_a_big_endian_float() -> None:
    # 127 steps of one, of a half and of two; 1 for what is always zero.
    values = {"one": 127.0, "half": -63.5, "two": 254.0, "never": 0.0}
    table = replace(TABLE, tensors={name: observed(counted(0.0, value), 99.9) for name, value in values.items()})
    assert cache_from_table(table) == (
        "TRT-8601-EntropyCalibration2\none: 3f800000\nhalf: 3f000000\ntwo: 40000000\nnever: 3f800000\n"
    )


def test_the_header_names_the_version() -> None:
    assert DEFAULT_VERSION == "8601"
    assert cache_from_table(TABLE).split("\n")[0] == "TRT-8601-EntropyCalibration2"
    assert cache_from_table(TABLE, "100300").split("\n")[0] == "TRT-100300-EntropyCalibration2"
    assert cache_from_table(TABLE).split("\n")[1:] == cache_from_table(TABLE, "100300").split("\n")[1:]


def read(text: str) -> dict[str, float]:
    """Scales by name, read as a calibrator does."""
    _, *lines = text.removesuffix("\n").split("\n")
    pairs = [line.split(": ") for line in lines]
    return {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, digits in pairs}


def test_every_tensor_of_a_real_table_is_there() -> None:
    table = small_table()
    found = read(cache_from_table(table))
    assert list(found) == list(table.tensors) and "input" in found
    for name, scale in found.items():
        assert math.isclose(scale, table.range_of(name).symmetric_scale, rel_tol=1e-7)


@pytest.mark.parametrize(
    ("method", "limit"), [(Method.MAX, 2.5), (Method.PERCENTILE, 2.0), (Method.ENTROPY, 1.0), (Method.MSE, 0.5)]
)
def test_scales_are_those_of_the_tables_method(method: Method, limit: float) -> None:
    table: CalibrationTable = replace(TABLE, method=method, tensors={"x": BY_HAND})
    assert read(cache_from_table(table))["x"] == pytest.approx(limit / 127, rel=1e-7)

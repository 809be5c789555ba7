"""TensorRT's calibration cache holds each scale as the digits of a big-endian FP32, by the table's method."""

from __future__ import annotations

import struct

import pytest

from alexnet_deploy.precision.tensorrt_cache import cache_from_table
from alexnet_deploy.precision.thresholds import Method
from tests.graphs import small_table


@pytest.mark.parametrize("method", Method)
def test_every_tensor_has_its_scale(method: Method) -> None:
    table = small_table().by_method(method)
    head, *lines = cache_from_table(table).splitlines()
    assert head == "TRT-8601-EntropyCalibration2"
    found = {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, digits in (x.split(": ") for x in lines)}
    assert list(found) == list(table.tensors)
    for name, scale in found.items():
        assert scale == pytest.approx(table.range_of(name).symmetric_scale, rel=1e-7)


def test_the_version_is_the_readers() -> None:
    assert cache_from_table(small_table(), "100300").startswith("TRT-100300-")

"""Ranges of channels are NumPy's over all images, in whatever parts and order they came, and survive a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.precision.channels import ChannelRanges
from alexnet_deploy.precision.histogram import Histogram


def activation(seed: int, images: int = 6) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(images, 5, 3, 2)).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.permutations(range(6)), st.lists(st.integers(1, 5), max_size=3))
def test_parts_in_any_order_are_the_whole(seed: int, order: list[int], cuts: list[int]) -> None:
    values = activation(seed)
    parts = [ChannelRanges.of(part, 1) for part in np.split(values[order], sorted(set(cuts)))]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    np.testing.assert_array_equal(merged.minima, values.min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(merged.maxima, values.max(axis=(0, 2, 3)))
    np.testing.assert_array_equal(merged.magnitudes, np.abs(values).max(axis=(0, 2, 3)))
    assert merged == ChannelRanges.of(values, 1)


@pytest.mark.parametrize(("shape", "axis"), [((4, 7), -1), ((4, 7), 1), ((4, 3, 7), -1), ((4, 7, 3), 1)])
def test_the_axis_says_where_the_channels_are(shape: tuple[int, ...], axis: int) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    others = tuple(index for index in range(len(shape)) if index != axis % len(shape))
    np.testing.assert_array_equal(ChannelRanges.of(values, axis).maxima, values.max(axis=others))


def test_a_channel_of_one_value_is_constant() -> None:
    values = activation(0)
    values[:, 1], values[:, 3] = 0, 2.5
    assert ChannelRanges.of(values, 1).constant.tolist() == [False, True, False, True, False]


def test_both_zeros_are_one() -> None:
    plus, minus = (ChannelRanges.of(np.full((1, 2), zero, np.float32), 1) for zero in (0.0, -0.0))
    assert plus.to_json() == minus.to_json() == plus.merged(minus).to_json() == minus.merged(plus).to_json()


def counted(values: NDArray[np.float32], *, known: bool = True) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    histogram.channels = ChannelRanges.of(values, 1) if known else None
    return histogram


def test_a_histogram_carries_them_through_merging_and_its_file() -> None:
    first, second = activation(0), activation(1)
    merged = Histogram().merged(counted(first)).merged(counted(second))
    assert merged.channels == ChannelRanges.of(np.concatenate([first, second]), 1)
    read = Histogram.from_json(merged.to_json(), merged.minimum, merged.maximum)
    assert read == merged and read.channels == merged.channels


def test_ranges_that_are_known_of_a_part_are_not_known() -> None:
    known, unknown = counted(activation(0)), counted(activation(1), known=False)
    assert known.merged(unknown).channels is None
    assert unknown.merged(known).channels is None
    assert known != counted(activation(0), known=False)
    assert "channels" not in unknown.to_json()


def swapped(values: dict[str, Any]) -> dict[str, Any]:
    return {"minima": values["maxima"], "maxima": values["minima"]}


def of_others(values: dict[str, Any]) -> dict[str, Any]:
    return ChannelRanges.of(activation(1), 1).to_json()


def one_short(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"minima": ChannelRanges.of(activation(0)[:, :4], 1).to_json()["minima"]}


def cut(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"maxima": values["maxima"][:-8]}


def empty(values: dict[str, Any]) -> dict[str, Any]:
    nothing = np.zeros(0, np.float32)
    return ChannelRanges(minima=nothing, maxima=nothing).to_json()


def not_a_number(values: dict[str, Any]) -> dict[str, Any]:
    return ChannelRanges(minima=np.full(5, np.nan, np.float32), maxima=np.full(5, np.nan, np.float32)).to_json()


@pytest.mark.parametrize("damage", [swapped, of_others, one_short, cut, empty, not_a_number])
def test_damaged_ranges_are_refused(damage: Any) -> None:
    histogram = counted(activation(0))
    written = histogram.to_json()
    with pytest.raises(ValueError, match="channels"):
        Histogram.from_json(written | {"channels": damage(written["channels"])}, histogram.minimum, histogram.maximum)

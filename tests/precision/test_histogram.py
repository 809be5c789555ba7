"""Counts are numpy's own, and the same for the same values, however these are ordered, split and merged."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.precision.histogram import BINS, Histogram

SMALLEST_EXPONENT = -120
LARGEST = float(np.finfo(np.float32).max)
DENORMAL = float(np.finfo(np.float32).smallest_subnormal)


def floats(*values: float) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def counted(*parts: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def merged(*parts: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram = histogram.merged(counted(part))
    return histogram


def everything(histogram: Histogram) -> str:
    """All that a table writes of it; as text, in which the two zeros differ."""
    return json.dumps([histogram.to_json(), histogram.minimum, histogram.maximum])


def assert_counts(histogram: Histogram, values: NDArray[np.float32]) -> None:
    """Width, counts and range against numpy in double precision, where all of it is exact."""
    wide = values.astype(np.float64).ravel()
    exponent = SMALLEST_EXPONENT
    while np.abs(wide).max() >= math.ldexp(BINS, exponent):
        exponent += 1
    assert histogram.exponent == exponent
    edges = np.arange(BINS + 1) * math.ldexp(1.0, exponent)
    np.testing.assert_array_equal(histogram.positive, np.histogram(wide[wide >= 0], edges)[0])
    np.testing.assert_array_equal(histogram.negative, np.histogram(-wide[wide < 0], edges)[0])
    np.testing.assert_array_equal(histogram.magnitudes, np.histogram(np.abs(wide), edges)[0])
    assert (histogram.minimum, histogram.maximum) == (wide.min(), wide.max())


@st.composite
def near_edges(draw: st.DrawFn) -> float:
    """An edge of a bin of some width, or one of its two neighbours."""
    edge = np.float32(math.ldexp(draw(st.integers(-BINS, BINS)), draw(st.integers(SMALLEST_EXPONENT, 115))))
    towards = draw(st.sampled_from([-np.inf, float(edge), np.inf]))
    return float(np.clip(np.nextafter(edge, np.float32(towards)), -LARGEST, LARGEST))


VALUE = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-1, 1, width=32),
    st.integers(-149, 127).map(lambda exponent: math.ldexp(1.0, exponent)),
    st.integers(-149, 127).map(lambda exponent: -math.ldexp(1.0, exponent)),
    near_edges(),
    st.sampled_from([0.0, -0.0, DENORMAL, -DENORMAL, 1e-40, -1e-40, 1e30, -1e30, 1e-30, -1e-30, LARGEST, -LARGEST]),
)
VALUES = st.lists(VALUE, min_size=1, max_size=60).map(lambda values: floats(*values))

CASES: dict[str, Sequence[float]] = {
    "zero": [0.0],
    "minus-zero": [-0.0],
    "both-zeros": [0.0, -0.0, 0.0],
    "one": [1.0],
    "minus-one": [-1.0],
    "negative-only": [-3.0, -1e-3, -7.25],
    "powers-of-two": [math.ldexp(1.0, exponent) for exponent in range(-149, 128)],
    "negative-powers-of-two": [-math.ldexp(1.0, exponent) for exponent in range(-149, 128)],
    "all-edges": [float(index) for index in range(-BINS + 1, BINS)],
    "just-below-the-span": [math.nextafter(4096.0, 0.0) - 2**-12],
    "the-span-itself": [4096.0],
    "denormals": [DENORMAL, -DENORMAL, 1e-40, -1e-42],
    "smaller-than-the-smallest-bin": [1e-37, -1e-38],
    "large-then-small": [1e30, 1e-30, -1e-30],
    "small-then-large": [-1e-30, 1e-30, 1e30],
    "largest": [LARGEST, -LARGEST, DENORMAL, -DENORMAL],
}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_the_counts_are_numpys_at_the_edges(values: Sequence[float]) -> None:
    array = floats(*values)
    assert_counts(counted(array), array)
    one_by_one = [array[index : index + 1] for index in range(len(array))]
    assert everything(counted(*one_by_one)) == everything(counted(array))
    assert everything(counted(*one_by_one[::-1])) == everything(counted(array))
    assert everything(merged(*one_by_one)) == everything(counted(array))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 7.3, 1e30])
@pytest.mark.parametrize("shift", [-100.0, 0.0, 0.5])
def test_the_counts_are_numpys_over_noise(scale: float, shift: float) -> None:
    noise = np.random.default_rng(3).standard_normal((20, 7, 11, 13))
    array = ((noise + shift) * scale).astype(np.float32)
    assert_counts(counted(array), array)
    assert_counts(merged(*array), array)
    assert int(counted(array).magnitudes.sum()) == array.size


@given(VALUES)
@settings(deadline=None)
def test_the_counts_are_numpys(values: NDArray[np.float32]) -> None:
    assert_counts(counted(values), values)


@given(VALUES, st.randoms(use_true_random=False), st.lists(st.integers(0, 60), max_size=6))
@settings(deadline=None)
def test_order_and_split_do_not_matter(values: NDArray[np.float32], random: Any, cuts: list[int]) -> None:
    whole = counted(values)
    order = list(range(len(values)))
    random.shuffle(order)
    parts = np.split(values[order], sorted(min(cut, len(values)) for cut in cuts))
    assert everything(counted(*parts)) == everything(whole)
    assert everything(merged(*parts)) == everything(whole)
    assert counted(*parts) == whole


@given(VALUES, VALUES, VALUES)
@settings(deadline=None)
def test_merging_is_the_same_from_either_side_and_changes_neither(
    one: NDArray[np.float32], other: NDArray[np.float32], third: NDArray[np.float32]
) -> None:
    a, b, c = counted(one), counted(other), counted(third)
    before = [everything(h) for h in (a, b, c)]
    left, right = a.merged(b).merged(c), c.merged(b.merged(a))
    assert [everything(h) for h in (a, b, c)] == before
    assert everything(left) == everything(right) == everything(counted(one, other, third))
    left.add(floats(1.0))
    assert [everything(h) for h in (a, b, c)] == before


@given(VALUES)
@settings(deadline=None)
def test_the_largest_value_lies_in_the_upper_half_of_the_bins(values: NDArray[np.float32]) -> None:
    histogram = counted(values)
    last = int(np.flatnonzero(histogram.magnitudes).max())
    assert last >= BINS // 2 or histogram.exponent == SMALLEST_EXPONENT
    assert last * histogram.width <= np.abs(values.astype(np.float64)).max() < (last + 1) * histogram.width


def test_a_value_that_shrinks_to_nothing_keeps_its_sign() -> None:
    histogram = counted(floats(1e30, -1e-30, 1e-30, 0.0))
    assert (histogram.negative[0], histogram.positive[0]) == (1, 2)


def test_the_shape_and_the_layout_of_the_values_do_not_matter() -> None:
    array = np.random.default_rng(0).standard_normal((6, 5, 4)).astype(np.float32)
    assert counted(array[::-1, :, ::2], array[:, :, 1::2]) == counted(array)


def test_no_values_count_nothing() -> None:
    empty = counted(floats())
    assert empty == Histogram() and not empty.magnitudes.any()
    assert (empty.minimum, empty.maximum) == (math.inf, -math.inf)
    assert everything(empty.merged(counted(floats(-2.0, 5.0)))) == everything(counted(floats(-2.0, 5.0)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused_and_leaves_no_trace(value: float) -> None:
    histogram = counted(floats(1.0, -2.0))
    before = everything(histogram)
    with pytest.raises(ValueError, match="values from"):
        histogram.add(floats(5000.0, value, 2.0))
    assert everything(histogram) == before


def test_counts_are_integers_that_do_not_round() -> None:
    histogram = counted(floats(1.0))
    for _ in range(55):
        histogram = histogram.merged(histogram)
    assert int(histogram.magnitudes.sum()) == 2**55
    assert int(histogram.merged(counted(floats(1.0))).magnitudes.sum()) == 2**55 + 1


@pytest.mark.parametrize(
    "other",
    [floats(1.0, 2.5, -1.0), floats(1.0, 2.0), floats(1.0, 2.0, 1.0), floats(1.0, 2.0000002, -1.0), floats(4096.0)],
)
def test_histograms_of_other_values_differ(other: NDArray[np.float32]) -> None:
    assert counted(floats(1.0, 2.0, -1.0)) != counted(other)
    assert counted(other) != "a histogram"


@given(VALUES)
@settings(deadline=None)
def test_a_histogram_comes_back_from_json(values: NDArray[np.float32]) -> None:
    histogram = counted(values)
    document = json.loads(json.dumps(histogram.to_json(), allow_nan=False))
    back = Histogram.from_json(document, histogram.minimum, histogram.maximum)
    assert everything(back) == everything(histogram)
    more = floats(0.25, -4097.0)
    back.add(more)
    assert everything(back) == everything(counted(values, more))


def packed(counts: NDArray[np.int64]) -> str:
    return base64.b64encode(zlib.compress(counts.astype("<i8").tobytes())).decode()


def sides(histogram: Histogram) -> NDArray[np.int64]:
    return np.concatenate([histogram.negative, histogram.positive])


SAMPLE = counted(floats(-3.0, 0.0, 1.0, 1.5, 2.0))
GOOD = SAMPLE.to_json()
DAMAGE: dict[str, dict[str, Any]] = {
    "width": {"exponent": GOOD["exponent"] + 1},
    "absurd-width": {"exponent": 10**30},
    "infinite-width": {"exponent": math.inf},
    "no-width": {"exponent": None},
    "word-for-a-width": {"exponent": "wide"},
    "hash": {"sha256": "0" * 64},
    "no-hash": {"sha256": None},
    "one-more": {"counts": packed(sides(SAMPLE) + (np.arange(2 * BINS) == 5000))},
    "sides-exchanged": {"counts": packed(np.roll(sides(SAMPLE), BINS))},
    "moved": {"counts": packed(np.roll(sides(SAMPLE), 1))},
    "too-few": {"counts": packed(sides(SAMPLE)[:-1])},
    "too-many": {"counts": packed(np.concatenate([sides(SAMPLE), [0]]))},
    "none": {"counts": packed(np.zeros(0, np.int64))},
    "below-zero": {"counts": packed(-sides(SAMPLE))},
    "half-a-count": {"counts": base64.b64encode(zlib.compress(b"12345")).decode()},
    "cut-short": {"counts": GOOD["counts"][:-8]},
    "not-base64": {"counts": "?"},
    "not-text": {"counts": 7},
    "not-compressed": {"counts": base64.b64encode(b"plain").decode()},
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_histogram_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"histogram|base64|padding|invalid|buffer"):
        Histogram.from_json(GOOD | change, SAMPLE.minimum, SAMPLE.maximum)


@given(st.integers(0, len(GOOD["counts"]) - 1), st.sampled_from("ABCDabcd0189+/"))
@settings(deadline=None)
def test_any_other_letter_in_the_counts_is_noticed(place: int, letter: str) -> None:
    text = GOOD["counts"]
    changed = text[:place] + letter + text[place + 1 :]
    try:
        found = Histogram.from_json(GOOD | {"counts": changed}, SAMPLE.minimum, SAMPLE.maximum)
    except ValueError:
        return
    # The letter was there already, or stands where base64 and zlib keep no information.
    assert found == SAMPLE

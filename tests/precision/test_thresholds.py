"""Each method's threshold is what its definition gives when it is worked out from the values another way."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.precision.histogram import BINS, Histogram
from alexnet_deploy.precision.thresholds import DEFAULT_PERCENTILE, Method, threshold

LEVELS = 128
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "normal": lambda random: random.standard_normal(40_000),
    "laplace": lambda random: random.laplace(0, 3, 40_000),
    "relu": lambda random: np.maximum(random.standard_normal(40_000), 0),
    "uniform": lambda random: random.uniform(-1, 1, 40_000),
    "negative-only": lambda random: -random.gamma(2.0, 1.0, 40_000),
    "lognormal": lambda random: random.lognormal(0, 1, 40_000),
    "student": lambda random: random.standard_t(3, 40_000),
    "outliers": lambda random: np.append(random.standard_normal(40_000), [60.0, -58.5]),
    "far-outlier": lambda random: np.append(random.laplace(0, 0.2, 400_000), [20.0]),
    "whole-numbers": lambda random: random.poisson(9.0, 40_000).astype(np.float64),
    "two-bumps": lambda random: np.concatenate([random.normal(1, 0.1, 20_000), random.normal(30, 0.5, 2_000)]),
    "sparse": lambda random: random.lognormal(0, 1.5, 300),
}


@cache
def sample(name: str) -> NDArray[np.float32]:
    return DISTRIBUTIONS[name](np.random.default_rng(11)).astype(np.float32)


def counted(values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


def largest_of(values: NDArray[np.float32]) -> float:
    return float(np.abs(values.astype(np.float64)).max())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_max_is_the_largest_magnitude_to_the_last_digit(name: str) -> None:
    assert threshold(counted(sample(name)), Method.MAX) == largest_of(sample(name))


@pytest.mark.parametrize("percentile", [1.0, 50.0, 99.0, 99.9, 99.99, 99.9973])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_percentile_is_numpys_within_a_bin(name: str, percentile: float) -> None:
    histogram, magnitudes = counted(sample(name)), np.abs(sample(name).astype(np.float64))
    found = threshold(histogram, Method.PERCENTILE, percentile)
    # Between two values that are far apart every number is a percentile.
    low, high = (float(np.percentile(magnitudes, percentile, method=m)) for m in ("lower", "higher"))
    assert low - histogram.width <= found <= high + histogram.width


MAGNITUDES = st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=60)


@given(MAGNITUDES, st.integers(1, 10_000))
@settings(deadline=None)
def test_the_percentile_is_the_bin_that_holds_that_share(values: list[float], hundredths: int) -> None:
    array = np.asarray(values, np.float32)
    histogram, ordered = counted(array), sorted(np.abs(array.astype(np.float64)))
    rank = math.ceil(len(ordered) * Fraction(hundredths, 10_000))
    value = ordered[rank - 1]
    edge = (math.floor(value / histogram.width) + 1) * histogram.width
    assert threshold(histogram, Method.PERCENTILE, hundredths / 100) == min(edge, ordered[-1])


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_all_of_a_hundred_is_the_largest_seen(name: str) -> None:
    assert threshold(counted(sample(name)), Method.PERCENTILE, 100.0) == largest_of(sample(name))


def test_the_smallest_percentile_still_holds_a_value() -> None:
    assert threshold(counted(np.asarray([5.0, 10.0], np.float32)), Method.PERCENTILE, 1e-9) == pytest.approx(
        5.0, abs=2**-8
    )


def test_a_larger_percentile_is_no_smaller_threshold() -> None:
    histogram = counted(sample("lognormal"))
    found = [threshold(histogram, Method.PERCENTILE, percentile) for percentile in np.linspace(0.5, 100, 200)]
    assert found == sorted(found) and found[0] < found[-1]


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.000001, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("values", [[0.0], [1.0, -2.0]], ids=["zero", "values"])
def test_what_is_no_percentile_is_refused(values: list[float], percentile: float, method: Method) -> None:
    with pytest.raises(InputError, match="no such percentile") as caught:
        threshold(counted(np.asarray(values, np.float32)), method, percentile)
    assert caught.value.expected and str(caught.value.got) == str(percentile)


def squared_error(values: NDArray[np.float64], limit: float) -> float:
    """Of INT8 with 127 steps on each side, over the values themselves."""
    step = limit / 127
    return float(np.square(np.clip(np.rint(values / step), -127, 127) * step - values).mean())


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if name != "whole-numbers"])
def test_mse_loses_no_more_than_the_best_of_many_thresholds(name: str) -> None:
    values = sample(name).astype(np.float64)
    found = threshold(counted(sample(name)), Method.MSE)
    best = min(squared_error(values, limit) for limit in np.linspace(0.04, 1.0, 301) * largest_of(sample(name)))
    assert squared_error(values, found) <= 1.01 * best


def test_mse_of_a_few_distinct_values_is_the_best_but_for_a_bin() -> None:
    histogram, values = counted(sample("whole-numbers")), sample("whole-numbers").astype(np.float64)
    found = threshold(histogram, Method.MSE)
    # The distance to the nearest step changes by no more than the value does: half a bin for it, and for the best.
    best = min(squared_error(values, limit) for limit in np.linspace(0.05, 1.0, 256) * values.max())
    assert math.sqrt(squared_error(values, found)) <= math.sqrt(best) + histogram.width


def test_mse_cuts_off_a_lonely_outlier_and_keeps_an_even_spread() -> None:
    assert threshold(counted(sample("far-outlier")), Method.MSE) < 0.5 * largest_of(sample("far-outlier"))
    assert threshold(counted(sample("uniform")), Method.MSE) > 0.98 * largest_of(sample("uniform"))


def divergence(counts: list[int], bins: int) -> float:
    """Kullback-Leibler divergence of 128 levels over the first `bins` bins from what they stand for, bin by bin."""
    kept, outliers = counts[:bins], sum(counts[bins:])
    merged = [0.0] * bins
    for level in range(LEVELS):
        places = [index for index in range(level * bins // LEVELS, (level + 1) * bins // LEVELS) if kept[index]]
        mass = sum(kept[index] for index in places)
        for index in places:
            merged[index] = mass / len(places)
    reference = [float(count) for count in kept]
    reference[-1] += outliers
    sums = sum(reference), sum(merged)
    total = 0.0
    for p, q in zip(reference, merged, strict=True):
        if p and not q:
            return math.inf
        if p:
            total += p / sums[0] * math.log((p / sums[0]) / (q / sums[1]))
    return total


def assert_least_divergent(histogram: Histogram, stride: int) -> None:
    fine = histogram.magnitudes.tolist()
    # TensorRT's number of bins, half of ours, and the one at zero left out.
    counts = [0, *(fine[at] + fine[at + 1] for at in range(2, len(fine), 2))]
    last = max(index for index, count in enumerate(counts) if count) + 1
    limit = threshold(histogram, Method.ENTROPY)
    # The upper edge of a bin, but for the last one, where it is the largest value.
    found = last if limit == max(-histogram.minimum, histogram.maximum) else int(limit / (2 * histogram.width))
    assert LEVELS <= found <= last
    near = range(max(LEVELS, found - 4), min(last, found + 4) + 1)
    by_bins = {bins: divergence(counts, bins) for bins in sorted({*range(LEVELS, last, stride), *near, last})}
    assert by_bins[found] <= min(by_bins.values()) + 1e-12


def test_entropy_takes_the_largest_of_thresholds_that_lose_nothing() -> None:
    # The first bin with a value in it alone, all others its outliers, loses as little as all bins do: nothing.
    values = np.asarray([0.25, 0.5, 1.0], np.float32)
    assert threshold(counted(values), Method.ENTROPY) == 1.0


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_entropy_keeps_the_bins_of_the_least_divergence(name: str) -> None:
    assert_least_divergent(counted(sample(name)), 83)


def test_entropy_tries_every_number_of_bins() -> None:
    random = np.random.default_rng(2)
    # Just above a power of two, so that there are as few bins as there can be.
    values = np.append(np.abs(random.standard_normal(500)) / 8, [1.001, 0.9]).astype(np.float32)
    assert_least_divergent(counted(values), 1)


@given(arrays.arrays(np.float32, st.integers(1, 30), elements=st.floats(-8, 8, width=32)))
@settings(deadline=None, max_examples=8)
def test_entropy_keeps_the_least_divergence_of_a_few_values(values: NDArray[np.float32]) -> None:
    histogram = counted(values)
    if largest_of(values) > 1e-30:
        assert_least_divergent(histogram, 61)


def test_entropy_leaves_zeros_out() -> None:
    values = sample("laplace")
    dense = threshold(counted(values), Method.ENTROPY)
    assert threshold(counted(np.concatenate([values, np.zeros(10**6, np.float32)])), Method.ENTROPY) == dense


def test_entropy_cuts_off_lonely_outliers() -> None:
    assert threshold(counted(sample("outliers")), Method.ENTROPY) < 0.2 * largest_of(sample("outliers"))


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("values", [[], [0.0], [0.0, -0.0] * 50], ids=["none", "one-zero", "zeros"])
def test_a_tensor_that_is_always_zero_has_no_threshold(values: list[float], method: Method) -> None:
    assert threshold(counted(np.asarray(values, np.float32)), method) == 0.0


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("value", [1.0, -1.0, 0.1, -7.3, 4096.0, 3e38, -1e-30, 2.0**-110, 2.0**-119])
def test_a_tensor_of_one_value_is_cut_off_there(value: float, method: Method) -> None:
    array = np.full(100, value, np.float32)
    assert threshold(counted(array), method) == largest_of(array)


@pytest.mark.parametrize("method", [Method.MAX, Method.ENTROPY, Method.MSE])
def test_one_value_among_zeros_is_cut_off_there(method: Method) -> None:
    array = np.append(np.zeros(10_000, np.float32), np.float32(2.7))
    assert threshold(counted(array), method) == largest_of(array)


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_threshold_scales_with_the_values(name: str, method: Method) -> None:
    histogram, doubled = counted(sample(name)), counted(-32 * sample(name))
    assert threshold(doubled, method) == 32 * threshold(histogram, method)


ANY = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1e-45, -1e-40, 1e30, 1e-30, 3e38, 2.0**-108, 2.0**-109, 1.0]),
)


@given(st.lists(ANY, min_size=1, max_size=40), st.sampled_from(Method), st.floats(1e-9, 100.0))
@settings(deadline=None, max_examples=30)
def test_a_threshold_is_above_zero_and_not_above_the_largest(
    values: list[float], method: Method, percentile: float
) -> None:
    array = np.asarray(values, np.float32)
    found = threshold(counted(array), method, percentile)
    assert found <= largest_of(array)
    assert (found > 0) == bool(array.any())


def test_the_percentile_matters_to_its_own_method_only() -> None:
    histogram = counted(sample("normal"))
    for method in Method:
        same = threshold(histogram, method, 50.0) == threshold(histogram, method, DEFAULT_PERCENTILE)
        assert same == (method is not Method.PERCENTILE)


def test_the_span_has_as_many_bins_as_tensorrts_at_least() -> None:
    assert BINS // 2 >= 2048

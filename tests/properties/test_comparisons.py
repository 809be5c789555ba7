"""Statistics do not depend on order or unit, and intervals hold what they are about."""

from __future__ import annotations

import copy
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from alexnet_deploy.bench.compare import Bounds, comparison, ratio_of_turns
from alexnet_deploy.bench.statistics import accuracy_from_logits, latency_from_samples, ratio_from_samples
from tests.bench.documents import bench_of

FEW = settings(derandomize=True, deadline=None, max_examples=40)
TURNS = hnp.arrays(np.float64, st.integers(5, 10), elements=st.floats(1e-3, 1e4))


@given(TURNS, TURNS, st.sampled_from([0.5, 0.9, 0.95]), st.randoms(use_true_random=False), st.floats(1e-3, 1e3))
@FEW
def test_a_ratio_is_in_its_interval_and_depends_on_neither_order_nor_unit(
    before: NDArray[np.float64], after: NDArray[np.float64], confidence: float, random: object, unit: float
) -> None:
    ratio, interval = ratio_of_turns(before, after, confidence)
    assert interval is not None
    low, high = interval
    assert 0 < low <= ratio * (1 + 1e-12) and ratio <= high * (1 + 1e-12)
    assert ratio_of_turns(np.sort(before), after[::-1], confidence) == (ratio, interval)
    turned, ends = ratio_of_turns(after, before, confidence)
    assert turned == pytest.approx(1 / ratio, rel=1e-9)
    assert ends is not None
    assert list(ends) == [pytest.approx(1 / high, rel=1e-9), pytest.approx(1 / low, rel=1e-9)]
    scaled, _ = ratio_of_turns(unit * before, unit * after, confidence)
    assert scaled == pytest.approx(ratio, rel=1e-9)
    slower, _ = ratio_of_turns(before, unit * after, confidence)
    assert slower == pytest.approx(unit * ratio, rel=1e-9)


@given(TURNS, TURNS)
@FEW
def test_more_confidence_never_makes_an_interval_narrower(
    before: NDArray[np.float64], after: NDArray[np.float64]
) -> None:
    found = [ratio_of_turns(before, after, confidence)[1] for confidence in (0.5, 0.8, 0.9, 0.95)]
    widths = [each for each in found if each is not None]
    for (low, high), (wider_low, wider_high) in pairwise(widths):
        assert wider_low <= low and high <= wider_high


@pytest.mark.parametrize(("first", "second"), [(2, 3), (4, 4), (3, 5), (5, 5)])
def test_the_interval_covers_as_often_as_it_says_over_every_order(first: int, second: int) -> None:
    """Of all ways to deal the ranks to two sides that are alike, the share whose interval holds 1 is the confidence."""
    ranks = np.exp(np.arange(first + second) + np.linspace(0, 0.3, first + second) ** 2)
    for confidence in (0.5, 0.8, 0.9):
        held, ways = 0, 0
        for chosen in combinations(range(first + second), first):
            one = ranks[list(chosen)]
            other = np.delete(ranks, chosen)
            _, interval = ratio_of_turns(one, other, confidence)
            if interval is None:
                return
            ways += 1
            held += interval[0] <= 1 <= interval[1]
        assert Fraction(held, ways) >= Fraction(confidence).limit_denominator(100)


@given(st.integers(0, 200), st.integers(1, 3), st.floats(0.2, 5))
@FEW
def test_a_bench_compared_with_itself_or_with_a_slower_machine_is_no_regression(
    seed: int, count: int, machine: float
) -> None:
    rows = {f"runtime{number}/fp32/1": 10.0 * (number + 1) for number in range(count)}
    old = bench_of(rows, seed=seed)
    for new in (copy.deepcopy(old), bench_of(rows, seed=seed, machine=machine, memory=machine)):
        found = comparison(old, new, Bounds())
        assert found["regressions"] == []
        assert [row["key"] for row in found["rows"]] == list(rows)
        for row in found["rows"]:
            assert row["ratio"] == pytest.approx(1, abs=1e-3) and row["ci"][0] <= row["ratio"] <= row["ci"][1]


LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(2, 7)), elements=st.floats(-9, 9, width=32))


@given(LOGITS, st.integers(0, 999))
@FEW
def test_accuracy_does_not_depend_on_the_order_of_the_images_and_its_figures_fit_each_other(
    logits: NDArray[np.float32], seed: int
) -> None:
    random = np.random.default_rng(seed)
    reference = logits + random.normal(0, 1, logits.shape).astype(np.float32)
    labels = random.integers(0, logits.shape[1], len(logits))
    order = random.permutation(len(logits))
    found = accuracy_from_logits(logits, reference, labels)
    again = accuracy_from_logits(logits[order], reference[order], labels[order])
    for name, value in found.to_json().items():
        other = again.to_json()[name]
        assert other == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-6)), name
    assert found.top1 is not None and found.top5 is not None and found.ece is not None
    assert found.agreement is not None and 0 <= found.agreement <= 1
    assert 0 <= found.top1 <= found.top5 <= 1 and 0 <= found.ece <= 1
    of_reference = accuracy_from_logits(reference, reference, labels).top1
    assert of_reference is not None
    assert found.won - found.lost == round((found.top1 - of_reference) * len(logits))
    turned = accuracy_from_logits(reference, logits, labels)
    assert (turned.lost, turned.won, turned.agreement) == (found.won, found.lost, found.agreement)


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0.01, 1e4)))
@FEW
def test_an_interval_of_a_median_holds_it(samples: NDArray[np.float64]) -> None:
    found = latency_from_samples(samples)
    low, high = found.ci95
    assert found.min <= low <= high <= samples.max()
    # The bootstrap's interval of very few samples may miss their median by a little, never that of a hundred alike.
    assert low * (1 - 1e-9) <= found.median <= high * (1 + 1e-9)


@given(st.integers(2, 8), st.integers(1, 4), st.integers(0, 99))
@FEW
def test_a_ratio_over_rounds_does_not_depend_on_the_order_of_the_rounds(rounds: int, each: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    base, other = (random.uniform(1, 2, (rounds, each)) for _ in range(2))
    order = random.permutation(rounds)
    found = ratio_from_samples(base.ravel(), other.ravel(), rounds)
    again = ratio_from_samples(base[order].ravel(), other[order].ravel(), rounds)
    assert again.median == found.median
    assert found.ci95[0] <= found.median <= found.ci95[1]

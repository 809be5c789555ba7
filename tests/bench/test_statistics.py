"""Figures are what a person computes by hand from the same samples and logits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.bench.statistics import accuracy_from_logits, latency_from_samples, mcnemar, ratio_from_samples


def test_quantiles_of_a_ramp() -> None:
    found = latency_from_samples(np.arange(1, 102, dtype=np.float64))
    assert (found.median, found.p90, found.p99, found.min, found.runs) == (51.0, 91.0, 100.0, 1.0, 101)
    assert found.noisy
    low, high = found.ci95
    assert 1 < low < 51 < high < 101


def test_samples_that_are_all_the_same_have_no_spread() -> None:
    found = latency_from_samples(np.full(20, 2.5))
    assert (found.median, found.p90, found.p99, found.min) == (2.5, 2.5, 2.5, 2.5)
    assert found.ci95 == (2.5, 2.5)
    assert not found.noisy


def test_one_sample_is_its_own_summary() -> None:
    found = latency_from_samples(np.asarray([7.0]))
    assert (found.median, found.p99, found.ci95, found.runs) == (7.0, 7.0, (7.0, 7.0), 1)


@pytest.mark.parametrize(("spread", "noisy"), [(0.09, False), (0.11, True)])
def test_noisy_means_a_middle_half_wider_than_a_tenth(spread: float, noisy: bool) -> None:
    samples = np.asarray([1 - spread / 2] * 4 + [1.0] * 3 + [1 + spread / 2] * 4)
    assert latency_from_samples(samples).noisy is noisy


def test_the_interval_is_the_same_each_time_and_holds_the_median() -> None:
    samples = np.random.default_rng(4).gamma(9.0, 1.0, 50)
    first, second = latency_from_samples(samples), latency_from_samples(samples)
    assert first == second
    assert first.ci95[0] <= first.median <= first.ci95[1]
    # The median of fifty gammas spreads by about 1.25 * 3 / sqrt(50).
    assert 0.5 < first.ci95[1] - first.ci95[0] < 4


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=40))
def test_order_does_not_matter_and_figures_are_ordered(samples: list[float]) -> None:
    found = latency_from_samples(np.asarray(samples))
    assert found.min <= found.median <= found.p90 <= found.p99 <= max(samples) * (1 + 1e-12)
    assert min(samples) * (1 - 1e-12) <= found.ci95[0] <= found.ci95[1] <= max(samples) * (1 + 1e-12)
    backwards = latency_from_samples(np.asarray(samples[::-1]))
    assert (backwards.median, backwards.p90, backwards.p99) == (found.median, found.p90, found.p99)


def test_latency_is_written_to_the_microsecond() -> None:
    values = latency_from_samples(np.asarray([1.23456, 1.23456, 1.23456])).to_json()
    assert values == {
        "median": 1.235, "p90": 1.235, "p99": 1.235, "min": 1.235, "ci95": [1.235, 1.235], "runs": 3, "noisy": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lost", "won", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 6, 0.03125),
        (1, 9, 0.021484375),
        (9, 1, 0.021484375),
        (5, 5, 1.0),
        (3, 7, 0.34375),
        (0, 20, 2.0**-19),
    ],
)
def test_mcnemars_exact_test(lost: int, won: int, expected: float) -> None:
    assert mcnemar(lost, won) == expected


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_a_probability_and_symmetric(lost: int, won: int) -> None:
    assert 0 < mcnemar(lost, won) <= 1
    assert mcnemar(lost, won) == mcnemar(won, lost)


def one_hot(*firsts: int, classes: int = 10) -> NDArray[np.float32]:
    """Logits whose largest is 4 at the given classes and that fall from class to class otherwise."""
    logits = np.tile(np.linspace(1, 0, classes, dtype=np.float32), (len(firsts), 1))
    logits[np.arange(len(firsts)), list(firsts)] = 4
    return logits


def test_accuracy_with_labels_by_hand() -> None:
    labels = np.asarray([0, 1, 2, 3, 9])
    reference = one_hot(0, 1, 2, 4, 5)
    logits = one_hot(0, 1, 7, 3, 5)
    found = accuracy_from_logits(logits, reference, labels)
    assert found.top1 == 3 / 5
    # Label 2 is among the first five after class 7 (classes 0 to 3 follow); label 9 is the last class.
    assert found.top5 == 4 / 5
    assert found.agreement == 3 / 5
    assert (found.lost, found.won) == (1, 1)
    assert found.p_value == 1.0
    assert found.to_json()["flips"] == {"lost": 1, "won": 1, "p_value": 1.0}


def test_without_labels_only_agreement_and_sqnr_are_given() -> None:
    found = accuracy_from_logits(one_hot(0, 1, 3), one_hot(0, 1, 2), None)
    assert found.agreement == 2 / 3
    assert (found.top1, found.top5, found.ece) == (None, None, None)
    assert found.sqnr_db is not None
    assert json.loads(json.dumps(found.to_json()))["flips"] == {"lost": 0, "won": 0, "p_value": 1.0}


def test_the_reference_agrees_with_itself_and_has_no_noise() -> None:
    logits = one_hot(0, 1, 2)
    found = accuracy_from_logits(logits, logits, np.asarray([0, 1, 1]))
    assert (found.agreement, found.sqnr_db, found.lost, found.won, found.p_value) == (1.0, None, 0, 0, 1.0)


@pytest.mark.parametrize(("noise", "expected"), [(0.1, 20.0), (1.0, 0.0), (0.01, 40.0), (10.0, -20.0)])
def test_sqnr_is_the_ratio_of_powers_in_decibels(noise: float, expected: float) -> None:
    reference = np.ones((4, 10), np.float32)
    found = accuracy_from_logits(reference * np.float32(1 + noise), reference, None)
    assert found.sqnr_db == pytest.approx(expected, abs=0.01)


def test_fewer_than_five_classes_are_all_among_the_first_five() -> None:
    found = accuracy_from_logits(one_hot(0, 1, classes=3), one_hot(0, 1, classes=3), np.asarray([2, 2]))
    assert (found.top1, found.top5) == (0.0, 1.0)


def confident(confidence: float, classes: int = 2) -> list[float]:
    """Logits whose softmax gives class 0 this probability."""
    return [math.log(confidence / (1 - confidence) * (classes - 1)), *[0.0] * (classes - 1)]


def test_calibration_error_by_hand() -> None:
    logits = np.asarray([confident(0.9)] * 4 + [confident(0.6)] * 6, np.float32)
    labels = np.asarray([0, 0, 0, 1, 0, 0, 0, 1, 1, 1])
    found = accuracy_from_logits(logits, logits, labels)
    assert found.ece == pytest.approx(0.4 * abs(0.75 - 0.9) + 0.6 * abs(0.5 - 0.6), abs=1e-6)


def test_a_sure_and_right_network_has_no_calibration_error() -> None:
    logits = np.zeros((5, 10), np.float32)
    logits[:, 3] = 1000.0
    found = accuracy_from_logits(logits, logits, np.full(5, 3))
    assert found.ece == pytest.approx(0.0, abs=1e-12)
    assert accuracy_from_logits(logits, logits, np.full(5, 4)).ece == pytest.approx(1.0, abs=1e-12)


def test_a_machine_that_is_slower_for_some_rounds_does_not_move_a_ratio() -> None:
    random = np.random.default_rng(0)
    drift = np.repeat([1.0, 1.0, 3.0, 1.0, 2.0, 1.0], 4)
    base, other = 10 * drift * random.normal(1, 0.01, 24), 5 * drift * random.normal(1, 0.01, 24)
    found = ratio_from_samples(base, other, 6)
    assert found.median == pytest.approx(2.0, rel=0.01)
    assert found.ci95[0] <= found.median <= found.ci95[1]
    assert found.ci95[1] - found.ci95[0] < 0.1
    assert found == ratio_from_samples(base, other, 6)
    assert found.to_json() == {"median": round(found.median, 3), "ci95": [round(x, 3) for x in found.ci95], "rounds": 6}


def test_a_ratio_of_a_row_to_itself_is_one() -> None:
    samples = np.random.default_rng(0).uniform(1, 9, 25)
    assert ratio_from_samples(samples, samples, 4).ci95 == (1.0, 1.0)


def test_a_machine_that_is_slower_for_a_while_does_not_move_the_ratio() -> None:
    random = np.random.default_rng(5)
    base, other = (mean * (1 + 0.01 * random.standard_normal(60)) for mean in (6.0, 2.0))
    steady = ratio_from_samples(base, other, 6)
    slow = np.repeat([1.0, 1.0, 3.0, 1.0, 2.0, 2.0], 10)
    slower = ratio_from_samples(base * slow, other * slow, 6)
    assert slower.median == pytest.approx(steady.median, rel=1e-12) == pytest.approx(3.0, rel=0.01)
    assert slower.ci95 == pytest.approx(steady.ci95, rel=1e-12)
    # The ratio of all samples' medians would move if only one of both were slow where the other is not.
    assert slower.ci95[0] <= slower.median <= slower.ci95[1] < slower.ci95[0] * 1.03


def test_the_ratio_is_the_median_over_rounds_by_hand() -> None:
    base = np.asarray([4.0, 4.0, 400.0, 6.0, 6.0, 6.0, 9.0, 1.0, 9.0])
    other = np.asarray([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 9.0, 9.0, 9.0])
    found = ratio_from_samples(base, other, 3)
    assert (found.median, found.rounds) == (2.0, 3)
    assert found.ci95 == (1.0, 3.0)
    assert found.to_json() == {"median": 2.0, "ci95": [1.0, 3.0], "rounds": 3}


def test_slower_is_below_one_and_the_other_way_round_is_its_inverse() -> None:
    base, other = np.asarray([1.0, 2.0, 3.0] * 3), np.asarray([8.0, 4.0, 6.0] * 3)
    there, back = ratio_from_samples(base, other, 3), ratio_from_samples(other, base, 3)
    assert there.median == pytest.approx(1 / 3) and back.median == pytest.approx(3.0)


@given(st.integers(1, 8), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_the_ratio_is_seeded_and_within_its_interval(rounds: int, more: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    base, other = random.gamma(9.0, 1.0, 3 * rounds + more), random.gamma(9.0, 1.0, 3 * rounds + more)
    found = ratio_from_samples(base, other, rounds, seed)
    assert found == ratio_from_samples(base, other, rounds, seed)
    assert found.ci95[0] <= found.median <= found.ci95[1]


def test_another_seed_gives_the_same_ratio_in_another_interval() -> None:
    random = np.random.default_rng(6)
    base, other = random.gamma(9.0, 1.0, 120), random.gamma(9.0, 1.0, 120)
    found = [ratio_from_samples(base, other, 40, seed) for seed in (0, 1)]
    assert found[0].median == found[1].median and found[0].ci95 != found[1].ci95


def test_samples_that_do_not_divide_into_the_rounds_are_all_taken() -> None:
    base = np.asarray([2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0])
    other = np.ones(7)
    found = ratio_from_samples(base, other, 2)
    assert found.median == 2.5 and found.ci95 == (2.0, 3.0)
    fewer = ratio_from_samples(base, np.ones(4), 2)
    assert fewer.median == 2.5

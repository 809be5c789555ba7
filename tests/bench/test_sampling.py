"""Warm-up ends when the times are stable, and a sample holds what its scope says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.bench.sampling import Sampler, WarmUp, is_stable
from alexnet_deploy.errors import InputError, RuntimeUnavailableError
from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.specs import Scope


class Clock:
    """Moves by what a list says, run by run; the last entry stays."""

    def __init__(self, *milliseconds: float) -> None:
        self.now, self.left = 0.0, list(milliseconds)

    def __call__(self) -> float:
        return self.now

    def tick(self) -> None:
        self.now += (self.left.pop(0) if len(self.left) > 1 else self.left[0]) / 1e3


class OnDevice(FakeSession):
    """Copies to a device, which says what it computed."""

    copies = True
    told: float | None = 0.25

    @property
    def compute_ms(self) -> float | None:
        return self.told


def sampler(
    clock: Clock, scope: Scope = Scope.COPIES, session: FakeSession | None = None, preparing_ms: float = 0.0
) -> Sampler:
    def batch() -> NDArray[np.float32]:
        clock.now += preparing_ms / 1e3
        return np.zeros((2, 3, 8, 8), np.float32)

    return Sampler(session=session or FakeSession(tick=clock.tick), batch=batch, scope=scope, clock=clock)


def test_warm_up_goes_on_until_the_times_are_stable() -> None:
    clock = Clock(90, 50, 30, 20, 12, 10, 10, 10, 10)
    taken = sampler(clock).samples(2, WarmUp(least=1, window=2, tolerance=0.11))
    # The medians of 12, 10 and of 10, 10 differ by a tenth: stable at the eighth run.
    assert (taken.warm_up, taken.stable) == (8, True)
    assert taken.milliseconds == pytest.approx([10, 10])


def test_a_session_that_never_settles_is_measured_and_said_to_be_unstable() -> None:
    clock = Clock(*(10.0 * (1 + run % 2) * (1 + run) for run in range(60)))
    taken = sampler(clock).samples(2, WarmUp(most=9, window=1, tolerance=0.01, seconds=100))
    assert (taken.warm_up, taken.stable) == (9, False)


def test_a_slow_session_ends_its_warm_up_by_the_clock() -> None:
    clock = Clock(3000.0)
    taken = sampler(clock).samples(1, WarmUp(least=6, seconds=4.0))
    assert (taken.warm_up, taken.stable) == (2, False)


def test_the_least_number_of_runs_is_taken_before_stability_counts() -> None:
    assert sampler(Clock(10.0)).samples(1, WarmUp(least=11, window=1)).warm_up == 11
    assert sampler(Clock(10.0)).samples(1, WarmUp(least=1, window=3)).warm_up == 6


@pytest.mark.parametrize(
    ("times", "stable"),
    [([1.0], False), ([1, 1, 1], False), ([1, 1, 1, 1], True), ([2, 2, 1, 1], False), ([9, 1, 1, 1.04, 1.04], True)],
)
def test_stable_means_that_two_windows_are_alike(times: list[float], stable: bool) -> None:
    assert is_stable(times, 2, 0.05) is stable


def test_seconds_are_those_of_the_samples_alone() -> None:
    taken = sampler(Clock(10.0)).samples(5, WarmUp(least=6))
    assert taken.seconds == pytest.approx(0.05)


def test_end_to_end_holds_the_preprocessing_and_the_others_do_not() -> None:
    for scope, expected in ((Scope.END_TO_END, 17.0), (Scope.COPIES, 10.0), (Scope.COMPUTE, 10.0)):
        taken = sampler(Clock(10.0), scope, preparing_ms=7.0).samples(3, WarmUp(least=6))
        assert taken.milliseconds == pytest.approx([expected] * 3), scope


def test_compute_alone_is_what_the_device_says() -> None:
    clock = Clock(10.0)
    taken = sampler(clock, Scope.COMPUTE, OnDevice(tick=clock.tick)).samples(2, WarmUp(least=6))
    assert taken.milliseconds == [0.25, 0.25]
    taken = sampler(clock, Scope.COPIES, OnDevice(tick=clock.tick)).samples(2, WarmUp(least=6))
    assert taken.milliseconds == pytest.approx([10, 10])


def test_a_device_that_does_not_say_its_compute_gives_no_row_of_that_scope() -> None:
    clock = Clock(10.0)
    session = OnDevice(tick=clock.tick)
    session.told = None
    with pytest.raises(RuntimeUnavailableError, match="compute"):
        sampler(clock, Scope.COMPUTE, session).samples(1, WarmUp())


class Overlapping(FakeSession):
    in_flight = 3


def test_requests_in_flight_have_no_end_to_end_row() -> None:
    clock = Clock(10.0)
    with pytest.raises(RuntimeUnavailableError, match="preprocessing"):
        sampler(clock, Scope.END_TO_END, Overlapping(tick=clock.tick)).samples(1, WarmUp())


@pytest.mark.parametrize(
    "values", [{"least": -1}, {"least": 9, "most": 3}, {"window": 0}, {"tolerance": 0}, {"seconds": 0}]
)
def test_a_warm_up_that_cannot_be_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError):
        WarmUp(**values)

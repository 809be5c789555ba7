"""What LoadGen is told to expect comes from what the session was measured to take."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from alexnet_deploy.bench.loadgen_options import LoadOptions, Scenario
from alexnet_deploy.bench.loadgen_pace import Pace, _late_share, batches_of, pace_from_session, rate_from_pace
from alexnet_deploy.errors import SessionError
from alexnet_deploy.runtimes.fake import FakeSession

IMAGES = np.ones((5, 3, 8, 8), np.float32)


def pace_of(**milliseconds: float) -> Pace:
    times = {int(name.removeprefix("b")): value for name, value in milliseconds.items()}
    return Pace(median_ms=times, fastest_ms=times)


def test_a_server_needs_the_time_of_every_power_of_two() -> None:
    assert batches_of(LoadOptions(scenario=Scenario.SERVER, max_batch=12)) == (1, 2, 4, 8, 12)
    assert batches_of(LoadOptions(scenario=Scenario.SERVER, max_batch=1)) == (1,)
    assert batches_of(LoadOptions(scenario=Scenario.OFFLINE, max_batch=12)) == (12,)
    assert batches_of(LoadOptions(scenario=Scenario.MULTI_STREAM)) == (8,)


def test_a_session_is_timed_by_the_clock_after_a_warm_up() -> None:
    now = itertools.count()
    seen = []
    session = FakeSession(tick=lambda: seen.append(next(now)))
    options = LoadOptions(scenario=Scenario.OFFLINE, max_batch=8)
    pace = pace_from_session(session, IMAGES, options, clock=lambda: float(next(now)))
    # From a reading of the clock to the next there is one run, which moves it by one.
    assert pace.median_ms == {8: 2000.0} and pace.fastest_ms == {8: 2000.0}
    assert len(seen) >= 8 and pace.to_json()["median_ms"] == {"8": 2000.0}


def test_outputs_that_are_not_finite_are_no_pace() -> None:
    with pytest.raises(SessionError, match="finite"):
        pace_from_session(FakeSession(), np.full_like(IMAGES, np.nan), LoadOptions(scenario=Scenario.SINGLE_STREAM))


def test_a_stream_is_given_more_queries_than_the_session_can_answer() -> None:
    assert rate_from_pace(pace_of(b1=5), LoadOptions(scenario=Scenario.SINGLE_STREAM), None) == 400
    assert rate_from_pace(pace_of(b8=20), LoadOptions(scenario=Scenario.MULTI_STREAM), None) == 100


def test_offline_expects_a_little_more_than_the_largest_batch_gives() -> None:
    rate = rate_from_pace(pace_of(b16=40), LoadOptions(scenario=Scenario.OFFLINE), None)
    assert rate == pytest.approx(1.1 * 400)


def test_a_servers_rate_keeps_the_bound_and_grows_with_it() -> None:
    pace, options = pace_of(b1=5, b2=8, b4=14, b8=25, b16=40), LoadOptions(scenario=Scenario.SERVER)
    rates = [rate_from_pace(pace, options, bound) for bound in (15.0, 30.0, 200.0)]
    assert 0 < rates[0] < rates[1] < rates[2] < 400
    for rate, bound in zip(rates, (15.0, 30.0, 200.0), strict=True):
        assert _late_share(pace, rate, bound, 16) <= 0.01
        assert _late_share(pace, 2 * rate, bound, 16) > 0.01


def test_a_bound_that_cannot_be_kept_gets_a_rate_that_soon_says_so() -> None:
    pace = pace_of(b1=50, b2=90)
    rate = rate_from_pace(pace, LoadOptions(scenario=Scenario.SERVER, max_batch=2), 15.0)
    assert rate == pytest.approx(0.25 * 2e3 / 90) and _late_share(pace, rate, 15.0, 2) == 1


def test_a_queue_without_load_is_late_only_where_a_run_is() -> None:
    assert _late_share(pace_of(b1=5), 0.001, 5.0, 1) == 0
    assert _late_share(pace_of(b1=5), 0.001, 4.9, 1) == 1

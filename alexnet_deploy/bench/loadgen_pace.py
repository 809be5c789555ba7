"""How fast a session is, measured shortly before a test, since LoadGen plans its queries ahead."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.loadgen_options import LoadOptions, Scenario
from alexnet_deploy.bench.runner import Images
from alexnet_deploy.errors import SessionError
from alexnet_deploy.runtimes.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WARM_UP_RUNS = 3
_LEAST_RUNS, _MOST_RUNS = 5, 200
_ENOUGH_SECONDS = 2.0
# A server's rate is planned for fewer late answers than the one in a hundred that is allowed, and for less time than
# there is: other programs take some of it.
_LATE_SHARE, _LATENCY_SHARE = 0.005, 0.9
_ARRIVALS, _HALVINGS = 4000, 12
# Offline issues all its images at once, and they have to last for the whole duration: a session that was held up while
# it was measured is faster later.
_OFFLINE_MARGIN = 1.1
# Below this share of what the session can do no rate is looked for. Where the bound cannot be kept there either,
# LoadGen will say INVALID, and a higher rate lets it say so within minutes.
_LEAST_SHARE, _HOPELESS_SHARE = 0.02, 0.25


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Milliseconds a batch takes, by its size.

    Attributes:
        median_ms: What it usually takes.
        fastest_ms: The least that was seen: no test of the same session is faster for long.
    """

    median_ms: dict[int, float]
    fastest_ms: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "median_ms": {str(batch): round(value, 3) for batch, value in self.median_ms.items()},
            "fastest_ms": {str(batch): round(value, 3) for batch, value in self.fastest_ms.items()},
        }


def batches_of(options: LoadOptions) -> tuple[int, ...]:
    """The batches whose time a plan needs: all powers of two for a server, which batches what waits."""
    largest = options.largest_batch
    if options.scenario is not Scenario.SERVER:
        return (largest,)
    powers = [1 << power for power in range(largest.bit_length())]
    return tuple(dict.fromkeys([*powers, largest]))


def pace_from_session(
    session: Session, images: Images, options: LoadOptions, *, clock: Callable[[], float] = time.perf_counter
) -> Pace:
    """Runs each batch a few times, for about two seconds.

    Raises:
        SessionError: The session failed, or its outputs are not finite.
    """
    medians, fastest = {}, {}
    for batch in batches_of(options):
        first = images[:batch]
        samples = _samples(session, np.resize(first, (batch, *first.shape[1:])), clock)
        medians[batch], fastest[batch] = float(np.median(samples)), min(samples)
    return Pace(median_ms=medians, fastest_ms=fastest)


def _samples(session: Session, images: NDArray[np.float32], clock: Callable[[], float]) -> list[float]:
    for _ in range(_WARM_UP_RUNS):
        if not np.isfinite(session.run(images)).all():
            raise SessionError("the outputs are not finite")
    samples: list[float] = []
    began = clock()
    while len(samples) < _LEAST_RUNS or (len(samples) < _MOST_RUNS and clock() - began < _ENOUGH_SECONDS):
        started = clock()
        session.run(images)
        # A clock that stands still would make an endless rate of it.
        samples.append(max((clock() - started) * 1e3, 1e-3))
    return samples


def rate_from_pace(pace: Pace, options: LoadOptions, bound_ms: float | None) -> float:
    """Queries per second that LoadGen is told to expect or, of a server, to send.

    A stream's is twice what the session can do, so that LoadGen does not run out of queries; offline's a tenth more,
    so that it does not run out of images; a server's keeps the bound in a simulation of its queue.

    Args:
        pace: Of the session.
        options: The scenario.
        bound_ms: The server's latency.
    """
    largest = options.largest_batch
    if options.scenario is Scenario.SERVER:
        assert bound_ms is not None
        return _server_rate(pace, bound_ms, largest)
    each = 1e3 / pace.fastest_ms[largest]
    return _OFFLINE_MARGIN * each * largest if options.scenario is Scenario.OFFLINE else 2 * each


def _server_rate(pace: Pace, bound_ms: float, max_batch: int) -> float:
    capacity = max(1e3 * batch / milliseconds for batch, milliseconds in pace.median_ms.items())
    planned_ms = _LATENCY_SHARE * bound_ms

    def is_kept(rate: float) -> bool:
        return _late_share(pace, rate, planned_ms, max_batch) <= _LATE_SHARE

    low, high = _LEAST_SHARE * capacity, capacity
    if not is_kept(low):
        return _HOPELESS_SHARE * capacity
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_kept(middle) else (low, middle)
    return low


def _late_share(pace: Pace, rate: float, bound_ms: float, max_batch: int) -> float:
    """Share of late answers of a worker that takes whatever waits as one batch, under Poisson arrivals."""
    gaps = np.random.default_rng(0).exponential(1e3 / rate, _ARRIVALS)
    arrivals = np.cumsum(gaps)
    sizes, times = list(pace.median_ms), list(pace.median_ms.values())
    free, first, late = 0.0, 0, 0
    while first < _ARRIVALS:
        start = max(free, float(arrivals[first]))
        waiting = int(np.searchsorted(arrivals, start, side="right")) - first
        batch = min(max(waiting, 1), max_batch)
        free = start + float(np.interp(batch, sizes, times))
        late += int((free - arrivals[first : first + batch] > bound_ms).sum())
        first += batch
    return late / _ARRIVALS

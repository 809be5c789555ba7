"""Taking samples of one session: warm-up until its times are stable, then runs of one batch in the stated scope."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.errors import InputError, RuntimeUnavailableError
from alexnet_deploy.runtimes.session import Session
from alexnet_deploy.specs import Scope

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Runs before the first sample of a turn, which are left out.

    Stable means that the median of the last `window` runs differs from the median of the `window` before by no more
    than `tolerance`, as a share.

    Attributes:
        least, most: Runs.
        seconds: After which it ends, stable or not.
    """

    least: int = 1
    most: int = 40
    window: int = 2
    tolerance: float = 0.05
    seconds: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.window < 1 or self.tolerance <= 0 or self.seconds <= 0:
            raise InputError("no such warm-up", got=self, expected="0 <= least <= most, and the rest above 0")


# Before the first turn of a batch, and before the later ones, when other sessions have had the caches in between.
UNTIL_STABLE = WarmUp(least=4)
AGAIN = WarmUp(least=1, most=1)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What one turn of one session gave.

    Attributes:
        milliseconds: Of each run, in the order taken; with requests in flight of each request.
        seconds: From the first start to the last end, for the throughput.
        warm_up: Runs that were left out.
        stable: Whether the warm-up ended because the times were stable.
        runs: How many were asked of it, of each request in flight; 0 where an evaluation gave them.
    """

    milliseconds: list[float]
    seconds: float
    warm_up: int
    stable: bool
    runs: int = 0


@dataclass(frozen=True, kw_only=True)
class Warm:
    """A warm-up: its runs, whether it ended because the times were stable, and the median of the last few in ms."""

    runs: int
    stable: bool
    last_ms: float


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Times one session.

    Attributes:
        batch: Makes the images of one batch; inside the clock where the scope is end to end.
        clock: Seconds; a test injects its own.
    """

    session: Session
    batch: Callable[[], NDArray[np.float32]]
    scope: Scope
    clock: Callable[[], float]

    def samples(self, runs: int, warm_up: WarmUp, seconds: float = 0.0) -> Samples:
        """Takes `runs` samples; where requests overlap, `runs` of each that is in flight.

        Args:
            runs: How many, or more.
            warm_up: Runs before them.
            seconds: As many as take so long, by what the last run of the warm-up took.

        Raises:
            RuntimeUnavailableError: The scope is compute, and the runtime does not tell it from the copies.
            SessionError: The session failed.
        """
        images = np.ascontiguousarray(self.batch())
        overlaps = self.session.in_flight > 1
        if overlaps and self.scope is Scope.END_TO_END:
            raise RuntimeUnavailableError("requests in flight are measured without preprocessing only")
        warm = self.warm(warm_up, images)
        if warm.last_ms > 0:
            runs = max(runs, math.ceil(seconds * 1e3 / warm.last_ms))
        started = self.clock()
        milliseconds = self._overlapped(images, runs) if overlaps else [self._once(images) for _ in range(runs)]
        return Samples(
            milliseconds=milliseconds, seconds=self.clock() - started, warm_up=warm.runs, stable=warm.stable, runs=runs
        )

    def warm(self, warm_up: WarmUp, images: NDArray[np.float32] | None = None) -> Warm:
        """Runs a batch until the times are stable."""
        images = np.ascontiguousarray(self.batch()) if images is None else images
        started, times = self.clock(), list[float]()
        window, stable = warm_up.window, False
        while len(times) < warm_up.most and not stable:
            times.append(self._warming(images))
            stable = len(times) >= warm_up.least and is_stable(times, window, warm_up.tolerance)
            if self.clock() - started > warm_up.seconds and len(times) >= min(warm_up.least, 2):
                break
        return Warm(runs=len(times), stable=stable, last_ms=float(np.median(times[-window:])) if times else 0.0)

    def _warming(self, images: NDArray[np.float32]) -> float:
        """As it will be measured: requests in flight warm all of them."""
        if self.session.in_flight == 1:
            return self._once(images)
        return float(np.median(self._overlapped(images, 1)))

    def _overlapped(self, images: NDArray[np.float32], waves: int) -> list[float]:
        times = self.session.run_overlapped(images, waves * self.session.in_flight, self.clock)
        return [1e3 * seconds for seconds in times]

    def _once(self, images: NDArray[np.float32]) -> float:
        started = self.clock()
        self.session.run(self.batch() if self.scope is Scope.END_TO_END else images)
        milliseconds = (self.clock() - started) * 1e3
        if self.scope is not Scope.COMPUTE or not self.session.copies:
            return milliseconds
        if self.session.compute_ms is None:
            raise RuntimeUnavailableError(
                "the runtime does not tell its compute from its copies", remedy="--scope compute+copies measures both"
            )
        return self.session.compute_ms


def is_stable(times: list[float], window: int, tolerance: float) -> bool:
    """Whether the last `window` times are like the `window` before them."""
    if len(times) < 2 * window:
        return False
    before, after = np.median(times[-2 * window : -window]), np.median(times[-window:])
    return bool(abs(after - before) <= tolerance * after)

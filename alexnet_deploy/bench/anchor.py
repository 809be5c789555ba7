"""The anchor: fixed work that is measured between all rows, so that a machine that is slower today shows as that.

Two pieces, since a machine can lose the one and keep the other: a product of matrices, bound by arithmetic, and a sum
over more memory than caches hold, bound by reading it. A row's time over the anchor's in the same turn is what two
benches are compared by.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from alexnet_deploy.bench.worker import Worker

if TYPE_CHECKING:
    import torch

# Another number where the work below changes: times of different versions are not compared.
ANCHOR_VERSION = 1
_SIDE = 768
_WINDOW_BYTES, _WINDOWS = 128 << 20, 4
_WARM_UP, _RUNS = 1, 3


@dataclass(frozen=True, kw_only=True)
class AnchorTimes:
    """Milliseconds of the two pieces, each the median of a few runs."""

    compute: float
    memory: float


class Anchor(Protocol):
    """What the bench asks of an anchor."""

    def open(self) -> None:
        """Makes it ready."""

    def measure(self) -> AnchorTimes:
        """Runs both pieces."""

    def close(self) -> None:
        """Frees everything."""


@dataclass
class LocalAnchor:
    """Runs in this process.

    Attributes:
        threads: CPU threads, as many as the rows have.
        clock: Seconds; a test injects its own.
    """

    threads: int
    clock: Callable[[], float] = time.perf_counter
    _factor: Any = field(default=None, init=False)
    _memory: list[torch.Tensor] = field(default_factory=list, init=False)
    _window: int = field(default=0, init=False)

    def open(self) -> None:
        import torch

        torch.set_num_threads(self.threads)
        self._factor = torch.full((_SIDE, _SIDE), 1.0 / _SIDE)
        # Each run reads another window: the last one may be in a large cache.
        self._memory = [torch.ones(_WINDOW_BYTES // 4) for _ in range(_WINDOWS)]

    def measure(self) -> AnchorTimes:
        return AnchorTimes(compute=self._median(self._multiply), memory=self._median(self._read))

    def close(self) -> None:
        self._factor, self._memory = None, []

    def _median(self, piece: Callable[[], None]) -> float:
        for _ in range(_WARM_UP):
            piece()
        times = []
        for _ in range(_RUNS):
            started = self.clock()
            piece()
            times.append((self.clock() - started) * 1e3)
        return statistics.median(times)

    def _multiply(self) -> None:
        self._factor @ self._factor

    def _read(self) -> None:
        self._window = (self._window + 1) % _WINDOWS
        self._memory[self._window].sum()


@dataclass(frozen=True)
class _MakeAnchor:
    threads: int

    def __call__(self) -> LocalAnchor:
        return LocalAnchor(self.threads)


class RemoteAnchor:
    """Runs in a process of its own, as every session does."""

    def __init__(self, threads: int) -> None:
        self._worker = Worker(_MakeAnchor(threads), "the anchor")

    def open(self) -> None:
        self._worker.start()
        self._worker.ask("open")

    def measure(self) -> AnchorTimes:
        times: AnchorTimes = self._worker.ask("measure")
        return times

    def close(self) -> None:
        self._worker.close()

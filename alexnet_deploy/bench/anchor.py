"""The anchor: fixed work that is measured between all rows, so that a machine that is slower today shows as that.

Two pieces that a network of this family is made of, since a machine can lose the one and keep the other: its second
convolution, bound by arithmetic, and a product with the weights of its first fully connected layer, bound by reading
them. A row's time over the anchor's in the same turn is what two benches are compared by.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from alexnet_deploy.bench.worker import Worker
from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.progress import Voice

# Another number where the work below changes: times of different versions are not compared.
ANCHOR_VERSION = 3
_IMAGES, _RUNS = 2, 4
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class AnchorTimes:
    """Milliseconds of the two pieces, each the fastest of a few runs.

    What is in the way for some milliseconds, such as threads of the row before that still spin, only adds to a run; a
    machine that is slower is slower in all of them.
    """

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
    _pieces: tuple[Callable[[], object], ...] = field(default=(), init=False)

    def open(self) -> None:
        import torch
        from torch.nn.functional import conv2d

        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        images = torch.randn(_IMAGES, 96, 27, 27).to(memory_format=torch.channels_last)
        filters = torch.randn(256, 48, 5, 5).to(memory_format=torch.channels_last)
        weights, features = torch.randn(4096, 9216), torch.randn(9216)
        self._pieces = (
            lambda: conv2d(images, filters, padding=2, groups=2),
            lambda: torch.mv(weights, features),
        )

    def measure(self) -> AnchorTimes:
        import torch

        with torch.inference_mode():
            compute, memory = (self._fastest(piece) for piece in self._pieces)
        return AnchorTimes(compute=compute, memory=memory)

    def close(self) -> None:
        self._pieces = ()

    def _fastest(self, piece: Callable[[], object]) -> float:
        times = []
        for _ in range(_RUNS):
            started = self.clock()
            piece()
            times.append((self.clock() - started) * 1e3)
        return min(times)


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


class GuardedAnchor:
    """An anchor that may fall out: the bench goes on without it, and a warning says so.

    Args:
        anchor: None for a bench without one.
        voice: Hears the warning.
    """

    def __init__(self, anchor: Anchor | None, voice: Voice) -> None:
        self._anchor, self._voice = anchor, voice

    def open(self) -> None:
        """Makes it ready."""
        if self._anchor is not None:
            self._try(self._anchor.open)

    def measure(self) -> AnchorTimes | None:
        """Runs both pieces; None where there is no anchor any more."""
        return self._try(self._anchor.measure) if self._anchor is not None else None

    def _try(self, step: Callable[[], Answer]) -> Answer | None:
        try:
            return step()
        except AlexnetDeployError as exc:
            self._voice.warn(f"the anchor fell out, and `compare` will compare raw times: {exc}")
            assert self._anchor is not None
            self._anchor.close()
            self._anchor = None
            return None

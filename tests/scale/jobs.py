"""Jobs for tests: what a worker dies of, once or always. Workers import them by this module's name."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.scale.chunks import Arrays, Chunk
from alexnet_deploy.scale.counting import Count
from alexnet_deploy.scale.executor import ExecutorName, ScaleOptions
from alexnet_deploy.scale.jobs import Job, Step

TWO_WORKERS = ScaleOptions(executor=ExecutorName.RAY, workers=2)


@dataclass(frozen=True, kw_only=True)
class Means(Job):
    """The mean of every image, by a worker that may die of a chunk, or raise.

    Attributes:
        deadly: Number of the chunk that ends the worker.
        mark: Written at the first death, after which the chunk is harmless; None for one that is always deadly.
        raising: Number of the chunk that raises what is no error of ours.
    """

    deadly: int = -1
    mark: Path | None = None
    raising: int = -1
    chunk: int = 10

    @contextlib.contextmanager
    def opened(self, source: ImageSource) -> Iterator[Step]:
        def step(chunk: Chunk) -> Arrays:
            if chunk.number == self.deadly:
                die(self.mark)
            if chunk.number == self.raising:
                raise ZeroDivisionError("of this test")
            means = [source.image(int(index)).mean() for index in chunk.of(self.indices)]
            return {"means": np.asarray(means, np.float64)}

        yield step


@dataclass(frozen=True, kw_only=True)
class DeadlyCount(Count):
    """Counts for calibration, by a worker that dies once in the middle."""

    mark: Path

    def at(self, folder: Path, threads: int) -> DeadlyCount:
        return DeadlyCount(**vars(super().at(folder, threads)), mark=self.mark)

    @contextlib.contextmanager
    def opened(self, source: ImageSource) -> Iterator[Step]:
        with super().opened(source) as step:

            def dying(chunk: Chunk) -> Arrays:
                if chunk.number == 1:
                    die(self.mark)
                return step(chunk)

            yield dying


def die(mark: Path | None) -> None:
    """Ends this process as the kernel does that is out of memory, unless the mark says that it was done."""
    if mark is not None:
        if mark.exists():
            return
        mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)

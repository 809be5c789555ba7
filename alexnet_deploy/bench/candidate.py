"""A session to measure, how to measure it, and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alexnet_deploy.bench.anchor import AnchorTimes
from alexnet_deploy.bench.roofline import LayerCost
from alexnet_deploy.bench.runner import Opened, Runner
from alexnet_deploy.bench.sampling import Samples
from alexnet_deploy.bench.statistics import Accuracy
from alexnet_deploy.errors import (
    AlexnetDeployError,
    InputError,
    MissingDependencyError,
    RuntimeUnavailableError,
)
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Scope

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BENCH_SCHEMA = 2
_ROUNDS, _MOST_ROUNDS, _A_TURN = 8, 64, 4
_MOST_BATCH, _MOST_THREADS, _MOST_TURN_SECONDS = 4096, 1024, 60


def rounds_of(runs: int) -> int:
    """In how many turns so many samples are taken: eight, or a quarter as many where that is more, up to 64, since
    `compare` goes by turns."""
    return min(max(runs, 1), max(_ROUNDS, min(_MOST_ROUNDS, runs // _A_TURN)))


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to measure.

    Attributes:
        runs: Samples a row.
        rounds: In how many turns they are taken; every turn visits every row.
        turn_seconds: A turn of a quick row takes so long, with as many samples as that needs: of a few runs of some
            milliseconds, one disturbance would be the median.
        threads: CPU threads, the same for every row.
        images: Of how many evaluation images the accuracy is; all of them where None.
        scope: What a time holds.
        details: Whether the layers are timed, and the sensitivity to preprocessing measured.
    """

    batches: tuple[int, ...] = (1, 16)
    runs: int = 32
    rounds: int = 8
    turn_seconds: float = 0.1
    threads: int = 1
    images: int | None = None
    scope: Scope = Scope.COPIES
    details: bool = False

    def __post_init__(self) -> None:
        if not self.batches or any(not 1 <= batch <= _MOST_BATCH for batch in self.batches):
            raise InputError("no such batch sizes", got=self.batches, expected=f"1 to {_MOST_BATCH}")
        if self.images is not None and self.images < 1:
            raise InputError("no such number of evaluation images", got=self.images, expected="1 or more")
        counts = 1 <= self.rounds <= self.runs and 1 <= self.threads <= _MOST_THREADS
        if not (counts and 0 <= self.turn_seconds <= _MOST_TURN_SECONDS):
            raise InputError(
                "the bench cannot measure like that",
                got=f"runs {self.runs}, rounds {self.rounds}, threads {self.threads}, turns of {self.turn_seconds} s",
                expected=f"1 <= rounds <= runs, 1 to {_MOST_THREADS} threads, turns of 0 to {_MOST_TURN_SECONDS} s",
            )


@dataclass
class Taken:
    """The samples of one batch of a session, turn by turn.

    Attributes:
        milliseconds: Raw, in the order taken.
        seconds: That the turns took, warm-up left out.
        anchors: Of each turn.
        warm_up: Runs left out before the first turn.
        stable: Whether its times were stable by then.
        evaluated: Whether they were taken while the images were evaluated.
        runs: Of the first turn, of each request in flight; 0 where the evaluation gave the samples.
    """

    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    anchors: list[AnchorTimes] = field(default_factory=list)
    warm_up: int = 0
    stable: bool = True
    evaluated: bool = False
    runs: int = 0

    def add(self, samples: Samples, anchor: AnchorTimes | None) -> None:
        """Adds a turn."""
        if not self.milliseconds:
            self.warm_up, self.stable, self.runs = samples.warm_up, samples.stable, samples.runs
        self.milliseconds += samples.milliseconds
        self.seconds += samples.seconds
        if anchor is not None:
            self.anchors.append(anchor)

    def anchor_json(self) -> dict[str, list[float]] | None:
        """The anchors' times turn by turn; None where none was measured."""
        if not self.anchors:
            return None
        return {
            "compute": [round(anchor.compute, 4) for anchor in self.anchors],
            "memory": [round(anchor.memory, 4) for anchor in self.anchors],
        }


@dataclass
class Candidate:
    """A session to measure, or the reason why there is none.

    Attributes:
        costs: What each of its layers needs, for the roofline; empty where that is not known.
        same_as: Name of the session whose outputs are its own, since it runs the same graph in the same precision.
        timed: Whether it has rows; a reference that was not asked for is evaluated alone.
        parts: Logits of the evaluation images as they came.
    """

    spec: SessionSpec
    size_bytes: int | None = None
    reason: str | None = None
    status: str = "ok"
    costs: tuple[LayerCost, ...] = ()
    same_as: str | None = None
    timed: bool = True
    runner: Runner | None = None
    opened: Opened | None = None
    peak_memory_bytes: int | None = None
    accuracy: Accuracy | None = None
    parts: list[NDArray[np.float32]] = field(default_factory=list)
    logits: NDArray[np.float32] | None = None
    taken: dict[int, Taken] = field(default_factory=dict)
    profiles: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, error: AlexnetDeployError) -> None:
        """Takes the session out of the bench; the rows say why."""
        skipped = isinstance(error, RuntimeUnavailableError | MissingDependencyError)
        self.status, self.reason = ("skipped" if skipped else "failed"), str(error)
        if self.runner is not None:
            self.runner.close()
            self.runner = None


def running(candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, Runner]]:
    """Those that still run; one that was dropped meanwhile is left out."""
    for candidate in candidates:
        if candidate.runner is not None:
            yield candidate, candidate.runner

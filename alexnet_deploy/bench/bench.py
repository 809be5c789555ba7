"""The bench: opens every row's session, measures them in turns, evaluates them, and writes down what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.runner import Runner
from alexnet_deploy.bench.statistics import Accuracy, accuracy_from_logits, latency_from_samples
from alexnet_deploy.errors import (
    AlexnetDeployError,
    DataError,
    InputError,
    MissingDependencyError,
    RuntimeUnavailableError,
    SessionError,
)
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.runtimes.session import SessionSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

BENCH_SCHEMA = 1
# What a row's time holds: for a CPU runtime there is nothing to copy, for a GPU it is host to host.
SCOPE = "compute+copies"
_WARM_UP_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to measure.

    Attributes:
        runs: Samples a row.
        rounds: In how many turns they are taken; every turn visits every row.
        images: Of how many evaluation images the accuracy is; all of them where None.
        threads: CPU threads, the same for every row.
    """

    batches: tuple[int, ...] = (1, 16)
    runs: int = 50
    rounds: int = 5
    threads: int = 1
    images: int | None = None

    def __post_init__(self) -> None:
        if not self.batches or any(not 1 <= batch <= 4096 for batch in self.batches):
            raise InputError("no such batch sizes", got=self.batches, expected="1 to 4096")
        if self.images is not None and self.images < 1:
            raise InputError("no such number of evaluation images", got=self.images, expected="1 or more")
        if not 1 <= self.rounds <= self.runs or not 1 <= self.threads <= 1024:
            raise InputError(
                "the bench cannot measure like that",
                got=f"runs {self.runs}, rounds {self.rounds}, threads {self.threads}",
                expected="1 <= rounds <= runs and 1 to 1024 threads",
            )


@dataclass
class Candidate:
    """A session to measure, or the reason why there is none."""

    spec: SessionSpec
    size_bytes: int | None = None
    reason: str | None = None
    runner: Runner | None = None
    status: str = "ok"
    cold_start_ms: float | None = None
    peak_memory_bytes: int | None = None
    accuracy: Accuracy | None = None
    samples: dict[int, list[float]] = field(default_factory=dict)

    def drop(self, error: AlexnetDeployError) -> None:
        """Takes the session out of the bench; the rows say why."""
        skipped = isinstance(error, RuntimeUnavailableError | MissingDependencyError)
        self.status, self.reason = ("skipped" if skipped else "failed"), str(error)
        if self.runner is not None:
            self.runner.close()
            self.runner = None


def rows_from_candidates(
    candidates: Sequence[Candidate],
    options: BenchOptions,
    make_runner: Callable[[SessionSpec], Runner],
    labels: NDArray[np.int64] | None,
    *,
    voice: Voice = SILENT,
) -> list[dict[str, Any]]:
    """Measures and returns the rows of `bench --json`.

    The first candidate that runs in torch and FP32 is the reference of agreement, SQNR and flips.

    Args:
        candidates: What to measure; those with a reason become skipped rows, unless they say «failed».
        options: Batches, runs and turns.
        make_runner: Makes the runner of a session.
        labels: Of the evaluation images; None where they are not the model's classes.
        voice: Shows progress.

    Raises:
        DataError: An evaluation image is damaged; it would be missing from every row.
    """
    try:
        _open(candidates, make_runner, voice)
        _evaluate(candidates, labels, voice)
        _measure(candidates, options, voice)
    finally:
        for candidate in candidates:
            if candidate.runner is not None:
                candidate.runner.close()
    return [_row(candidate, batch, options) for candidate in candidates for batch in options.batches]


def _running(candidates: Sequence[Candidate]) -> list[tuple[Candidate, Runner]]:
    return [(candidate, candidate.runner) for candidate in candidates if candidate.runner is not None]


def _open(candidates: Sequence[Candidate], make_runner: Callable[[SessionSpec], Runner], voice: Voice) -> None:
    with voice.track("load", len(candidates)) as track:
        for candidate in candidates:
            if candidate.reason is not None:
                candidate.status = "skipped" if candidate.status == "ok" else candidate.status
                continue
            candidate.runner = make_runner(candidate.spec)
            try:
                candidate.cold_start_ms = round(candidate.runner.open().cold_start_ms, 1)
            except DataError:
                raise
            except AlexnetDeployError as exc:
                candidate.drop(exc)
            track.advance(1, candidate.spec.name)


def _evaluate(candidates: Sequence[Candidate], labels: NDArray[np.int64] | None, voice: Voice) -> None:
    reference: NDArray[np.float32] | None = None
    running = _running(candidates)
    with voice.track("accuracy", len(running)) as track:
        for candidate, runner in running:
            try:
                logits = runner.evaluate()
                if not np.isfinite(logits).all():
                    raise SessionError("the outputs are not finite")
            except DataError:
                raise
            except AlexnetDeployError as exc:
                candidate.drop(exc)
                continue
            reference = logits if reference is None else reference
            candidate.accuracy = accuracy_from_logits(logits, reference, labels)
            track.advance(1, candidate.spec.name)


def _measure(candidates: Sequence[Candidate], options: BenchOptions, voice: Voice) -> None:
    turns = np.array_split(np.arange(options.runs), options.rounds)
    with voice.track("latency", len(options.batches) * options.rounds) as track:
        for batch in options.batches:
            for turn in turns:
                for candidate, runner in _running(candidates):
                    try:
                        samples = runner.measure(batch, _WARM_UP_RUNS + len(turn))[_WARM_UP_RUNS:]
                    except AlexnetDeployError as exc:
                        candidate.drop(exc)
                        continue
                    candidate.samples.setdefault(batch, []).extend(samples)
                track.advance(1, f"batch {batch}")
    for candidate, runner in _running(candidates):
        candidate.peak_memory_bytes = runner.peak_memory_bytes()


def _row(candidate: Candidate, batch: int, options: BenchOptions) -> dict[str, Any]:
    spec, samples = candidate.spec, candidate.samples.get(batch, [])
    ok = candidate.status == "ok" and bool(samples)
    latency = latency_from_samples(np.asarray(samples)) if ok else None
    accuracy = candidate.accuracy.to_json() if ok and candidate.accuracy else dict.fromkeys(_ACCURACY_KEYS)
    return {
        "key": f"{spec.name}/{batch}",
        "runtime": spec.runtime,
        "precision": spec.precision.value,
        "batch": batch,
        "threads": options.threads,
        "hint": spec.hint,
        "lrn": spec.lrn,
        "status": candidate.status,
        "reason": candidate.reason,
        "scope": SCOPE,
        "latency_ms": latency.to_json() if latency else None,
        "samples_ms": [round(sample, 4) for sample in samples] if ok else [],
        "cold_start_ms": candidate.cold_start_ms if ok else None,
        "peak_memory_bytes": candidate.peak_memory_bytes if ok else None,
        "throughput_ips": round(batch / latency.median * 1e3, 2) if latency else None,
        **accuracy,
        "size_bytes": candidate.size_bytes,
        "roofline": None,
    }


_ACCURACY_KEYS = ("top1", "top5", "agreement", "sqnr_db", "ece", "flips")


def artifact_size(path: Path) -> int | None:
    """Bytes of an artifact, None where it is not there."""
    return path.stat().st_size if path.is_file() else None

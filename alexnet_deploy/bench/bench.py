"""The bench: opens every candidate's session, evaluates it, measures all in turns, and looks at their layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.anchor import Anchor, AnchorTimes
from alexnet_deploy.bench.candidate import BenchOptions, Candidate, Taken
from alexnet_deploy.bench.peaks import Peaks
from alexnet_deploy.bench.rows import row_of
from alexnet_deploy.bench.runner import Runner
from alexnet_deploy.bench.sampling import AGAIN, UNTIL_STABLE
from alexnet_deploy.bench.statistics import accuracy_from_logits
from alexnet_deploy.errors import AlexnetDeployError, DataError, SessionError
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.runtimes.session import KernelTime, SessionSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PROFILE_RUNS = 3
# Puts the kernels of a session on its layers: session, batch, kernels.
Profiler = Callable[[Candidate, int, list[KernelTime]], dict[str, Any]]


def rows_from_candidates(
    candidates: Sequence[Candidate],
    options: BenchOptions,
    make_runner: Callable[[SessionSpec], Runner],
    labels: NDArray[np.int64] | None,
    *,
    anchor: Anchor | None = None,
    peaks: Peaks | None = None,
    profiler: Profiler | None = None,
    voice: Voice = SILENT,
) -> list[dict[str, Any]]:
    """Measures and returns the rows of `bench --json`; the candidates keep what else was measured of them.

    The first candidate that runs is the reference of agreement, SQNR and flips: torch in FP32 by default.

    Args:
        candidates: What to measure; those with a reason become skipped rows, unless they say «failed».
        options: Batches, runs and turns.
        make_runner: Makes the runner of a session.
        labels: Of the evaluation images; None where they are not the model's classes.
        anchor: Fixed work to measure between all rows; None leaves it out.
        peaks: The machine's, for the roofline.
        profiler: Puts kernels on layers; None leaves the layers out.
        voice: Shows progress.

    Raises:
        DataError: An evaluation image is damaged; it would be missing from every row.
    """
    try:
        _open(candidates, make_runner, voice)
        _evaluate(candidates, labels, voice)
        _measure(candidates, options, anchor, voice)
        if profiler is not None:
            _profile(candidates, options, profiler, voice)
    finally:
        for candidate in candidates:
            if candidate.runner is not None:
                candidate.runner.close()
        if anchor is not None:
            anchor.close()
    return [row_of(candidate, batch, options, peaks) for candidate in candidates for batch in options.batches]


def _running(candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, Runner]]:
    """Those that still run; one that was dropped meanwhile is left out."""
    for candidate in candidates:
        if candidate.runner is not None:
            yield candidate, candidate.runner


def _open(candidates: Sequence[Candidate], make_runner: Callable[[SessionSpec], Runner], voice: Voice) -> None:
    with voice.track("load", len(candidates)) as track:
        for candidate in candidates:
            if candidate.reason is not None:
                candidate.status = "skipped" if candidate.status == "ok" else candidate.status
                continue
            candidate.runner = make_runner(candidate.spec)
            try:
                candidate.opened = candidate.runner.open()
            except DataError:
                raise
            except AlexnetDeployError as exc:
                candidate.drop(exc)
            track.advance(1, candidate.spec.name)


def _evaluate(candidates: Sequence[Candidate], labels: NDArray[np.int64] | None, voice: Voice) -> None:
    reference: NDArray[np.float32] | None = None
    known: dict[str, Candidate] = {}
    with voice.track("accuracy", len(list(_running(candidates)))) as track:
        for candidate, runner in _running(candidates):
            same = known.get(candidate.same_as or "")
            try:
                logits = same.logits if same is not None and same.logits is not None else _logits(runner)
            except DataError:
                raise
            except AlexnetDeployError as exc:
                candidate.drop(exc)
                continue
            reference = logits if reference is None else reference
            candidate.logits = logits
            candidate.accuracy = accuracy_from_logits(logits, reference, labels)
            known[candidate.spec.name] = candidate
            track.advance(1, candidate.spec.name)


def _logits(runner: Runner) -> NDArray[np.float32]:
    logits = runner.evaluate()
    if not np.isfinite(logits).all():
        raise SessionError("the outputs are not finite")
    return logits


def _measure(candidates: Sequence[Candidate], options: BenchOptions, anchor: Anchor | None, voice: Voice) -> None:
    turns = np.array_split(np.arange(options.runs), options.rounds)
    if anchor is not None:
        anchor.open()
    with voice.track("latency", len(options.batches) * options.rounds) as track:
        for batch in options.batches:
            for number, turn in enumerate(turns):
                _turn(candidates, options, batch, len(turn), anchor, first=number == 0)
                track.advance(1, f"batch {batch}")
    for candidate, runner in _running(candidates):
        candidate.peak_memory_bytes = runner.peak_memory_bytes()


def _turn(
    candidates: Sequence[Candidate], options: BenchOptions, batch: int, runs: int, anchor: Anchor | None, *, first: bool
) -> None:
    """Every session once, and the anchor before and after each."""
    before = anchor.measure() if anchor is not None else None
    for candidate, runner in _running(candidates):
        try:
            samples = runner.measure(batch, runs, options.scope, UNTIL_STABLE if first else AGAIN)
        except DataError:
            raise
        except AlexnetDeployError as exc:
            candidate.drop(exc)
            continue
        after = anchor.measure() if anchor is not None else None
        candidate.taken.setdefault(batch, Taken()).add(samples, _between(before, after))
        before = after


def _between(before: AnchorTimes | None, after: AnchorTimes | None) -> AnchorTimes | None:
    if before is None or after is None:
        return None
    return AnchorTimes(compute=(before.compute + after.compute) / 2, memory=(before.memory + after.memory) / 2)


def _profile(candidates: Sequence[Candidate], options: BenchOptions, profiler: Profiler, voice: Voice) -> None:
    with voice.track("layers", len(list(_running(candidates)))) as track:
        for candidate, runner in _running(candidates):
            for batch in (min(options.batches), max(options.batches)) if candidate.same_as is None else ():
                # What the layers take is said beside the rows; a runtime that fails to say it keeps its row.
                try:
                    kernels = runner.layer_times(batch, _PROFILE_RUNS)
                except AlexnetDeployError as exc:
                    voice.warn(f"the layers of {candidate.spec.name} were not timed: {exc}")
                    break
                if kernels is None:
                    break
                if batch not in [profile["batch"] for profile in candidate.profiles]:
                    candidate.profiles.append(profiler(candidate, batch, kernels))
            track.advance(1, candidate.spec.name)

"""The bench: opens every candidate's session, evaluates it, measures all in turns, and looks at their layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.anchor import Anchor, AnchorTimes, GuardedAnchor
from alexnet_deploy.bench.candidate import BenchOptions, Candidate, Taken, running
from alexnet_deploy.bench.evaluation import evaluate, judge, parts_of
from alexnet_deploy.bench.peaks import Peaks
from alexnet_deploy.bench.rows import row_of
from alexnet_deploy.bench.runner import EVALUATION_BATCH, Runner
from alexnet_deploy.bench.sampling import AGAIN, UNTIL_STABLE, Samples
from alexnet_deploy.errors import AlexnetDeployError, DataError
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
    images: int = 0,
    anchor: Anchor | None = None,
    peaks: Peaks | None = None,
    profiler: Profiler | None = None,
    watch: Callable[[], None] = lambda: None,
    voice: Voice = SILENT,
) -> list[dict[str, Any]]:
    """Measures and returns the rows of `bench --json`; the candidates keep what else was measured of them.

    The first FP32 session that runs is the reference of agreement, SQNR and flips: torch by default.

    Args:
        candidates: What to measure; those with a reason become skipped rows, unless they say «failed». One that is
            not `timed` is evaluated and has no rows.
        options: Batches, runs and turns.
        make_runner: Makes the runner of a session.
        labels: Of the evaluation images; None where they are not the model's classes.
        images: How many evaluation images there are; where they are enough, evaluating them is measured as a row too.
        anchor: Fixed work to measure between all rows; None leaves it out.
        peaks: The machine's, for the roofline.
        profiler: Puts kernels on layers; None leaves the layers out.
        watch: Called while a device has just computed, to look at its clocks.
        voice: Shows progress.

    Raises:
        DataError: An evaluation image is damaged; it would be missing from every row.
    """
    try:
        _open(candidates, make_runner, voice)
        parts = parts_of(images, options)
        if parts is None:
            evaluate(candidates, voice)
        _measure(candidates, options, parts, GuardedAnchor(anchor, voice), watch, voice)
        judge(candidates, labels)
        if profiler is not None:
            _profile(candidates, options, profiler, voice)
    finally:
        runners = [candidate.runner for candidate in candidates if candidate.runner is not None]
        for runner in runners:
            runner.release()
        for runner in runners:
            runner.close()
        if anchor is not None:
            anchor.close()
    timed = [candidate for candidate in candidates if candidate.timed]
    return [row_of(candidate, batch, options, peaks) for candidate in timed for batch in options.batches]


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


def _measure(
    candidates: Sequence[Candidate],
    options: BenchOptions,
    parts: Sequence[tuple[int, int]] | None,
    anchor: GuardedAnchor,
    watch: Callable[[], None],
    voice: Voice,
) -> None:
    anchor.open()
    with voice.track("latency", len(options.batches) * options.rounds) as track:
        for batch in options.batches:
            for turn in range(options.rounds):
                part = parts[turn] if parts is not None and batch == EVALUATION_BATCH else None
                last = turn == options.rounds - 1
                _turn(candidates, options, batch, turn, part, anchor, watch if last else None)
                track.advance(1, f"batch {batch}")
    for candidate, runner in running(candidates):
        try:
            candidate.peak_memory_bytes = runner.peak_memory_bytes()
        except AlexnetDeployError as exc:
            candidate.drop(exc)


def _turn(
    candidates: Sequence[Candidate],
    options: BenchOptions,
    batch: int,
    turn: int,
    part: tuple[int, int] | None,
    anchor: GuardedAnchor,
    watch: Callable[[], None] | None,
) -> None:
    """Every session once, and the anchor before and after each."""
    before = anchor.measure()
    for candidate, runner in running(candidates):
        if not candidate.timed:
            continue
        evaluated = part if candidate.same_as is None else None
        try:
            samples = _samples(candidate, runner, options, batch, turn, evaluated)
        except DataError:
            raise
        except AlexnetDeployError as exc:
            candidate.drop(exc)
            continue
        on_device = candidate.opened is not None and candidate.opened.copies
        if on_device and watch is not None:
            watch()
        after = anchor.measure()
        taken = candidate.taken.setdefault(batch, Taken(evaluated=evaluated is not None))
        # The anchor is work for the CPU, and says nothing of a device.
        taken.add(samples, None if on_device else _between(before, after))
        before = after


def _samples(
    candidate: Candidate,
    runner: Runner,
    options: BenchOptions,
    batch: int,
    turn: int,
    evaluated: tuple[int, int] | None,
) -> Samples:
    if evaluated is not None:
        logits, samples = runner.evaluate_part(*evaluated, None if turn else UNTIL_STABLE)
        candidate.parts.append(logits)
        return samples
    first = candidate.taken.get(batch)
    if first is None:
        share, seconds = _share(candidate, options, batch, 0), options.turn_seconds
        return runner.measure(batch, share, options.scope, UNTIL_STABLE, seconds)
    # As many in every turn where the first took more than its share, since turns are told apart by their length.
    longer = first.runs > _share(candidate, options, batch, 0)
    runs = first.runs if longer else _share(candidate, options, batch, turn)
    return runner.measure(batch, runs, options.scope, AGAIN, 0.0)


def _share(candidate: Candidate, options: BenchOptions, batch: int, turn: int) -> int:
    """Runs of one turn; of requests in flight, of each of them."""
    if candidate.opened is None or candidate.opened.in_flight == 1:
        return len(np.array_split(np.arange(options.runs), options.rounds)[turn])
    # As many in every turn; of large batches, which take long, fewer.
    runs = -(-options.runs // options.rounds)
    return runs if batch < EVALUATION_BATCH else max(2, -(-runs // candidate.opened.in_flight))


def _between(before: AnchorTimes | None, after: AnchorTimes | None) -> AnchorTimes | None:
    if before is None or after is None:
        return None
    return AnchorTimes(compute=(before.compute + after.compute) / 2, memory=(before.memory + after.memory) / 2)


def _profile(candidates: Sequence[Candidate], options: BenchOptions, profiler: Profiler, voice: Voice) -> None:
    """At the smallest and the largest batch. A runtime that fails to say what its layers take keeps its rows."""
    batches = tuple(dict.fromkeys((min(options.batches), max(options.batches))))
    with voice.track("layers", len(list(running(candidates)))) as track:
        for candidate, runner in running(candidates):
            if candidate.same_as is None and candidate.timed:
                try:
                    found = runner.layer_times(batches, _PROFILE_RUNS) or []
                except AlexnetDeployError as exc:
                    voice.warn(f"the layers of {candidate.spec.name} were not timed: {exc}")
                else:
                    candidate.profiles += [
                        profiler(candidate, *pair) for pair in zip(batches, found, strict=bool(found))
                    ]
            track.advance(1, candidate.spec.name)

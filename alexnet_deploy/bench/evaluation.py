"""Accuracy of the candidates: one pass over the evaluation images, which may be the latency measurement too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.bench.candidate import BenchOptions, Candidate, running
from alexnet_deploy.bench.runner import EVALUATION_BATCH, Runner
from alexnet_deploy.bench.statistics import accuracy_from_logits
from alexnet_deploy.errors import AlexnetDeployError, DataError, SessionError
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Precision, Scope

if TYPE_CHECKING:
    from numpy.typing import NDArray


def parts_of(images: int, options: BenchOptions) -> list[tuple[int, int]] | None:
    """Which images each turn evaluates, where the pass is timed too; None where the pass is made apart.

    It is timed where its batch is one of the bench's, and where it gives at least as many samples as are asked for; the
    first batch of a turn is none. Every turn has its share of the full batches; what is left goes to the last one.
    """
    full = images // EVALUATION_BATCH
    enough = full - options.rounds >= options.runs
    if EVALUATION_BATCH not in options.batches or options.scope is not Scope.COPIES or not enough:
        return None
    ends = np.cumsum([len(part) for part in np.array_split(np.arange(full), options.rounds)]) * EVALUATION_BATCH
    ends[-1] = images
    return list(zip([0, *(int(end) for end in ends[:-1])], [int(end) for end in ends], strict=True))


def evaluate(candidates: Sequence[Candidate], voice: Voice) -> None:
    """The pass apart from all measurements.

    Raises:
        DataError: An evaluation image is damaged.
    """
    known = {candidate.spec.name for candidate, _ in running(candidates)}
    with voice.track("accuracy", len(known)) as track:
        for candidate, runner in running(candidates):
            if candidate.same_as not in known:
                _keep_logits(candidate, runner)
            track.advance(1, candidate.spec.name)


def _keep_logits(candidate: Candidate, runner: Runner) -> None:
    try:
        candidate.parts.append(runner.evaluate())
    except DataError:
        raise
    except AlexnetDeployError as exc:
        candidate.drop(exc)


def reference_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """What all others are compared with: the first FP32 session that has logits."""
    return next((each for each in candidates if _is_float(each) and each.logits is not None), None)


def _is_float(candidate: Candidate) -> bool:
    return candidate.status == "ok" and candidate.spec.precision is Precision.FP32


def judge(candidates: Sequence[Candidate], labels: NDArray[np.int64] | None) -> None:
    """Compares the logits with the labels and with those of the reference.

    One whose outputs are another's gets them from there; where the other fell out, it is evaluated after all.
    """
    _collect(candidates)
    reference = reference_of(candidates)
    for candidate in candidates:
        if candidate.logits is not None:
            beside = reference.logits if reference is not None else None
            candidate.accuracy = accuracy_from_logits(candidate.logits, beside, labels)


def _collect(candidates: Sequence[Candidate]) -> None:
    known: dict[str, NDArray[np.float32]] = {}
    for candidate, runner in running(candidates):
        if not candidate.parts and candidate.same_as in known:
            candidate.parts.append(known[str(candidate.same_as)])
        elif not candidate.parts:
            _keep_logits(candidate, runner)
        if not candidate.parts:
            continue
        logits = np.concatenate(candidate.parts)
        if not np.isfinite(logits).all():
            candidate.drop(SessionError("the outputs are not finite"))
            continue
        candidate.logits = known[candidate.spec.name] = logits

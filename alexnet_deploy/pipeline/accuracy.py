"""Accuracy of every row of a bench without its latency: over any number of images, here or on a cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from alexnet_deploy.bench.candidate import BENCH_SCHEMA, BenchOptions, Candidate
from alexnet_deploy.bench.rows import row_of
from alexnet_deploy.bench.statistics import Accuracy
from alexnet_deploy.errors import AlexnetDeployError, DataError, SessionError
from alexnet_deploy.machine import environment
from alexnet_deploy.pipeline.candidates import require_runtimes, with_reference
from alexnet_deploy.pipeline.evaluation import EvaluationImages, fresh_candidates
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.progress import Voice
from alexnet_deploy.scale.accuracy import AccuracySums, ReferenceLogits
from alexnet_deploy.scale.executor import Executor
from alexnet_deploy.scale.jobs import BATCH, Evaluate
from alexnet_deploy.specs import Precision


def accuracy_document(
    deployment: Deployment,
    options: BenchOptions,
    executor: Executor,
    *,
    runtimes: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
    data: str | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Makes the artifacts that are missing, evaluates every session and returns the document of `--accuracy-only`.

    A row has the keys that a bench's has, and null where a bench has times. The first FP32 session that runs is the
    reference of agreement, cosine, SQNR and flips: torch by default.

    Args:
        deployment: The model.
        options: Threads, and of how many images.
        executor: Who evaluates.
        runtimes, precisions: Narrow the rows; all by default.
        data: Evaluation images (the test split); the shipped ones by default.
        skip_bad: Leave out damaged images and count them.

    Raises:
        InputError: There is no such runtime or data.
        DataError: An evaluation image is damaged.
    """
    voice = deployment.workspace.voice
    started = time.monotonic()
    require_runtimes(runtimes)
    images = EvaluationImages(deployment, data or "shipped", options.images, skip_bad=skip_bad, executor=executor)
    asked = fresh_candidates(images, deployment, options, runtimes, precisions)
    candidates = with_reference(asked, deployment, options)
    with contextlib.closing(ReferenceLogits()) as reference:
        compared = _evaluate(candidates, images, executor, reference, voice)
    how = executor.to_json()
    threads = int(how.get("threads") or options.threads)
    rows = [accuracy_row(candidate, options) | {"threads": threads} for candidate in candidates if candidate.timed]
    for row in rows:
        if row["status"] == "failed":
            voice.warn(f"{row['key']} failed: {row['reason']}")
    return {
        "schema": BENCH_SCHEMA,
        "accuracy_only": True,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "environment": environment(),
        "executor": how,
        "model": deployment.to_json(),
        "data": images.to_json(),
        "options": {"batches": [BATCH], "threads": threads},
        "reference": compared,
        "rows": rows,
    }


def accuracy_row(candidate: Candidate, options: BenchOptions) -> dict[str, Any]:
    """A bench's row with nothing that was timed."""
    accuracy = candidate.accuracy
    return row_of(candidate, BATCH, options, None) | (accuracy.to_json() if accuracy is not None else {})


def _evaluate(
    candidates: Sequence[Candidate],
    images: EvaluationImages,
    executor: Executor,
    reference: ReferenceLogits,
    voice: Voice,
) -> str | None:
    """Evaluates every candidate, and returns the name of the one that the others were compared with."""
    known: dict[str, Accuracy] = {}
    compared: str | None = None
    # What others are compared with comes before them.
    for candidate in sorted(candidates, key=lambda each: each.spec.precision is not Precision.FP32):
        if candidate.reason is not None:
            candidate.status = "skipped" if candidate.status == "ok" else candidate.status
        elif candidate.same_as in known:
            candidate.accuracy = known[str(candidate.same_as)]
        else:
            try:
                first = compared is None and candidate.spec.precision is Precision.FP32
                beside = reference if first or compared is not None else None
                accuracy = _accuracy(candidate, images, executor, beside, voice, first=first)
                candidate.accuracy = known[candidate.spec.name] = accuracy
                compared = candidate.spec.name if first else compared
            except DataError:
                # It would be missing from every row.
                raise
            except AlexnetDeployError as exc:
                candidate.drop(exc)
    return compared


def _accuracy(
    candidate: Candidate,
    images: EvaluationImages,
    executor: Executor,
    reference: ReferenceLogits | None,
    voice: Voice,
    *,
    first: bool,
) -> Accuracy:
    """Of one candidate against the reference; `first` makes it the reference."""
    job = Evaluate(
        images=images.images,
        indices=images.kept,
        spec=candidate.spec,
        preprocessing=images.data.preprocessing,
        name=candidate.spec.name,
    )
    sums = AccuracySums()
    if first and reference is not None:
        reference.clear()
    with voice.track(job.name, len(images.kept)) as track, contextlib.closing(executor.run(job)) as answers:
        for answer in answers:
            chunk, logits = answer.chunk, answer.arrays["logits"]
            if not np.isfinite(logits).all():
                raise SessionError("the outputs are not finite")
            if first and reference is not None:
                reference.append(logits)
            labels = None if images.labels is None else images.labels[chunk.start : chunk.stop]
            sums.add(logits, None if reference is None else reference.rows(chunk.start, chunk.stop), labels)
            track.advance(len(logits))
    return sums.accuracy()

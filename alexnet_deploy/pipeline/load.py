"""MLPerf scenarios over the sessions of a bench, one test after another, with what LoadGen says of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.conditions import Conditions
from alexnet_deploy.bench.loadgen import MLPERF_MODEL, LoadResult, loadgen_module, rules_from_options
from alexnet_deploy.bench.loadgen_options import SAMPLES_PER_QUERY, LoadOptions, Scenario
from alexnet_deploy.bench.loadgen_worker import load_in_process, require_batch
from alexnet_deploy.bench.runner import EvaluationData
from alexnet_deploy.errors import AlexnetDeployError, DataError
from alexnet_deploy.files import require_writable
from alexnet_deploy.machine import environment
from alexnet_deploy.pipeline.candidates import require_runtimes
from alexnet_deploy.pipeline.evaluation import EvaluationImages, fresh_candidates
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.runtimes.session import THROUGHPUT, SessionSpec
from alexnet_deploy.specs import Precision, Scope

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOAD_SCHEMA = 1
FOLDER = "loadgen"
Run = Callable[[SessionSpec, EvaluationData, LoadOptions, Path], LoadResult]


def scenario_document(
    deployment: Deployment,
    options: LoadOptions,
    *,
    threads: int,
    runtimes: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
    data: str | None = None,
    images: int | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Makes the artifacts that are missing and runs the scenario on every session.

    A session answers one query after the other here, in batches that the scenario sets, so that OpenVINO's throughput
    hint, whose streams would idle, is left out.

    Args:
        deployment: The model.
        options: The scenario.
        threads: CPU threads, the same for every session.
        runtimes, precisions: Narrow the sessions; all by default.
        data: Images to draw from (the test split); the shipped ones by default.
        images: Of how many of them; all by default.
        skip_bad: Leave out damaged images and count them.

    Raises:
        MissingDependencyError: LoadGen is not installed.
        InputError: There is no such runtime or data.
    """
    loadgen_module()
    require_runtimes(runtimes)
    found = EvaluationImages(
        deployment,
        data or "shipped",
        images,
        skip_bad=skip_bad,
        unlabelled="LoadGen's figures are all that is measured",
    )
    largest = BenchOptions(batches=(options.largest_batch,), threads=threads)
    candidates = [
        each
        for each in fresh_candidates(found, deployment, largest, runtimes, precisions)
        if each.spec.hint != THROUGHPUT
    ]
    return load_document(deployment, candidates, options, found.data, found.labels, skipped=found.skipped)


def load_document(
    deployment: Deployment,
    candidates: Sequence[Candidate],
    options: LoadOptions,
    evaluation: EvaluationData,
    labels: NDArray[np.int64] | None,
    *,
    skipped: int = 0,
    run: Run = load_in_process,
    watch: Callable[[], Conditions] = Conditions,
) -> dict[str, Any]:
    """Runs the scenario on every candidate and returns the document of `bench --scenario --json`.

    Args:
        deployment: The model; LoadGen's logs go into its workspace.
        candidates: What to run; those with a reason become skipped rows, unless they say «failed».
        options: The scenario.
        evaluation: The images that LoadGen draws from.
        labels: Of those images; None where they are not the model's classes.
        skipped: How many damaged images were left out of them.
        run: Runs one test; a test injects its own.
        watch: Begins to watch the machine; a test injects its own.

    Raises:
        MissingDependencyError: LoadGen is not installed.
        InputError: A session is made for smaller batches than the scenario asks for.
        DataError: An image is damaged; it would be missing from every row.
    """
    # Before anything is measured.
    rules = rules_from_options(options, len(evaluation.indices))
    for candidate in candidates:
        if candidate.reason is None:
            require_batch(candidate.spec, options)
    require_writable(deployment.workspace.folder / FOLDER)
    rows = []
    voice = deployment.workspace.voice
    watched = watch()
    if (busy := watched.busy()) is not None:
        voice.warn(busy)
    with voice.track(options.scenario.value, len(candidates)) as track:
        for candidate in candidates:
            row = _row(candidate, options, evaluation, labels, deployment.workspace.folder, run)
            if row["status"] == "failed":
                voice.warn(f"{row['session']} failed: {row['reason']}")
            rows.append(row)
            track.advance(1, candidate.spec.name)
    return {
        "schema": LOAD_SCHEMA,
        "kind": "load",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "conditions": watched.to_json(),
        "model": deployment.to_json(),
        "data": {
            "name": evaluation.source().name,
            "images": len(evaluation.indices),
            "skipped": skipped,
            "labelled": labels is not None,
        },
        "options": options.to_json() | _samples_per_query(options),
        "rules": {"mlperf_model": MLPERF_MODEL, **rules.to_json()},
        "rows": rows,
    }


def _samples_per_query(options: LoadOptions) -> dict[str, int]:
    return {"samples_per_query": SAMPLES_PER_QUERY} if options.scenario is Scenario.MULTI_STREAM else {}


def log_folder(spec: SessionSpec, scenario: Scenario) -> Path:
    """Where a test's logs lie below the work directory."""
    return Path(FOLDER) / scenario.value / spec.name.replace("/", "-")


def _row(
    candidate: Candidate,
    options: LoadOptions,
    evaluation: EvaluationData,
    labels: NDArray[np.int64] | None,
    workdir: Path,
    run: Run,
) -> dict[str, Any]:
    row = _empty_row(candidate, options)
    if candidate.reason is not None:
        return row | {"status": "skipped" if candidate.status == "ok" else candidate.status}
    folder = log_folder(candidate.spec, options.scenario)
    try:
        result = run(candidate.spec, evaluation, options, workdir / folder)
    except DataError:
        raise
    except AlexnetDeployError as exc:
        candidate.drop(exc)
        return row | {"status": candidate.status, "reason": candidate.reason}
    return row | _measured(result, labels) | {"log": folder.as_posix()}


def _empty_row(candidate: Candidate, options: LoadOptions) -> dict[str, Any]:
    spec = candidate.spec
    return {
        "session": spec.name,
        "runtime": spec.runtime,
        "precision": spec.precision.value,
        "hint": spec.hint,
        "lrn": spec.lrn,
        "threads": spec.threads,
        "scenario": options.scenario.value,
        "status": candidate.status,
        "reason": candidate.reason,
        "scope": Scope.COPIES.value,
        "size_bytes": candidate.size_bytes,
        **dict.fromkeys(_MEASURED_KEYS),
    }


_MEASURED_KEYS = (
    "valid", "invalid_because", "metric", "also", "latency_ms", "queries", "samples", "duration_s", "rate", "pace",
    "resident", "accuracy", "loadgen", "log",
)  # fmt: skip


def _measured(result: LoadResult, labels: NDArray[np.int64] | None) -> dict[str, Any]:
    verdict = result.verdict
    return {
        "valid": verdict.valid,
        "invalid_because": list(verdict.invalid_because),
        "metric": {
            "name": verdict.metric.name,
            "value": round(verdict.metric.value, 4),
            "unit": verdict.metric.unit,
        },
        "also": {name: round(value, 4) for name, value in verdict.also.items()},
        "latency_ms": {name: round(value, 4) for name, value in verdict.latency_ms.items()},
        "queries": verdict.queries,
        "samples": verdict.samples,
        "duration_s": verdict.duration_s,
        "rate": {"qps": round(result.rate, 3), "derived": result.rate_is_derived},
        "pace": result.pace.to_json(),
        "resident": {"images": result.resident_images, "bytes": result.resident_bytes},
        "accuracy": _accuracy(result.answers, labels),
        "loadgen": {"version": verdict.version, "seeds": verdict.seeds, "errors": list(verdict.errors)},
    }


def _accuracy(answers: Sequence[tuple[int, int]], labels: NDArray[np.int64] | None) -> dict[str, Any]:
    """Of the answers that LoadGen kept; an image may be among them more than once."""
    right = None if labels is None else sum(int(labels[image]) == answer for image, answer in answers)
    return {"answers": len(answers), "top1": right / len(answers) if right is not None and answers else None}

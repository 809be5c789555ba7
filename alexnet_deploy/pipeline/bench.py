"""The bench over a deployment: its candidates measured, and everything the report shows, in one document."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from alexnet_deploy.bench.anchor import ANCHOR_VERSION, RemoteAnchor
from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BENCH_SCHEMA, BenchOptions, Candidate
from alexnet_deploy.bench.conditions import Conditions, with_doubts
from alexnet_deploy.bench.evaluation import reference_of
from alexnet_deploy.bench.peaks import Peaks
from alexnet_deploy.bench.profile import profile_from_kernels
from alexnet_deploy.bench.recommend import recommendations
from alexnet_deploy.bench.rows import session_entry
from alexnet_deploy.bench.runner import RemoteRunner
from alexnet_deploy.machine import environment, gpu_name, version_of
from alexnet_deploy.pipeline.candidates import asked_of, require_runtimes, with_reference
from alexnet_deploy.pipeline.costs import Costs, peaks_in_workspace
from alexnet_deploy.pipeline.evaluation import EvaluationImages, fresh_candidates
from alexnet_deploy.pipeline.evidence import confusion, flipped, histograms, passports
from alexnet_deploy.pipeline.sensitivity import sensitivity
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.runtimes.session import KernelTime
from alexnet_deploy.specs import Precision


def bench_document(
    deployment: Deployment,
    options: BenchOptions,
    *,
    runtimes: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
    data: str | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Makes the artifacts that are missing, measures every row and returns the document of `bench --json`.

    Args:
        deployment: The model.
        options: How to measure.
        runtimes, precisions: Narrow the rows; all by default.
        data: Evaluation images (the test split); the shipped ones by default.
        skip_bad: Leave out damaged images and count them.

    Raises:
        InputError: There is no such runtime or data.
    """
    voice = deployment.workspace.voice
    require_runtimes(runtimes)
    images = EvaluationImages(deployment, data or "shipped", options.images, skip_bad=skip_bad)
    costs = Costs(deployment)
    asked = fresh_candidates(images, deployment, options, runtimes, precisions, costs)
    candidates = with_reference(asked, deployment, options)
    peaks = peaks_in_workspace(deployment, options.threads)
    conditions, started = Conditions(), time.monotonic()
    if (busy := conditions.busy()) is not None:
        voice.warn(busy)
    rows = rows_from_candidates(
        candidates,
        options,
        lambda spec: RemoteRunner(spec, images.data),
        images.labels,
        images=len(images.kept),
        anchor=RemoteAnchor(options.threads),
        peaks=peaks,
        profiler=_Profiler(costs, peaks) if options.details else None,
        watch=conditions.look,
        voice=voice,
    )
    for row in rows:
        if row["status"] == "failed":
            voice.warn(f"{row['key']} failed: {row['reason']}")
    reference = reference_of(candidates)
    sensitive = sensitivity(candidates, images.data, RemoteRunner, images.labels, voice) if options.details else None
    return {
        "schema": BENCH_SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "environment": environment(),
        "conditions": with_doubts(conditions.to_json(), rows, options.threads),
        **_what(deployment, options, images),
        "asked": asked_of(runtimes, precisions),
        "reference": reference.spec.name if reference is not None else None,
        "peaks": peaks.to_json(),
        "network": costs.layers,
        "sessions": [session_entry(each) for each in candidates],
        "rows": rows,
        "recommendation": recommendations(rows, options.batches, _machine()),
        "profiles": [profile for each in candidates for profile in each.profiles],
        "sensitivity": sensitive,
        **_evidence(deployment, candidates, images),
    }


def _what(deployment: Deployment, options: BenchOptions, images: EvaluationImages) -> dict[str, Any]:
    """What was measured, and how: entries that two benches must share to be compared."""
    return {
        "anchor": {"version": ANCHOR_VERSION, "torch": version_of("torch")},
        "model": deployment.to_json(),
        "data": images.to_json(),
        "options": {
            "batches": list(options.batches),
            "runs": options.runs,
            "rounds": options.rounds,
            "turn_seconds": options.turn_seconds,
            "threads": options.threads,
            "scope": options.scope.value,
        },
    }


class _Profiler:
    """Puts what a session's kernels took on the layers of the network."""

    def __init__(self, costs: Costs, peaks: Peaks) -> None:
        self._costs, self._peaks = costs, peaks

    def __call__(self, candidate: Candidate, batch: int, kernels: list[KernelTime]) -> dict[str, Any]:
        layers = [str(layer["name"]) for layer in self._costs.layers]
        profile = profile_from_kernels(kernels, self._costs.layer_of, layers, candidate.costs, batch, self._peaks)
        return {"session": candidate.spec.name, **profile}


def _machine() -> str:
    """What the recommendation calls this machine."""
    machine, gpu = environment(), gpu_name()
    return f"{machine['cpu']} ({machine['cpus']} CPUs){f' with {gpu}' if gpu else ''}"


def _evidence(deployment: Deployment, candidates: Sequence[Candidate], images: EvaluationImages) -> dict[str, Any]:
    table = deployment.present_table()
    names = deployment.info.labels or ()
    shown = [str(index) for index in range(10_000)] if not names else list(names)
    return {
        "calibration": histograms(table),
        "confusion": confusion(candidates, images.labels, names) if names else None,
        "flipped": flipped(candidates, images.source, images.kept, images.labels, shown),
        "passports": passports(candidates, deployment.fp32_graph().path, table),
    }

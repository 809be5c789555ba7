"""The bench over a deployment: its candidates measured, and everything the report shows, in one document."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from alexnet_deploy.artifacts import sha256_of
from alexnet_deploy.bench.anchor import ANCHOR_VERSION, RemoteAnchor
from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BENCH_SCHEMA, BenchOptions, Candidate
from alexnet_deploy.bench.conditions import Conditions
from alexnet_deploy.bench.peaks import Peaks
from alexnet_deploy.bench.profile import profile_from_kernels
from alexnet_deploy.bench.recommend import recommendations
from alexnet_deploy.bench.rows import session_entry
from alexnet_deploy.bench.runner import EvaluationData, RemoteRunner, evaluation_source
from alexnet_deploy.data.batches import Skipped, undamaged
from alexnet_deploy.data.shipped import Split, shipped_hashes
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DataError
from alexnet_deploy.machine import count_gpus, environment, gpu_name, version_of
from alexnet_deploy.pipeline.candidates import candidates_of
from alexnet_deploy.pipeline.costs import Costs, peaks_in_workspace
from alexnet_deploy.pipeline.evidence import confusion, flipped, histograms, passports
from alexnet_deploy.pipeline.sensitivity import sensitivity
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.runtimes.session import KernelTime
from alexnet_deploy.specs import QUANTIZED, Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    images = EvaluationImages(deployment, data or "shipped", options.images, skip_bad=skip_bad)
    candidates = candidates_of(deployment, options, runtimes, precisions)
    if any(each.spec.precision in QUANTIZED and each.reason is None for each in candidates):
        images.require_fresh(deployment)
    peaks = peaks_in_workspace(deployment, options.threads)
    conditions, started = Conditions(), time.monotonic()
    if (busy := conditions.busy()) is not None:
        voice.warn(busy)
    rows = rows_from_candidates(
        candidates,
        options,
        lambda spec: RemoteRunner(spec, images.data),
        images.labels,
        anchor=RemoteAnchor(options.threads),
        peaks=peaks,
        profiler=_Profiler(Costs(deployment), peaks) if options.details else None,
        voice=voice,
    )
    for row in rows:
        if row["status"] == "failed":
            voice.warn(f"{row['key']} failed: {row['reason']}")
    sensitive = sensitivity(candidates, images.data, RemoteRunner, images.labels, voice) if options.details else None
    return {
        "schema": BENCH_SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "environment": environment(),
        "conditions": conditions.to_json(),
        "anchor": {"version": ANCHOR_VERSION, "torch": version_of("torch")},
        "model": {
            **deployment.info.to_json(),
            "source": deployment.source.name,
            "sha256": sha256_of(deployment.source),
        },
        "data": images.to_json(),
        "options": {
            "batches": list(options.batches),
            "runs": options.runs,
            "rounds": options.rounds,
            "threads": options.threads,
            "scope": options.scope.value,
        },
        "peaks": peaks.to_json(),
        "network": Costs(deployment).layers,
        "sessions": [session_entry(each) for each in candidates],
        "rows": rows,
        "recommendation": recommendations(rows, options.batches, _machine()),
        "profiles": [profile for each in candidates for profile in each.profiles],
        "sensitivity": sensitive,
        **_evidence(deployment, candidates, images),
    }


class EvaluationImages:
    """The images that accuracy is measured on, and their labels.

    Args:
        deployment: The model.
        name: `shipped`, or a data source.
        most: How many of them; all where None.
        skip_bad: Leave out damaged ones and count them.
    """

    def __init__(self, deployment: Deployment, name: str, most: int | None, *, skip_bad: bool) -> None:
        voice = deployment.workspace.voice
        skipped = Skipped() if skip_bad else None
        self.source = evaluation_source(name)
        self.kept: NDArray[np.int64] = undamaged(self.source, skipped)[:most]
        self.skipped = len(skipped or ())
        if skipped:
            voice.warn(f"{len(skipped)} damaged images were skipped, the first: {skipped.names[0]}")
        self.labels = _labels(deployment, self.source, self.source.labels[self.kept])
        self.data = EvaluationData(data=name, preprocessing=deployment.info.preprocessing, indices=self.kept)

    def to_json(self) -> dict[str, Any]:
        """The entry `data` of a bench."""
        return {
            "name": self.source.name,
            "images": len(self.kept),
            "skipped": self.skipped,
            "labelled": self.labels is not None,
        }

    def require_fresh(self, deployment: Deployment) -> None:
        """Accuracy on images that INT8 was calibrated or guarded on says little.

        Raises:
            DataError: Some of the evaluation images are among those.
        """
        table = deployment.present_table()
        used = set(CalibrationTable.read(table).images) if table is not None else set()
        used |= shipped_hashes(Split.GUARD)
        shared = used & {self.source.content_hash(int(index)) for index in self.kept}
        if shared:
            raise DataError(
                f"evaluation images of {self.source.name} were used for calibration or by the guard",
                got=f"{len(shared)} of {len(self.kept)} shared",
                expected="sets that share no image (by content hash)",
                remedy="name other images with --data, or calibrate on others with `alexnet-deploy calibrate --data`",
            )


def _labels(deployment: Deployment, source: ImageSource, labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
    if deployment.info.labels == source.classes:
        return labels
    deployment.workspace.voice.warn(
        f"the classes of {source.name} are not those of {deployment.info.name}: top-1 and top-5 are left out, "
        "agreement with the reference is measured (--data names other images)"
    )
    return None


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
    machine = environment()
    return str(gpu_name() if count_gpus() else f"{machine['cpu']} ({machine['cpus']} CPUs)")


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

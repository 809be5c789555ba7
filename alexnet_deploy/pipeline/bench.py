"""Which sessions a bench has on this machine, measured on the same images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.artifacts import sha256_of
from alexnet_deploy.bench.bench import BENCH_SCHEMA, BenchOptions, Candidate, artifact_size, rows_from_candidates
from alexnet_deploy.bench.runner import EVALUATION_BATCH, EvaluationData, RemoteRunner, evaluation_source
from alexnet_deploy.data.batches import Skipped, undamaged
from alexnet_deploy.data.shipped import Split, shipped_hashes
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.engines.options import EngineOptions, Profile, able_sms
from alexnet_deploy.errors import (
    DataError,
    EngineError,
    GraphError,
    InputError,
    MissingDependencyError,
    PrecisionProofError,
)
from alexnet_deploy.machine import count_gpus, cpu_flags, environment, gpu_sm
from alexnet_deploy.optional import is_installed
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.runtimes.admission import NOT_RUN
from alexnet_deploy.runtimes.open import RUNTIMES
from alexnet_deploy.runtimes.session import CUDA_GRAPH, SessionSpec
from alexnet_deploy.specs import QUANTIZED, Lowering, Precision, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NO_BF16 = "this CPU has no bf16 multipliers; it would be emulated"
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
# Whose graph a runtime of ONNX gets.
_TARGETS = {
    "onnxruntime-cpu": Target.ONNXRUNTIME_CPU,
    "openvino": Target.OPENVINO,
    "onnxruntime-cuda": Target.TENSORRT,
    "onnxruntime-tensorrt": Target.TENSORRT,
    "onnxruntime-tensorrt-rtx": Target.TENSORRT_RTX,
}
_ENGINES = ("tensorrt", "tensorrt-rtx")
# What every runtime can hold here, in the order of the report.
_OFFERED = {
    "torch": (Precision.FP32, Precision.BF16),
    "onnxruntime-cpu": (Precision.FP32, Precision.INT8),
    "openvino": (Precision.FP32, Precision.BF16, Precision.INT8),
    "onnxruntime-cuda": (Precision.FP32, Precision.FP16),
    "onnxruntime-tensorrt": (Precision.FP16, Precision.INT8),
    "onnxruntime-tensorrt-rtx": (Precision.FP16, Precision.INT8),
    "tensorrt": (Precision.FP16, Precision.INT8),
    "tensorrt-rtx": (Precision.FP16, Precision.INT8),
}


def bench_document(
    deployment: Deployment,
    options: BenchOptions,
    *,
    runtimes: Sequence[str] = (),
    data: str | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Makes the artifacts that are missing, measures every row and returns the document of `bench --json`.

    Args:
        deployment: The model.
        options: How to measure.
        runtimes: Narrows the rows; all by default.
        data: Evaluation images (the test split); the shipped ones by default.
        skip_bad: Leave out damaged images and count them.

    Raises:
        InputError: There is no such runtime or data.
    """
    unknown = sorted(set(runtimes) - set(RUNTIMES))
    if unknown:
        raise InputError(f"no such runtime: {', '.join(unknown)}", expected=", ".join(RUNTIMES))
    voice = deployment.workspace.voice
    skipped = Skipped() if skip_bad else None
    source = evaluation_source(data or "shipped")
    kept = undamaged(source, skipped)[: options.images]
    if skipped:
        voice.warn(f"{len(skipped)} damaged images were skipped, the first: {skipped.names[0]}")
    labels = _labels(deployment, source, source.labels[kept])
    evaluation = EvaluationData(data=data or "shipped", preprocessing=deployment.info.preprocessing, indices=kept)
    candidates = [
        candidate
        for runtime in RUNTIMES
        if not runtimes or runtime in runtimes
        for candidate in _candidates(deployment, runtime, options)
    ]
    if any(candidate.spec.precision in QUANTIZED and candidate.reason is None for candidate in candidates):
        _require_fresh(deployment, source, kept)
    rows = rows_from_candidates(candidates, options, lambda spec: RemoteRunner(spec, evaluation), labels, voice=voice)
    for row in rows:
        if row["status"] == "failed":
            voice.warn(f"{row['key']} failed: {row['reason']}")
    return {
        "schema": BENCH_SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "model": {
            **deployment.info.to_json(),
            "source": deployment.source.name,
            "sha256": sha256_of(deployment.source),
        },
        "data": {
            "name": source.name,
            "images": len(kept),
            "skipped": len(skipped or ()),
            "labelled": labels is not None,
        },
        "options": {"batches": list(options.batches), "runs": options.runs, "rounds": options.rounds},
        "rows": rows,
    }


def _labels(deployment: Deployment, source: ImageSource, labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
    if deployment.info.labels == source.classes:
        return labels
    deployment.workspace.voice.warn(
        f"the classes of {source.name} are not those of {deployment.info.name}: top-1 and top-5 are left out, "
        "agreement with the reference is measured (--data names other images)"
    )
    return None


def _require_fresh(deployment: Deployment, source: ImageSource, kept: NDArray[np.int64]) -> None:
    """Accuracy on images that INT8 was calibrated or guarded on says little.

    Raises:
        DataError: Some of the evaluation images are among those.
    """
    table = deployment.present_table()
    used = set(CalibrationTable.read(table).images) if table is not None else set()
    used |= shipped_hashes(Split.GUARD)
    shared = used & {source.content_hash(int(index)) for index in kept}
    if shared:
        raise DataError(
            f"evaluation images of {source.name} were used for calibration or by the guard",
            got=f"{len(shared)} of {len(kept)} shared",
            expected="sets that share no image (by content hash)",
            remedy="name other images with --data, or calibrate on others with `alexnet-deploy calibrate --data`",
        )


def _candidates(deployment: Deployment, runtime: str, options: BenchOptions) -> Iterator[Candidate]:
    for precision in _OFFERED[runtime]:
        reason = _why_not(deployment, runtime, precision)
        for hint in _hints(runtime, precision):
            spec = SessionSpec(
                runtime=runtime,
                precision=precision,
                path=Path(),
                threads=options.threads,
                hint=hint,
                max_batch=max(*options.batches, EVALUATION_BATCH),
            )
            if reason is not None:
                yield Candidate(spec=spec, reason=reason)
            else:
                try:
                    yield _with_artifact(deployment, spec)
                except (PrecisionProofError, EngineError, GraphError) as exc:
                    # One artifact that cannot be made is a row that says so, not the end of all others.
                    yield Candidate(spec=spec, reason=str(exc), status="failed")


def _hints(runtime: str, precision: Precision) -> tuple[str | None, ...]:
    """What a runtime is told beyond the graph; a row each."""
    if runtime == "openvino" and precision is Precision.BF16:
        return ("bf16",)
    return (None, CUDA_GRAPH) if runtime in _ENGINES and count_gpus() else (None,)


def _why_not(deployment: Deployment, runtime: str, precision: Precision) -> str | None:
    """The reason why a row needs no artifact: it cannot run here."""
    if runtime == "torch" and deployment.is_graph:
        return "the model came as ONNX; there is no torch network of it"
    if precision is Precision.BF16 and not cpu_flags() & _BF16_FLAGS:
        return _NO_BF16
    if runtime == "openvino" and not is_installed("openvino"):
        return "not installed; pip install 'alexnet-deploy[openvino]'"
    if runtime.startswith("onnxruntime-") and runtime != "onnxruntime-cpu" and count_gpus() == 0:
        return "no CUDA device"
    return None


def _with_artifact(deployment: Deployment, spec: SessionSpec) -> Candidate:
    precision = spec.precision
    lrn: str | None
    if spec.runtime == "torch":
        path, lrn = deployment.source, Lowering.BANDED.value
    elif spec.runtime in _ENGINES:
        return _engine(deployment, spec)
    else:
        # bf16 on OpenVINO is a hint over the FP32 graph.
        wanted = Precision.FP32 if precision is Precision.BF16 else precision
        graph = deployment.graph(wanted, _TARGETS[spec.runtime])
        path, lrn = graph.path, graph.facts.get("lrn")
    return Candidate(spec=dataclasses.replace(spec, path=path, lrn=lrn), size_bytes=artifact_size(path))


def _engine(deployment: Deployment, spec: SessionSpec) -> Candidate:
    sm = gpu_sm()
    if sm is None and spec.runtime == "tensorrt" and is_installed("tensorrt"):
        return Candidate(spec=spec, reason="no CUDA device; TensorRT builds for the GPU at hand")
    if sm is not None and spec.runtime == "tensorrt-rtx" and sm not in able_sms(spec.precision):
        return Candidate(spec=spec, reason=f"TensorRT-RTX has no {spec.precision.value} for SM{sm}")
    options = EngineOptions(
        precision=spec.precision,
        backend=spec.runtime,
        sms=None if sm is None else (sm,),
        profiles=(Profile(max=spec.max_batch),),
    )
    try:
        engine = deployment.engine(options)
    except MissingDependencyError as exc:
        return Candidate(spec=spec, reason=f"{exc.problem}; {exc.remedy}")
    reason = f"{NOT_RUN}no CUDA device" if count_gpus() == 0 else None
    return Candidate(
        spec=dataclasses.replace(spec, path=engine.path, lrn=engine.facts.get("lrn")),
        size_bytes=artifact_size(engine.path),
        reason=reason,
    )

"""Which rows a bench has: every runtime, precision and hint, with the artifact it needs or the reason why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.runner import EVALUATION_BATCH
from alexnet_deploy.engines.options import EngineOptions, Profile, able_sms
from alexnet_deploy.errors import (
    EngineError,
    GraphError,
    InputError,
    MissingDependencyError,
    PrecisionProofError,
    UncalibratedError,
)
from alexnet_deploy.machine import CPU_BF16_FLAGS, count_gpus, cpu_flags, gpu_sm
from alexnet_deploy.optional import is_installed
from alexnet_deploy.pipeline.costs import Costs
from alexnet_deploy.pipeline.sessions import HELD, TARGETS
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.runtimes.admission import NOT_RUN
from alexnet_deploy.runtimes.open import ON_CPU, ON_REQUEST, RUNTIMES
from alexnet_deploy.runtimes.session import BF16_HINT, CUDA_GRAPH, THROUGHPUT, SessionSpec
from alexnet_deploy.specs import QUANTIZED, Lowering, Precision

_NO_BF16 = "this CPU has no bf16 multipliers; it would be emulated"
_TORCH = ("torch", "torch-compile")
_ENGINES = ("tensorrt", "tensorrt-rtx")
# What every runtime can hold here.
_OFFERED = {
    **HELD,
    "tensorrt": (Precision.FP16, Precision.INT8),
    "tensorrt-rtx": (Precision.FP16, Precision.INT8),
    "torch-compile": HELD["torch"],
}


# What it costs minutes to build, and few ask for.
_IF_NAMED = dict.fromkeys(_ENGINES, (Precision.FP32, Precision.BF16, Precision.FP8, Precision.INT4))


def _precisions_of(runtime: str, named: Sequence[Precision]) -> list[Precision]:
    """What a runtime is measured in; all that it is measured in by default where none is named."""
    if not named:
        return list(_OFFERED[runtime])
    return [precision for precision in (*_OFFERED[runtime], *_IF_NAMED.get(runtime, ())) if precision in named]


def require_runtimes(names: Sequence[str]) -> None:
    """Checks names before any work.

    Raises:
        InputError: One of them is no runtime.
    """
    unknown = sorted(set(names) - set(RUNTIMES))
    if unknown:
        raise InputError(f"no such runtime: {', '.join(unknown)}", expected=", ".join(RUNTIMES))


def offers_quantized(runtimes: Sequence[str], precisions: Sequence[Precision]) -> bool:
    """Whether some of the rows that were asked for are of a quantized precision."""
    return any(
        precision in QUANTIZED for runtime in _wanted(runtimes) for precision in _precisions_of(runtime, precisions)
    )


def _wanted(runtimes: Sequence[str]) -> list[str]:
    return [name for name in RUNTIMES if (name in runtimes if runtimes else name not in ON_REQUEST)]


def asked_of(runtimes: Sequence[str], precisions: Sequence[Precision]) -> dict[str, list[str]]:
    """The entry `asked` of a bench: the runtimes that it went over, and each with its precisions."""
    wanted = _wanted(runtimes)
    pairs = [f"{runtime}/{precision.value}" for runtime in wanted for precision in _precisions_of(runtime, precisions)]
    return {"runtimes": wanted, "precisions": [precision.value for precision in precisions], "rows": pairs}


def candidates_of(
    deployment: Deployment,
    options: BenchOptions,
    runtimes: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
    costs: Costs | None = None,
) -> list[Candidate]:
    """Makes the artifacts that are missing, and returns a candidate for every row.

    Args:
        deployment: The model.
        options: How it will be measured.
        runtimes: Narrows them; all but those on request by default.
        precisions: Narrows them; all by default.
        costs: Of the deployment, where they are known already.

    Raises:
        InputError: There is no such runtime, or none of them holds the precisions.
    """
    require_runtimes(runtimes)
    wanted = _wanted(runtimes)
    costs = costs or Costs(deployment)
    found = [
        candidate
        for runtime in wanted
        for precision in _precisions_of(runtime, precisions)
        for candidate in _candidates(deployment, runtime, precision, options)
    ]
    if not found:
        raise InputError(
            "there is nothing to measure",
            got=f"{', '.join(wanted)} in {', '.join(precisions)}",
            expected="; ".join(f"{name}: {', '.join(_precisions_of(name, tuple(Precision)))}" for name in wanted),
        )
    return [_with_costs(each, costs) if each.reason is None else each for each in found]


def with_reference(candidates: list[Candidate], deployment: Deployment, options: BenchOptions) -> list[Candidate]:
    """Adds ONNX Runtime's FP32 session, evaluated and not timed, where nothing is measured in FP32: quantized rows
    would be compared with themselves."""
    running = [candidate for candidate in candidates if candidate.reason is None]
    if not running or any(candidate.spec.precision is Precision.FP32 for candidate in running):
        return candidates
    (reference,) = _candidates(deployment, "onnxruntime-cpu", Precision.FP32, options)
    return [*candidates, dataclasses.replace(reference, timed=False)]


def _with_costs(candidate: Candidate, costs: Costs) -> Candidate:
    needed = costs.of(candidate.spec)
    if candidate.spec.runtime not in _TORCH:
        return dataclasses.replace(candidate, costs=needed)
    # The checkpoint is compressed, and may be pruned: what torch holds is what is as large as another's file.
    return dataclasses.replace(candidate, costs=needed, size_bytes=sum(cost.run_bytes for cost in needed))


def _candidates(
    deployment: Deployment, runtime: str, precision: Precision, options: BenchOptions
) -> Iterator[Candidate]:
    reason = _why_not(deployment, runtime, precision)
    plain: str | None = None
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
                same = plain if hint == THROUGHPUT else None
                yield dataclasses.replace(_with_artifact(deployment, spec, options.batches), same_as=same)
            except (PrecisionProofError, EngineError, GraphError) as exc:
                # One artifact that cannot be made is a row that says so, not the end of all others.
                yield Candidate(spec=spec, reason=str(exc), status="failed")
            except UncalibratedError as exc:
                yield Candidate(spec=spec, reason=f"{exc.problem}; {exc.remedy}")
        # More requests at once compute the same.
        plain = spec.name if hint is None else plain


def _hints(runtime: str, precision: Precision) -> tuple[str | None, ...]:
    """What a runtime is told beyond the graph; a row each."""
    if runtime == "openvino":
        # What INT8 leaves in float is computed in bf16 then.
        halves = precision is Precision.INT8 and cpu_flags() & CPU_BF16_FLAGS
        return (None, BF16_HINT, THROUGHPUT) if halves else (None, THROUGHPUT)
    return (None, CUDA_GRAPH) if runtime in _ENGINES and count_gpus() else (None,)


def _why_not(deployment: Deployment, runtime: str, precision: Precision) -> str | None:
    """The reason why a row needs no artifact: it cannot run here."""
    if runtime in _TORCH and deployment.is_graph:
        return "the model came as ONNX; there is no torch network of it"
    if runtime in ON_CPU and precision is Precision.BF16 and not cpu_flags() & CPU_BF16_FLAGS:
        return _NO_BF16
    if runtime == "openvino" and not is_installed("openvino"):
        return "not installed; pip install 'alexnet-deploy[openvino]'"
    if runtime.startswith("onnxruntime-") and runtime != "onnxruntime-cpu" and count_gpus() == 0:
        return "no CUDA device"
    return None


def _with_artifact(deployment: Deployment, spec: SessionSpec, batches: Sequence[int]) -> Candidate:
    precision = spec.precision
    lrn: str | None
    if spec.runtime in _TORCH:
        path, lrn = deployment.source, Lowering.BANDED.value
    elif spec.runtime in _ENGINES:
        return _engine(deployment, spec, batches)
    else:
        # bf16 on OpenVINO is a hint over the FP32 graph.
        wanted = Precision.FP32 if precision is Precision.BF16 else precision
        graph = deployment.graph(wanted, TARGETS[spec.runtime])
        path, lrn = graph.path, graph.facts.get("lrn")
    return Candidate(spec=dataclasses.replace(spec, path=path, lrn=lrn), size_bytes=artifact_size(path))


def _profiles_of(batches: Sequence[int], most: int) -> tuple[Profile, ...]:
    """A profile tuned for each batch; together they take every batch up to the largest."""
    sizes = sorted(set(batches))
    ends = [*sizes[:-1], max(most, sizes[-1])]
    starts = [1, *(size + 1 for size in sizes[:-1])]
    return tuple(Profile(min=start, opt=size, max=end) for start, size, end in zip(starts, sizes, ends, strict=True))


def _engine(deployment: Deployment, spec: SessionSpec, batches: Sequence[int]) -> Candidate:
    sm = gpu_sm()
    if sm is None and spec.runtime == "tensorrt" and is_installed("tensorrt"):
        return Candidate(spec=spec, reason="no CUDA device; TensorRT builds for the GPU at hand")
    if sm is not None and spec.runtime == "tensorrt-rtx" and sm not in able_sms(spec.precision):
        return Candidate(spec=spec, reason=f"TensorRT-RTX has no {spec.precision.value} for SM{sm}")
    options = EngineOptions(
        precision=spec.precision,
        backend=spec.runtime,
        sms=None if sm is None else (sm,),
        # What cannot be run here is the engine that `build-engine` makes by default.
        profiles=(Profile(max=spec.max_batch),) if sm is None else _profiles_of(batches, spec.max_batch),
    )
    try:
        engine = deployment.engine(options)
    except MissingDependencyError as exc:
        return Candidate(spec=spec, reason=f"{exc.problem}; {exc.remedy}")
    except InputError as exc:
        # The GPU at hand does not hold the precision.
        return Candidate(spec=spec, reason=f"{exc.problem}, expected: {exc.expected}")
    reason = f"{NOT_RUN}no CUDA device" if count_gpus() == 0 else None
    return Candidate(
        spec=dataclasses.replace(spec, path=engine.path, lrn=engine.facts.get("lrn")),
        size_bytes=artifact_size(engine.path),
        reason=reason,
    )


def artifact_size(path: Path) -> int | None:
    """Bytes of an artifact, None where it is not there."""
    return path.stat().st_size if path.is_file() else None

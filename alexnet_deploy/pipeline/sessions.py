"""What `predict` and `serve` run of a model: the graph of a runtime, or torch's own network."""

from __future__ import annotations

from pathlib import Path

from alexnet_deploy.errors import InputError, RuntimeUnavailableError
from alexnet_deploy.machine import CPU_BF16_FLAGS, count_gpus, cpu_flags
from alexnet_deploy.optional import require_installed
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.runtimes.open import ON_CPU
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision, Target

TORCH = "torch"
# Whose graph a runtime gets.
TARGETS = {
    "onnxruntime-cpu": Target.ONNXRUNTIME_CPU,
    "openvino": Target.OPENVINO,
    "onnxruntime-cuda": Target.TENSORRT,
    "onnxruntime-tensorrt": Target.TENSORRT,
    "onnxruntime-tensorrt-rtx": Target.TENSORRT_RTX,
}
# What a runtime holds, which is what `bench` measures; the first one where none is named.
HELD = {
    "onnxruntime-cpu": (Precision.FP32, Precision.INT8),
    "openvino": (Precision.FP32, Precision.BF16, Precision.INT8),
    TORCH: (Precision.FP32, Precision.BF16),
    "onnxruntime-cuda": (Precision.FP32, Precision.FP16),
    "onnxruntime-tensorrt": (Precision.FP16, Precision.INT8),
    "onnxruntime-tensorrt-rtx": (Precision.FP16, Precision.INT8),
}
DEFAULT_MAX_BATCH = 16


def session_from_model(
    deployment: Deployment,
    runtime: str,
    precision: Precision | None = None,
    *,
    threads: int,
    max_batch: int = DEFAULT_MAX_BATCH,
    here: bool = True,
) -> SessionSpec:
    """How to run a model; makes its graph where it is not there.

    Args:
        deployment: The model.
        runtime: One of `HELD`.
        precision: One that it holds; the first of them where None.
        threads, max_batch: Of the session.
        here: It runs on this machine, so that what is missing here is said before anything is made.

    Raises:
        InputError: The runtime does not hold the precision, or takes no such model.
        RuntimeUnavailableError: This machine has no such device.
        MissingDependencyError: The runtime is not installed.
    """
    chosen = _held(runtime, precision)
    if here:
        _require_here(runtime, chosen)
    if runtime == TORCH:
        path = _checkpoint(deployment)
    else:
        # Of OpenVINO, bf16 is a hint over the FP32 graph.
        stored = Precision.FP32 if chosen is Precision.BF16 else chosen
        path = deployment.graph(stored, TARGETS[runtime]).path
    # Absolute, for processes that are started elsewhere.
    return SessionSpec(runtime=runtime, precision=chosen, path=path.absolute(), threads=threads, max_batch=max_batch)


def _held(runtime: str, precision: Precision | None) -> Precision:
    if runtime not in HELD:
        raise InputError("no such runtime of a graph", got=runtime, expected=", ".join(HELD))
    if precision is not None and precision not in HELD[runtime]:
        raise InputError(
            f"{runtime} does not hold that precision",
            got=precision.value,
            expected=", ".join(HELD[runtime]),
            remedy="name another --precision or --runtime; engines hold more (--engine)",
        )
    return precision or HELD[runtime][0]


def _require_here(runtime: str, precision: Precision) -> None:
    if runtime not in ON_CPU and count_gpus() == 0:
        raise RuntimeUnavailableError(
            f"{runtime} cannot run on this machine",
            got="no CUDA device",
            expected="a GPU",
            remedy=f"name one of {', '.join(name for name in HELD if name in ON_CPU)} with --runtime",
        )
    if precision is Precision.BF16 and not cpu_flags() & CPU_BF16_FLAGS:
        raise RuntimeUnavailableError(
            f"{runtime} would emulate bf16 on this machine",
            got="a CPU without bf16 multipliers",
            expected=" or ".join(sorted(CPU_BF16_FLAGS)),
            remedy="name another --precision",
        )
    if runtime == "openvino":
        require_installed("openvino", "--runtime openvino")


def _checkpoint(deployment: Deployment) -> Path:
    if deployment.is_graph:
        raise InputError(
            "there is no torch network of the model",
            got=f"{deployment.source.name}, which is ONNX",
            expected="a checkpoint",
            remedy="name another --runtime",
        )
    return deployment.source

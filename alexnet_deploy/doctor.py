"""What this machine can run, what is missing, and how to get it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alexnet_deploy.machine import count_gpus, cpu_flags, cuda_driver_version, environment, gpu_sm, version_of
from alexnet_deploy.optional import is_installed

_INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8")
_BF16_FLAGS = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: `state` is ok, missing or limited; `remedy` says how to get what is missing."""

    subject: str
    state: str
    detail: str
    remedy: str | None = None


def diagnose() -> tuple[dict[str, Any], list[Finding]]:
    """Returns the environment and the findings; imports no framework but ONNX Runtime."""
    findings = [
        _package("torch", "torch", "training and the reference"),
        _package("onnxruntime", "onnxruntime-gpu", "ONNX Runtime", alternative="onnxruntime"),
        _package("openvino", "openvino", "the openvino runtime", extra="openvino"),
        _package("tensorrt_rtx", "tensorrt-rtx", "building TensorRT-RTX engines, without a GPU too", extra="rtx"),
        _package("tensorrt", "tensorrt", "building TensorRT engines on a GPU", extra="tensorrt"),
        _package("pycuda", "pycuda", "running engines on a GPU", extra="cuda"),
        _package("cuda.bindings", "cuda-bindings", "CUDA graphs, and the LRN plugin on a GPU", extra="cuda"),
        _package(
            "onnxruntime_ep_nv_tensorrt_rtx",
            "onnxruntime-ep-nv-tensorrt-rtx",
            "ONNX Runtime's TensorRT-RTX provider",
            extra="rtx-provider",
        ),
        _package("mlperf_loadgen", "mlcommons-loadgen", "MLPerf scenarios, on Python 3.11", extra="loadgen"),
        _gpu(),
        _cpu_int8(),
        _cpu_bf16(),
    ]
    return environment(), findings


def _package(
    module: str, distribution: str, purpose: str, *, extra: str | None = None, alternative: str | None = None
) -> Finding:
    version = version_of(distribution) or (version_of(alternative) if alternative else None)
    if is_installed(module):
        return Finding(subject=distribution, state="ok", detail=f"{version or 'unknown version'}: {purpose}")
    remedy = f"pip install 'alexnet-deploy[{extra}]'" if extra else "pip install --force-reinstall alexnet-deploy"
    return Finding(subject=distribution, state="missing", detail=purpose, remedy=remedy)


def _gpu() -> Finding:
    count = count_gpus()
    if count:
        detail = f"{count} device(s), the first SM{gpu_sm()}, a driver for CUDA {cuda_driver_version()}"
        return Finding(subject="CUDA", state="ok", detail=detail)
    return Finding(
        subject="CUDA",
        state="missing",
        detail="no driver or no device: engines are built and proved, not run",
        remedy="copy the engine and its passport to a machine with a GPU of one of its SMs",
    )


def _cpu_int8() -> Finding:
    found = [flag for flag in _INT8_FLAGS if flag in cpu_flags()]
    if found:
        return Finding(subject="CPU INT8", state="ok", detail=", ".join(found))
    return Finding(
        subject="CPU INT8",
        state="limited",
        detail="no VNNI: INT8 on this CPU gains from smaller weights, and little from arithmetic",
    )


def _cpu_bf16() -> Finding:
    found = [flag for flag in _BF16_FLAGS if flag in cpu_flags()]
    if found:
        return Finding(subject="CPU bf16", state="ok", detail=", ".join(found))
    return Finding(subject="CPU bf16", state="limited", detail="no bf16 multipliers: bf16 rows are skipped")

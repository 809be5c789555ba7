"""Lazy import of optional packages, and the one place that picks the TensorRT flavour."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from alexnet_deploy.errors import InputError, MissingDependencyError

# Module -> (distribution, extra that brings it).
_EXTRAS = {
    "openvino": ("openvino", "openvino"),
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt_rtx": ("tensorrt-rtx", "rtx"),
    "pycuda": ("pycuda", "cuda"),
    "pycuda.driver": ("pycuda", "cuda"),
    "cuda.bindings": ("cuda-bindings", "cuda"),
    "triton": ("triton", "plugin"),
    "ray": ("ray", "ray"),
    "ray.serve": ("ray", "ray"),
    "ray.serve._private.replica": ("ray", "ray"),
    "mlperf_loadgen": ("mlcommons-loadgen", "loadgen"),
    "ray.data": ("ray", "ray"),
    "pyarrow": ("pyarrow", "ray"),
    "pyarrow.parquet": ("pyarrow", "ray"),
    "onnxruntime_ep_nv_tensorrt_rtx": ("onnxruntime-ep-nv-tensorrt-rtx", "rtx-provider"),
}
TENSORRT_BACKENDS = ("auto", "tensorrt", "tensorrt-rtx")


def is_installed(module: str) -> bool:
    """Whether `module` can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def require(module: str, feature: str) -> ModuleType:
    """Imports an optional module.

    Args:
        module: Its import name.
        feature: What needs it, for the message.

    Raises:
        MissingDependencyError: It is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        if is_installed(module):
            raise _needed(module, feature, "does not load", exc) from exc
        raise _needed(module, feature, "is not installed") from exc


def require_installed(module: str, feature: str) -> None:
    """Checks before long work that `require` will find a module, without importing it.

    Args:
        module: Its import name, without a dot (a package is imported where its module is looked for).
        feature: What needs it, for the message.

    Raises:
        MissingDependencyError: It is not installed.
    """
    if not is_installed(module):
        raise _needed(module, feature, "is not installed")


def _needed(module: str, feature: str, wrong: str, got: object = None) -> MissingDependencyError:
    distribution, extra = _EXTRAS.get(module, (module, "dev"))
    return MissingDependencyError(
        f"{feature} needs the package {distribution}, which {wrong}",
        got=got,
        remedy=f"pip install 'alexnet-deploy[{extra}]'",
    )


def tensorrt_backend(backend: str, *, ahead: bool = False) -> str:
    """Picks the TensorRT flavour by name; imports nothing.

    Args:
        backend: `tensorrt`, `tensorrt-rtx`, or `auto`: TensorRT where it is installed and a GPU is here (its
            engines are built on the GPU that runs them), else TensorRT-RTX.
        ahead: The engine is for GPUs that were named, which of the two TensorRT-RTX alone can do.

    Raises:
        InputError: There is no such backend.
    """
    if backend not in TENSORRT_BACKENDS:
        raise InputError("no such backend", got=backend, expected=", ".join(TENSORRT_BACKENDS))
    if backend != "auto":
        return backend
    from alexnet_deploy.machine import count_gpus

    return "tensorrt" if not ahead and is_installed("tensorrt") and count_gpus() > 0 else "tensorrt-rtx"


def tensorrt_version(backend: str) -> str:
    """Version of an installed backend; of TensorRT-RTX, which one distribution brings, without importing it.

    TensorRT's module may come from several (`tensorrt`, `tensorrt-cu13`), of which one may be left over.

    Raises:
        MissingDependencyError: It is not installed.
    """
    from alexnet_deploy.machine import version_of

    module = _module_of(backend)
    version = version_of("tensorrt-rtx") if backend == "tensorrt-rtx" and is_installed(module) else None
    return version or str(tensorrt_module(backend).__version__)


def tensorrt_module(backend: str) -> Any:
    """Imports `tensorrt` or `tensorrt_rtx`.

    Raises:
        MissingDependencyError: It is not installed, or is the stub without libraries.
    """
    module = require(_module_of(backend), f"the backend {backend}")
    if not hasattr(module, "Builder"):
        raise MissingDependencyError(
            f"the package {backend} is here, but its libraries are not",
            got=f"module {module.__name__} without Builder",
            remedy=f"pip install 'alexnet-deploy[{_EXTRAS[module.__name__][1]}]' where NVIDIA's index is reachable",
        )
    return module


def _module_of(backend: str) -> str:
    return backend.replace("-", "_")

"""ONNX Runtime on the CPU, CUDA, TensorRT or TensorRT-RTX, without its silent fallback."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.errors import InputError, MissingDependencyError, RuntimeUnavailableError, SessionError
from alexnet_deploy.graph_guard import read_proto
from alexnet_deploy.machine import count_gpus
from alexnet_deploy.optional import require, tensorrt_module
from alexnet_deploy.runtimes.session import KernelTime, Session, SessionSpec
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CPU, CUDA, TENSORRT, RTX = (
    "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider",
)  # fmt: skip
PROVIDERS = {
    "onnxruntime-cpu": CPU,
    "onnxruntime-cuda": CUDA,
    "onnxruntime-tensorrt": TENSORRT,
    "onnxruntime-tensorrt-rtx": RTX,
}
# The package that brings the TensorRT-RTX provider; ONNX Runtime's own builds have the others.
RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
# Of `libnvinfer`, which the provider of ONNX Runtime 1.31 is linked against.
_TENSORRT_MAJOR = "10"
_MOST_NODES = 8
# The suffix of a kernel's own events in a trace.
_KERNEL = "_kernel_time"
_PROFILE_WARM_UP = 1


class OnnxRuntimeSession(Session):
    """One provider, and an error that names every node that would run on another.

    Raises:
        RuntimeUnavailableError: There is no CUDA device, or this build of ONNX Runtime lacks the provider.
        MissingDependencyError: ONNX Runtime does not load, or the provider's package is not installed.
        SessionError: The graph does not load, or would fall back.
    """

    def __init__(self, spec: SessionSpec) -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise MissingDependencyError(
                "ONNX Runtime does not load", got=exc, remedy="pip install --force-reinstall onnxruntime-gpu"
            ) from exc
        provider = PROVIDERS[spec.runtime]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = spec.threads
        options.log_severity_level = 3
        # Threads that go on spinning after a run take the CPU from whatever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._traces: tempfile.TemporaryDirectory[str] | None = None
        if spec.profile:
            self._traces = tempfile.TemporaryDirectory(prefix="alexnet-deploy-")
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._traces.name) / "trace")
        if provider != CPU:
            self.copies = True
            _require_device(onnxruntime, provider)
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        arguments = _provider_arguments(onnxruntime, options, provider, spec)
        try:
            session: Any = onnxruntime.InferenceSession(str(spec.path), options, **arguments)
        except Exception as exc:  # its errors share no base class
            raise SessionError(
                f"ONNX Runtime cannot load {spec.path.name} on {provider}", got=str(exc).split("\n")[0]
            ) from exc
        if provider != CPU:
            require_assigned(session, provider)
        self._session: Any = session
        self._most = spec.max_batch if provider in (TENSORRT, RTX) else None
        image = session.get_inputs()[0]
        self._name = image.name
        channels, height, width = image.shape[1:]
        self.image_shape = (channels, height, width)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._most is not None and len(images) > self._most:
            # The provider would build another engine in the middle of whatever is being measured.
            raise InputError("the session takes no batch of that size", got=len(images), expected=f"1 to {self._most}")
        outputs: NDArray[np.float32] = self._session.run(None, {self._name: images})[0]
        return outputs

    def layer_times(self, batches: Sequence[NDArray[np.float32]], runs: int) -> list[list[KernelTime]] | None:
        if self._traces is None:
            return None
        for images in batches:
            for _ in range(_PROFILE_WARM_UP + runs):
                self._run(images)
        events = json.loads(Path(self._session.end_profiling()).read_text())
        return kernels_from_trace(events, len(batches), runs)

    def close(self) -> None:
        self._session = None
        if self._traces is not None:
            self._traces.cleanup()


def kernels_from_trace(events: list[dict[str, Any]], batches: int, runs: int) -> list[list[KernelTime]]:
    """Median time of every kernel from a trace that ONNX Runtime wrote, in microseconds.

    Args:
        events: Of `batches` groups of runs, one after the other, each with its warm-up.
        batches, runs: How many.
    """
    taken: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            key = name.removesuffix(_KERNEL), str(event.get("args", {}).get("op_name", ""))
            taken.setdefault(key, []).append(float(event["dur"]) / 1e3)
    return [
        [
            KernelTime(name=name, op=op, milliseconds=statistics.median(_group(times, batches, group)[-runs:]))
            for (name, op), times in taken.items()
        ]
        for group in range(batches)
    ]


def _group(times: list[float], groups: int, index: int) -> list[float]:
    """Every group ran a kernel as often."""
    length = len(times) // groups
    return times[index * length : (index + 1) * length]


def _require_device(onnxruntime: Any, provider: str) -> None:
    if count_gpus() == 0:
        raise RuntimeUnavailableError("no CUDA device")
    if provider != RTX and provider not in onnxruntime.get_available_providers():
        raise RuntimeUnavailableError(f"this build of ONNX Runtime has no {provider}")
    # The CUDA libraries that PyTorch's packages bring.
    onnxruntime.preload_dlls()
    if provider == TENSORRT:
        # The provider finds TensorRT's libraries only where they are loaded, and was built for one major version.
        version = str(tensorrt_module("tensorrt").__version__)
        if version.split(".")[0] != _TENSORRT_MAJOR:
            raise RuntimeUnavailableError(
                f"ONNX Runtime's TensorRT provider takes TensorRT {_TENSORRT_MAJOR}, and here is {version}; "
                f"pip install 'tensorrt-cu13<{int(_TENSORRT_MAJOR) + 1}'"
            )


def _provider_arguments(onnxruntime: Any, options: Any, provider: str, spec: SessionSpec) -> dict[str, Any]:
    """What the session is opened with, so that no provider but this one and the CPU's is tried."""
    if provider == CPU:
        return {"providers": [provider]}
    if provider == RTX:
        _add_rtx(onnxruntime, options, _profile_shapes(spec, "nv_profile_{}_shapes"))
        return {"enable_fallback": 0}
    # Without it ONNX Runtime prints an error and opens the session on the CPU. TensorRT takes types from the graph, so
    # that its switches for FP16 and INT8 stay off.
    chosen = _profile_shapes(spec, "trt_profile_{}_shapes") if provider == TENSORRT else {}
    if provider == CUDA and spec.precision is Precision.FP32:
        chosen["use_tf32"] = "0"
    return {"providers": [(provider, chosen)], "enable_fallback": 0}


def _add_rtx(onnxruntime: Any, options: Any, chosen: dict[str, str]) -> None:
    package = require(RTX_PACKAGE, "the TensorRT-RTX provider of ONNX Runtime")
    name = package.get_ep_name()
    try:
        if not any(device.ep_name == name for device in onnxruntime.get_ep_devices()):
            onnxruntime.register_execution_provider_library(name, package.get_library_path())
    except Exception as exc:  # its errors share no base class
        raise SessionError("the TensorRT-RTX provider cannot be loaded", got=str(exc).split("\n")[0]) from exc
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise RuntimeUnavailableError("the TensorRT-RTX provider finds no device that it supports")
    options.add_provider_for_devices(devices[:1], chosen)


def _profile_shapes(spec: SessionSpec, key: str) -> dict[str, str]:
    """Batches from 1 to the largest, so that one engine serves them all."""

    image = read_proto(spec.path).graph.input[0]
    sides = "x".join(str(side.dim_value) for side in image.type.tensor_type.shape.dim[1:])
    batches = {"min": 1, "opt": 1, "max": spec.max_batch}
    return {key.format(name): f"{image.name}:{batch}x{sides}" for name, batch in batches.items()}


def require_assigned(session: Any, provider: str) -> None:
    """Every node runs on the provider.

    Raises:
        SessionError: Some would run elsewhere; the message names them.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise SessionError("this ONNX Runtime does not say where a node runs", remedy="pip install -U onnxruntime-gpu")
    elsewhere = [
        f"{node.name or 'a nameless node'} ({node.op_type}) on {part.ep_name}"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    ]
    if elsewhere:
        more = f", and {len(elsewhere) - _MOST_NODES} more" if len(elsewhere) > _MOST_NODES else ""
        raise SessionError(
            f"{len(elsewhere)} nodes would not run on {provider}",
            got=", ".join(elsewhere[:_MOST_NODES]) + more,
            expected=f"every node on {provider}",
        )

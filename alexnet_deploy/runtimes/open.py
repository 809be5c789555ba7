"""Opens a session by the name of its runtime."""

from __future__ import annotations

from alexnet_deploy.errors import InputError
from alexnet_deploy.runtimes.session import Session, SessionSpec

RUNTIMES = (
    "torch", "onnxruntime-cpu", "openvino", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx",
    "tensorrt", "tensorrt-rtx", "torch-compile",
)  # fmt: skip
ON_CPU = ("torch", "onnxruntime-cpu", "openvino", "torch-compile")
# Only where they are named: torch.compile compiles for half a minute.
ON_REQUEST = frozenset({"torch-compile"})


def open_session(spec: SessionSpec) -> Session:
    """Loads the artifact in the runtime.

    Raises:
        InputError: There is no such runtime.
        RuntimeUnavailableError: It cannot run on this machine.
        MissingDependencyError: It is not installed.
        SessionError: It should run and does not.
    """
    match spec.runtime:
        case "torch" | "torch-compile":
            from alexnet_deploy.runtimes.torch_eager import TorchSession

            return TorchSession(spec)
        case "onnxruntime-cpu" | "onnxruntime-cuda" | "onnxruntime-tensorrt" | "onnxruntime-tensorrt-rtx":
            from alexnet_deploy.runtimes.onnxruntime import OnnxRuntimeSession

            return OnnxRuntimeSession(spec)
        case "openvino":
            from alexnet_deploy.runtimes.openvino import OpenVinoSession

            return OpenVinoSession(spec)
        case "tensorrt" | "tensorrt-rtx":
            from alexnet_deploy.runtimes.engine import EngineSession

            return EngineSession(spec)
    raise InputError("no such runtime", got=spec.runtime, expected=", ".join(RUNTIMES))

"""ONNX Runtime on the CPU or on CUDA, without its silent fallback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alexnet_deploy.errors import MissingDependencyError, RuntimeUnavailableError, SessionError
from alexnet_deploy.machine import count_gpus
from alexnet_deploy.runtimes.session import Session, SessionSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROVIDERS = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}


class OnnxRuntimeSession(Session):
    """One provider, and an error where a node would run on another.

    Raises:
        RuntimeUnavailableError: There is no CUDA device, or this build of ONNX Runtime lacks the provider.
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
        if provider != "CPUExecutionProvider":
            if count_gpus() == 0:
                raise RuntimeUnavailableError("no CUDA device")
            if provider not in onnxruntime.get_available_providers():
                raise RuntimeUnavailableError(f"this build of ONNX Runtime has no {provider}")
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = spec.threads
        options.log_severity_level = 3
        # Threads that go on spinning after a run take the CPU from whatever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if provider != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(spec.path), options, providers=[provider])
        except Exception as exc:  # its errors share no base class
            raise SessionError(
                f"ONNX Runtime cannot load {spec.path.name} on {provider}", got=str(exc).split("\n")[0]
            ) from exc
        if self._session.get_providers()[0] != provider:
            raise SessionError(
                "ONNX Runtime fell back", got=", ".join(self._session.get_providers()), expected=provider
            )
        image = self._session.get_inputs()[0]
        self._name = image.name
        channels, height, width = image.shape[1:]
        self.image_shape = (channels, height, width)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self._session.run(None, {self._name: images})[0]
        return outputs

    def close(self) -> None:
        self._session = None

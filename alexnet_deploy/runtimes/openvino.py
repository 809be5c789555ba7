"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.errors import SessionError
from alexnet_deploy.optional import require
from alexnet_deploy.runtimes.session import Session, SessionSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

# OpenVINO lowers FP32 to bf16 by itself where the CPU has it; a row that says FP32 must be FP32.
_HINTS = {None: "f32", "bf16": "bf16"}


class OpenVinoSession(Session):
    """The CPU device with a latency hint.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        SessionError: The graph does not compile.
    """

    def __init__(self, spec: SessionSpec) -> None:
        openvino = require("openvino", "the openvino runtime")
        core = openvino.Core()
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": spec.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[spec.hint],
        }
        try:
            model: Any = core.compile_model(core.read_model(str(spec.path)), "CPU", properties)
        except RuntimeError as exc:
            raise SessionError(
                f"OpenVINO cannot compile {spec.path.name}", got=str(exc).strip().split("\n")[0]
            ) from exc
        self._request: Any = model.create_infer_request()
        _, channels, height, width = model.input(0).partial_shape
        self.image_shape = (channels.get_length(), height.get_length(), width.get_length())

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = self._request.infer([images], share_inputs=True, share_outputs=False)
        result: NDArray[np.float32] = np.asarray(outputs[0], np.float32)
        return result

    def close(self) -> None:
        self._request = None

"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.errors import InputError, SessionError
from alexnet_deploy.optional import require
from alexnet_deploy.runtimes.session import BF16_HINT, THROUGHPUT, KernelTime, Session, SessionSpec
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HINTS = (None, BF16_HINT, THROUGHPUT)


class OpenVinoSession(Session):
    """The CPU device with a latency or a throughput hint.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        InputError: There is no such hint.
        SessionError: The graph does not compile.
    """

    def __init__(self, spec: SessionSpec) -> None:
        openvino = require("openvino", "the openvino runtime")
        if spec.hint not in _HINTS:
            raise InputError(
                "OpenVINO takes no such hint", got=spec.hint, expected=f"{BF16_HINT}, {THROUGHPUT} or none"
            )
        core = openvino.Core()
        try:
            model: Any = core.compile_model(core.read_model(str(spec.path)), "CPU", _properties(spec))
        except RuntimeError as exc:
            raise SessionError(
                f"OpenVINO cannot compile {spec.path.name}", got=str(exc).strip().split("\n")[0]
            ) from exc
        self._profiles = spec.profile
        self._queue: Any = None
        if spec.hint == THROUGHPUT:
            self.in_flight = int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            self._queue = openvino.AsyncInferQueue(model, self.in_flight)
        self._request: Any = model.create_infer_request()
        _, channels, height, width = model.input(0).partial_shape
        self.image_shape = (channels.get_length(), height.get_length(), width.get_length())

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = self._request.infer([images], share_inputs=True, share_outputs=False)
        result: NDArray[np.float32] = np.asarray(outputs[0], np.float32)
        return result

    def run_overlapped(self, images: NDArray[np.float32], runs: int, clock: Callable[[], float]) -> list[float]:
        if self._queue is None:
            return super().run_overlapped(images, runs, clock)
        seconds: list[float] = []

        def answered(request: Any, started: float) -> None:
            np.array(request.get_output_tensor(0).data)
            seconds.append(clock() - started)

        self._queue.set_callback(answered)
        for _ in range(runs):
            # Waits until a request is free, so that a latency holds no waiting before its start.
            self._queue.get_idle_request_id()
            self._queue.start_async([images], userdata=clock())
        self._queue.wait_all()
        return seconds

    def layer_times(self, images: NDArray[np.float32], runs: int) -> list[KernelTime] | None:
        if not self._profiles:
            return None
        taken: dict[tuple[str, str], list[float]] = {}
        self._run(images)
        for _ in range(runs):
            self._run(images)
            for kernel in self._request.profiling_info:
                if kernel.real_time:
                    times = taken.setdefault((kernel.node_name, kernel.node_type), [])
                    times.append(kernel.real_time.total_seconds() * 1e3)
        return [KernelTime(name=name, op=op, milliseconds=float(np.median(ms))) for (name, op), ms in taken.items()]

    def close(self) -> None:
        self._request = self._queue = None


def _properties(spec: SessionSpec) -> dict[str, Any]:
    # OpenVINO lowers FP32 to bf16 by itself where the CPU has it; a row that says FP32 must be FP32.
    half = spec.precision is Precision.BF16 or spec.hint == BF16_HINT
    properties: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": spec.threads,
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
    }
    if spec.profile:
        properties["PERF_COUNT"] = True
    if spec.hint == THROUGHPUT:
        return {**properties, "PERFORMANCE_HINT": "THROUGHPUT"}
    return {**properties, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}

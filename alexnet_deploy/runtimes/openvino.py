"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
        self._requests: list[Any] = []
        if spec.hint == THROUGHPUT:
            self.in_flight = int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            self._requests = [model.create_infer_request() for _ in range(self.in_flight)]
        self._request: Any = model.create_infer_request()
        _, channels, height, width = model.input(0).partial_shape
        self.image_shape = (channels.get_length(), height.get_length(), width.get_length())

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return _infer(self._request, images)

    def run_overlapped(self, images: NDArray[np.float32], runs: int, clock: Callable[[], float]) -> list[float]:
        if not self._requests:
            return super().run_overlapped(images, runs, clock)

        def work(request: Any, share: int) -> list[float]:
            seconds = []
            for _ in range(share):
                started = clock()
                _infer(request, images)
                seconds.append(clock() - started)
            return seconds

        shares = [len(part) for part in np.array_split(np.arange(runs), self.in_flight)]
        # A thread for each request, as a server has them; inference does not hold the interpreter's lock.
        with ThreadPoolExecutor(self.in_flight) as pool:
            return [second for found in pool.map(work, self._requests, shares) for second in found]

    def layer_times(self, batches: Sequence[NDArray[np.float32]], runs: int) -> list[list[KernelTime]] | None:
        return [self._kernels(images, runs) for images in batches] if self._profiles else None

    def _kernels(self, images: NDArray[np.float32], runs: int) -> list[KernelTime]:
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
        self._request, self._requests = None, []


def _infer(request: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    outputs = request.infer([images], share_inputs=True, share_outputs=False)
    result: NDArray[np.float32] = np.asarray(outputs[0], np.float32)
    return result


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

"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.errors import InputError, SessionError
from alexnet_deploy.machine import own_cpus
from alexnet_deploy.optional import require
from alexnet_deploy.runtimes.session import BF16_HINT, THROUGHPUT, KernelTime, Session, SessionSpec
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Name and type of a node of the compiled model.
Kernel = tuple[str, str]
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
        self.threads = int(model.get_property("INFERENCE_NUM_THREADS"))
        self._profiles = spec.profile
        self._requests: list[Any] = []
        if spec.hint == THROUGHPUT:
            self.in_flight = int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            self._requests = [model.create_infer_request() for _ in range(self.in_flight)]
        self._request: Any = model.create_infer_request()
        # A request that is running refuses a second one.
        self._turn = threading.Lock()
        _, channels, height, width = model.input(0).partial_shape
        self.image_shape = (channels.get_length(), height.get_length(), width.get_length())

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._turn:
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
            found = list(pool.map(work, self._requests, shares))
        # Wave by wave, as they were taken.
        return [second for wave in zip_longest(*found) for second in wave if second is not None]

    def layer_times(self, batches: Sequence[NDArray[np.float32]], runs: int) -> list[list[KernelTime]] | None:
        if not self._profiles:
            return None
        counters = Counters()
        return [kernels_from_runs([self._counted(images, counters) for _ in range(1 + runs)][1:]) for images in batches]

    def _counted(self, images: NDArray[np.float32], counters: Counters) -> dict[Kernel, float]:
        self._run(images)
        return counters.last_run(
            {
                (kernel.node_name, kernel.node_type): kernel.real_time.total_seconds() * 1e3
                for kernel in self._request.profiling_info
                if kernel.real_time
            }
        )

    def close(self) -> None:
        self._request, self._requests = None, []


class Counters:
    """What the last run took, from counters that OpenVINO keeps as means over all runs since it compiled the model."""

    def __init__(self) -> None:
        self._runs, self._totals = 0, dict[Kernel, float]()

    def last_run(self, means: dict[Kernel, float]) -> dict[Kernel, float]:
        """Milliseconds of each kernel in the last run, from the means after it."""
        self._runs += 1
        totals = {kernel: mean * self._runs for kernel, mean in means.items()}
        taken = {kernel: max(0.0, total - self._totals.get(kernel, 0.0)) for kernel, total in totals.items()}
        self._totals = totals
        return taken


def kernels_from_runs(runs: Sequence[dict[Kernel, float]]) -> list[KernelTime]:
    """The median of each kernel."""
    return [
        KernelTime(name=name, op=op, milliseconds=float(np.median([run.get((name, op), 0.0) for run in runs])))
        for name, op in dict.fromkeys(kernel for run in runs for kernel in run)
    ]


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
        # With the latency hint it would leave out one of the two threads of each core, whatever number is asked for.
        "ENABLE_HYPER_THREADING": True,
    }
    if spec.threads < len(own_cpus()):
        # By default OpenVINO binds every session's threads to CPUs, counted from the first: two sessions of one thread
        # each, in one process or in two, would share one CPU and leave the other idle.
        properties["ENABLE_CPU_PINNING"] = False
    if spec.profile:
        properties["PERF_COUNT"] = True
    if spec.hint == THROUGHPUT:
        return {**properties, "PERFORMANCE_HINT": "THROUGHPUT"}
    return {**properties, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}

"""TensorRT and TensorRT-RTX engines on the GPU: one stream, memory that only grows, times from the device's clock.

Built, not run on a GPU; see `runtimes/cuda.py`.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.errors import SessionError
from alexnet_deploy.optional import tensorrt_module
from alexnet_deploy.runtimes.admission import admitted_engine
from alexnet_deploy.runtimes.cuda import Buffer, CapturedGraph, Device, DeviceTimes, driver_errors
from alexnet_deploy.runtimes.opened_engine import BatchRange, OpenedEngine
from alexnet_deploy.runtimes.session import CUDA_GRAPH, Session, SessionSpec
from alexnet_deploy.trt_log import logger_of, recorded

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EVENTS = 4


class EngineSession(Session):
    """Runs an engine batch by batch.

    A run copies the images to the device, computes, and copies the logits back, on one stream; nothing is allocated
    once the largest batch has been seen. With the hint `cuda-graph` the compute is captured and replayed: by the
    runtime itself in TensorRT-RTX, through the driver in TensorRT, where another batch size is captured anew.

    Attributes:
        device_times: Of the last run.

    Raises:
        ArtifactError, EngineError: The engine may not be opened here, or is refused.
        RuntimeUnavailableError: There is no GPU.
        MissingDependencyError: TensorRT, pycuda or cuda-bindings is not installed.
        SessionError: The driver or the engine does not do what a session needs.
    """

    copies = True

    def __init__(self, spec: SessionSpec) -> None:
        admitted = admitted_engine(spec.path, spec.runtime, trust=spec.trust)
        self.device_times: DeviceTimes | None = None
        self._captures = spec.hint == CUDA_GRAPH and spec.runtime == "tensorrt"
        self._device: Device | None = Device()
        self._contexts: dict[BatchRange, Any] = {}
        self._batches: dict[BatchRange, int] = {}
        self._graph: tuple[BatchRange, int, CapturedGraph] | None = None
        self._buffers: tuple[Buffer, ...] = ()
        self._stream: Any = None
        self._events: list[Any] = []
        self._engine: OpenedEngine | None = None
        self._failed = False
        # Buffers, stream and contexts are those of one run.
        self._turn = threading.RLock()
        try:
            logger = logger_of(tensorrt_module(admitted.backend))
            opening = driver_errors(f"{spec.path.name} cannot be opened")
            with opening, self._device.current(), recorded(logger) as lines:
                self._open(OpenedEngine(admitted, cuda_graphs=spec.hint == CUDA_GRAPH))
                self.notes += tuple(line for line in lines if line.startswith("[WARNING]"))
        except BaseException:
            self._failed = True
            self.close()
            raise

    @property
    def compute_ms(self) -> float | None:
        return None if self.device_times is None else self.device_times.compute_ms

    def _open(self, engine: OpenedEngine) -> None:
        assert self._device is not None
        self._engine = engine
        self.notes = tuple(engine.notes)
        if len(engine.input.row) != 3:
            raise SessionError("the engine does not read images", got=engine.input.row, expected="(3, S, S)")
        channels, height, width = engine.input.row
        self.image_shape = (channels, height, width)
        self.largest_batch = engine.largest_batch
        most = max(found.most for found in engine.ranges)
        self._buffers = tuple(
            Buffer(self._device, port.row, port.dtype, most) for port in (engine.input, engine.output)
        )
        self._stream = self._device.cuda.Stream()
        self._events = [self._device.cuda.Event() for _ in range(_EVENTS)]

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._turn:
            if self._device is None or self._engine is None:
                raise SessionError("the session is closed")
            profile = self._engine.range_of(len(images))
            try:
                with self._device.current(), recorded(logger_of(self._engine.trt)):
                    return self._run_on_device(images, profile)
            except BaseException:
                self._failed = True
                raise

    def _run_on_device(self, images: NDArray[np.float32], profile: BatchRange) -> NDArray[np.float32]:
        batch, stream = len(images), self._stream
        context = self._prepared(profile, batch)
        images_in, logits = self._buffers
        np.copyto(images_in.host[:batch], images, casting="same_kind")
        begun, copied, computed, done = self._events
        begun.record(stream)
        images_in.upload(batch, stream)
        copied.record(stream)
        self._compute(context, profile, batch)
        computed.record(stream)
        logits.download(batch, stream)
        done.record(stream)
        stream.synchronize()
        self.device_times = DeviceTimes(
            copy_in_ms=begun.time_till(copied),
            compute_ms=copied.time_till(computed),
            copy_out_ms=computed.time_till(done),
        )
        # A copy: the page-locked memory is the next run's.
        return logits.host[:batch].astype(np.float32)

    def _prepared(self, profile: BatchRange, batch: int) -> Any:
        """The profile's context, with room for the batch, its shape and its addresses."""
        assert self._engine is not None
        images, logits = self._buffers
        if any([images.reserve(batch), logits.reserve(batch)]):
            self._forget_graph()
            self._batches.clear()
        if profile not in self._contexts:
            self._contexts[profile] = self._engine.context(profile, self._stream.handle)
        context = self._contexts[profile]
        if self._batches.get(profile) != batch:
            self._engine.set_batch(context, batch, input_address=images.address, output_address=logits.address)
            self._batches[profile] = batch
        return context

    def _compute(self, context: Any, profile: BatchRange, batch: int) -> None:
        """Puts the network on the stream: by a graph from the second run of a batch size on, where graphs are asked."""
        if not self._captures:
            self._execute(context)
            return
        if self._graph is not None and self._graph[:2] == (profile, batch):
            self._graph[2].launch()
            return
        # The first run of a shape may allocate and load, which cannot be captured.
        self._execute(context)
        self._stream.synchronize()
        self._forget_graph()
        self._graph = (profile, batch, CapturedGraph(self._stream.handle, lambda: self._execute(context)))

    def _execute(self, context: Any) -> None:
        assert self._engine is not None
        if not context.execute_async_v3(self._stream.handle):
            raise self._engine.failure("the engine did not run")

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._graph[2].free()
            self._graph = None

    def close(self) -> None:
        """Frees in the order that the driver wants: what runs, then contexts, engine and memory, then the device.

        Raises:
            SessionError: The driver did not take something back; not after an earlier error, whose message counts.
        """
        with self._turn:
            device, self._device = self._device, None
            if device is not None:
                self._free(device)

    def _free(self, device: Device) -> None:
        errors = contextlib.suppress(Exception) if self._failed else driver_errors("the session cannot be closed")
        # Every step is taken whether those before it succeed or not, the one named last first.
        with errors, device.last(), contextlib.ExitStack() as steps:
            steps.callback(self._forget_stream)
            for buffer in self._buffers:
                steps.callback(buffer.free)
            steps.callback(self._forget_engine)
            steps.callback(self._forget_graph)
            if self._stream is not None:
                # After an error something may still be on its way to memory that is freed below.
                steps.callback(self._stream.synchronize)

    def _forget_engine(self) -> None:
        self._contexts.clear()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _forget_stream(self) -> None:
        self._buffers, self._events, self._stream = (), [], None

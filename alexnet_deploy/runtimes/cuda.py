"""All of pycuda, and of the driver's CUDA graph calls, that sessions use: the first device, memory that grows, events.

Built, not run on a GPU: the tests put a stand-in in pycuda's place, and hold the names used here against pycuda's own.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.errors import AlexnetDeployError, SessionError
from alexnet_deploy.machine import cuda_call, pop_cuda_context
from alexnet_deploy.optional import require

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True, kw_only=True)
class DeviceTimes:
    """One run by the device's own clock, the copies apart from the compute.

    Attributes:
        copy_in_ms: Host to device.
        compute_ms: The network.
        copy_out_ms: Device to host.
    """

    copy_in_ms: float
    compute_ms: float
    copy_out_ms: float


class Device:
    """The first CUDA device and its primary context, which torch and ONNX Runtime use too.

    Everything on it is made, used and freed inside `current`, on the thread that made the device: pycuda frees nothing
    on another one.

    Raises:
        MissingDependencyError: pycuda is not installed, or does not find the driver.
        SessionError: The driver does not give its context.
    """

    def __init__(self) -> None:
        self.cuda: Any = require("pycuda.driver", "running an engine")
        with driver_errors("the CUDA driver does not start"):
            self.cuda.init()
            self._context = self.cuda.Device(0).retain_primary_context()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes the device current; a context left on pycuda's stack would abort the process at its end.

        The function that uses it holds no object of TensorRT's in a variable of its own: see `_forget_frames`.
        """
        self._context.push()
        try:
            yield
        except BaseException as exc:
            _forget_frames(exc)
            raise
        finally:
            self._context.pop()

    @contextlib.contextmanager
    def last(self) -> Iterator[None]:
        """`current` for the last time: the context is given back at the end."""
        self._context.push()
        try:
            yield
        finally:
            # Takes it off pycuda's stack alone; a context that is gone must not stay current for what comes next.
            self._context.detach()
            pop_cuda_context()


def _forget_frames(error: BaseException | None) -> None:
    """Empties the frames of an error that have ended: whoever keeps it keeps their variables, and TensorRT's objects
    must not outlive their CUDA context."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def driver_errors(problem: str) -> Iterator[None]:
    """pycuda's errors, which have no base class that could be named without it, as this project's.

    Raises:
        SessionError: Something that is not this project's own error was raised.
    """
    try:
        yield
    except AlexnetDeployError:
        raise
    except Exception as exc:
        raise SessionError(problem, got=str(exc).strip().split("\n")[0] or type(exc).__name__) from exc


class Buffer:
    """Rows of one tensor in page-locked host memory and on the device; grows, and never shrinks.

    Args:
        device: Where.
        row: Shape of one row.
        dtype: Of the elements.
        limit: The most rows there will ever be.
    """

    def __init__(self, device: Device, row: tuple[int, ...], dtype: DTypeLike, limit: int) -> None:
        self._cuda, self._row, self._dtype, self._limit = device.cuda, row, np.dtype(dtype), limit
        self.host: NDArray[Any] = np.empty((0, *row), dtype)
        self._memory: Any = None

    @property
    def address(self) -> int:
        """On the device."""
        return int(self._memory)

    def reserve(self, rows: int) -> bool:
        """Makes room for `rows`; says whether memory was taken anew, so that addresses are other ones."""
        if rows <= len(self.host):
            return False
        capacity = min(max(rows, 2 * len(self.host)), self._limit)
        self.free()
        host = self._cuda.pagelocked_empty((capacity, *self._row), self._dtype)
        try:
            self._memory = self._cuda.mem_alloc(host.nbytes)
        except BaseException:
            host.base.free()
            raise
        self.host = host
        return True

    def upload(self, rows: int, stream: Any) -> None:
        """Puts the copy of the first `rows` to the device on a stream."""
        self._cuda.memcpy_htod_async(self._memory, self.host[:rows], stream)

    def download(self, rows: int, stream: Any) -> None:
        """Puts the copy of the first `rows` to the host on a stream."""
        self._cuda.memcpy_dtoh_async(self.host[:rows], self._memory, stream)

    def free(self) -> None:
        """Gives both memories back; no copy may be under way."""
        if self._memory is not None:
            self._memory.free()
            self._memory = None
            self.host.base.free()  # type: ignore[union-attr]
            self.host = np.empty((0, *self._row), self._dtype)


class CapturedGraph:
    """What `work` puts on a stream, captured once and then launched in one call.

    Args:
        stream: The handle of a stream of its own; the default stream cannot be captured.
        work: Puts kernels on it. It has run once before, outside: the first run may do what cannot be captured.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        SessionError: The driver refuses; what `work` raises passes through.
    """

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        require("cuda.bindings", "CUDA graphs")
        from cuda.bindings import driver

        self._driver, self._stream, self._executable = driver, stream, None
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._called(driver.cuStreamBeginCapture, stream, mode)
        try:
            work()
        except BaseException:
            # The stream stays unusable until its capture ends.
            _, graph = driver.cuStreamEndCapture(stream)
            if graph is not None:
                driver.cuGraphDestroy(graph)
            raise
        graph = self._called(driver.cuStreamEndCapture, stream)
        try:
            self._executable = self._called(driver.cuGraphInstantiate, graph, 0)
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Puts it on the stream that it was captured on."""
        self._called(self._driver.cuGraphLaunch, self._executable, self._stream)

    def free(self) -> None:
        """Gives it back to the driver."""
        if self._executable is not None:
            self._driver.cuGraphExecDestroy(self._executable)
            self._executable = None

    def _called(self, function: Any, *arguments: Any) -> Any:
        return cuda_call(function, *arguments, error=SessionError)

"""Dynamic batching: what came while the last batch was computed is the next one.

Ray Serve's own `@serve.batch` closes a batch before the session is free for it, so that without a wait every batch is
of one request, and with one a lone request pays for it; it has no bound on what waits, and puts what did not fit behind
what came later. Here a batch is closed when the session is free, in the order in which requests came, and a full queue
refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.errors import RequestError
from alexnet_deploy.serving.options import RETRY_SECONDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]


@dataclass(frozen=True, eq=False)
class _Waiting:
    images: NDArray[np.float32]
    future: asyncio.Future[NDArray[np.float32]]
    loop: asyncio.AbstractEventLoop
    came: float


class Batcher:
    """Runs images of many requests together, on one thread.

    Args:
        run: `(N, 3, S, S) float32` to `(N, classes) float32`.
        max_batch: The most images in one run.
        max_queue: Images that may wait.
        wait_s: How long the first of a batch that is not full waits for others.
        ran: Told of every run: its images, and the seconds it took.

    Attributes:
        failures: Runs that failed since the last one that did not.
        running_since: When the run began that is under way, by the monotonic clock.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_batch: int,
        max_queue: int,
        wait_s: float = 0.0,
        ran: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self._run, self._max_batch, self._max_queue, self._wait_s, self._ran = run, max_batch, max_queue, wait_s, ran
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._waiting, self._closed = 0, False
        self._room: NDArray[np.float32] | None = None
        self.failures: int = 0
        self.running_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._waiting

    async def submit(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows of these images; one that is cancelled while it waits is not computed.

        Raises:
            RequestError: 503; the queue is full, or the server ends.
            AlexnetDeployError: The session failed on the batch.
        """
        loop = asyncio.get_running_loop()
        entry = _Waiting(images, loop.create_future(), loop, time.monotonic())
        with self._changed:
            if self._closed:
                raise RequestError(503, "the server is shutting down", retry_after_s=RETRY_SECONDS)
            if self._queue and self._waiting + len(images) > self._max_queue:
                raise RequestError(
                    503,
                    "the queue is full",
                    got=f"{self._waiting} images wait",
                    expected=f"at most {self._max_queue}",
                    retry_after_s=RETRY_SECONDS,
                )
            self._queue.append(entry)
            self._waiting += len(images)
            self._changed.notify()
        return await entry.future

    def close(self) -> None:
        """Takes no more, computes what waits, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            _tell(batch, *self._computed(batch))

    def _computed(self, batch: list[_Waiting]) -> tuple[Callable[..., None], object]:
        """What those who wait are told; whoever hears of it finds that nothing runs any more."""
        self.running_since = time.monotonic()
        try:
            rows = self._rows(batch)
        except Exception as exc:  # whatever it was, those who wait must hear of it
            self.failures += 1
            return _fail, exc
        finally:
            self.running_since = None
        self.failures = 0
        return _resolve, rows

    def _rows(self, batch: list[_Waiting]) -> NDArray[np.float32]:
        images = batch[0].images if len(batch) == 1 else self._together([entry.images for entry in batch])
        started = time.perf_counter()
        rows = self._run(images)
        self._ran(len(images), time.perf_counter() - started)
        return rows

    def _together(self, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """One after the other in memory that stays: the kernel would clear new pages for every batch."""
        if self._room is None or self._room.shape[1:] != parts[0].shape[1:]:
            self._room = np.empty((self._max_batch, *parts[0].shape[1:]), np.float32)
        return np.concatenate(parts, out=self._room[: sum(map(len, parts))])

    def _next(self) -> list[_Waiting]:
        """The next batch; empty at the end."""
        with self._changed:
            while True:
                while not self._queue and not self._closed:
                    self._changed.wait()
                self._fill()
                batch = self._taken()
                # All that waited may have been cancelled.
                if batch or self._closed:
                    return batch

    def _fill(self) -> None:
        """Waits for others, where there is time."""
        while self._queue and not self._closed and self._waiting < self._max_batch:
            left = self._queue[0].came + self._wait_s - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _taken(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue:
            entry = self._queue[0]
            cancelled = entry.future.cancelled()
            if not cancelled and batch and size + len(entry.images) > self._max_batch:
                break
            self._queue.popleft()
            self._waiting -= len(entry.images)
            if not cancelled:
                batch.append(entry)
                size += len(entry.images)
        return batch


def _tell(batch: Sequence[_Waiting], how: Callable[..., None], value: object) -> None:
    """Everybody of a batch at once: waking the event loop costs more than what it is woken for."""
    loop = batch[0].loop
    # A loop that has ended has nobody left who waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(how, batch, value)


def _resolve(batch: Sequence[_Waiting], rows: NDArray[np.float32]) -> None:
    at = 0
    for entry in batch:
        part = rows[at : at + len(entry.images)]
        at += len(entry.images)
        if not entry.future.done():
            entry.future.set_result(part)


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for entry in batch:
        if not entry.future.done():
            entry.future.set_exception(error)

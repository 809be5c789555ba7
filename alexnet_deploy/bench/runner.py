"""One session under measurement: opened, timed and evaluated in this process, or in one of its own.

`RemoteRunner` starts a fresh process, because thread pools and allocators of several runtimes in one process
slow each other down; idle processes do not.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from alexnet_deploy.data.batches import PreprocessedImages
from alexnet_deploy.data.catalog import open_data
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import (
    AlexnetDeployError,
    DataError,
    MissingDependencyError,
    RuntimeUnavailableError,
    SessionError,
)
from alexnet_deploy.machine import peak_memory_bytes
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import Session, SessionSpec
from alexnet_deploy.specs import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVALUATION_BATCH = 16
# A session that takes longer than this to answer is taken for hung.
_ANSWER_SECONDS = 600.0
# A worker that does not end by itself after it was told to is killed.
_GOODBYE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Opened:
    """`cold_start_ms` is loading and the first inference of one image."""

    cold_start_ms: float


class Runner(Protocol):
    """What the bench asks of a session."""

    def open(self) -> Opened:
        """Loads the session and runs it once."""

    def measure(self, batch: int, runs: int) -> list[float]:
        """Milliseconds of `runs` runs in a row, copies included."""

    def evaluate(self) -> NDArray[np.float32]:
        """Logits of all evaluation images."""

    def peak_memory_bytes(self) -> int | None:
        """High-water mark of the process."""

    def close(self) -> None:
        """Frees everything."""


class Images(Protocol):
    """Evaluation images: an array, or `PreprocessedImages`, which makes slices when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Which images to evaluate on; small enough to send to a worker, which opens them itself.

    Attributes:
        data: `shipped`, or as `open_data` takes it (the test split).
        indices: Which images.
    """

    data: str
    preprocessing: Preprocessing
    indices: NDArray[np.int64]

    def source(self) -> ImageSource:
        """Opens the labelled images."""
        return evaluation_source(self.data)

    def open(self) -> PreprocessedImages:
        """Opens them for a session."""
        return PreprocessedImages(source=self.source(), spec=self.preprocessing, indices=self.indices)


def evaluation_source(data: str) -> ImageSource:
    """The shipped evaluation images, or the test split of a data source."""
    return shipped_images(Split.EVALUATION) if data == "shipped" else open_data(data, "test")


@dataclass
class LocalRunner:
    """Runs in this process.

    Attributes:
        opener: Opens the session.
        images: The preprocessed evaluation images.
        clock: Seconds; a test injects its own.
    """

    opener: Callable[[], Session]
    images: Images
    clock: Callable[[], float] = time.perf_counter
    _session: Session | None = field(default=None, init=False)

    def open(self) -> Opened:
        started = self.clock()
        self._session = self.opener()
        self._session.run(self.images[:1])
        return Opened(cold_start_ms=(self.clock() - started) * 1e3)

    def measure(self, batch: int, runs: int) -> list[float]:
        session, images = self._opened(), np.ascontiguousarray(self._batch(batch))
        samples = []
        for _ in range(runs):
            started = self.clock()
            session.run(images)
            samples.append((self.clock() - started) * 1e3)
        return samples

    def evaluate(self) -> NDArray[np.float32]:
        session = self._opened()
        starts = range(0, len(self.images), EVALUATION_BATCH)
        return np.concatenate([session.run(self.images[start : start + EVALUATION_BATCH]) for start in starts])

    def peak_memory_bytes(self) -> int | None:
        return peak_memory_bytes()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _opened(self) -> Session:
        if self._session is None:
            raise SessionError("the session is not open")
        return self._session

    def _batch(self, size: int) -> NDArray[np.float32]:
        first = self.images[:size]
        return np.resize(first, (size, *first.shape[1:]))


class RemoteRunner:
    """Runs in a process of its own.

    Args:
        spec: What to run.
        data: The evaluation images.
    """

    def __init__(self, spec: SessionSpec, data: EvaluationData) -> None:
        self._spec, self._data = spec, data
        self._process: Any = None
        self._pipe: Connection | None = None

    def open(self) -> Opened:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._spec, self._data), daemon=True)
        self._process.start()
        theirs.close()
        result: Opened = self._ask("open")
        return result

    def measure(self, batch: int, runs: int) -> list[float]:
        samples: list[float] = self._ask("measure", batch, runs)
        return samples

    def evaluate(self) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._ask("evaluate")
        return logits

    def peak_memory_bytes(self) -> int | None:
        size: int | None = self._ask("peak_memory_bytes")
        return size

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.join(_GOODBYE_SECONDS)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None

    def _ask(self, method: str, *arguments: object) -> Any:
        assert self._pipe is not None
        try:
            self._pipe.send((method, arguments))
            if not self._pipe.poll(_ANSWER_SECONDS):
                raise SessionError(f"{self._spec.name} did not answer for {_ANSWER_SECONDS:.0f} s")
            kind, value = self._pipe.recv()
        except (EOFError, OSError) as exc:
            self._process.join(_GOODBYE_SECONDS)
            raise SessionError(
                f"the process of {self._spec.name} ended", got=f"exit code {self._process.exitcode}"
            ) from exc
        if kind == "done":
            return value
        raise _KINDS.get(kind, SessionError)(value)


_KINDS: dict[str, type[AlexnetDeployError]] = {
    "unavailable": RuntimeUnavailableError,
    "missing": MissingDependencyError,
    "data": DataError,
}


def _serve(pipe: Connection, spec: SessionSpec, data: EvaluationData) -> None:
    """The worker: answers until the pipe is closed."""
    import signal

    # Ctrl-C reaches the whole group; the parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    runner = LocalRunner(opener=lambda: open_session(spec), images=data.open())
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[str, Any] = ("done", getattr(runner, method)(*arguments))
        except RuntimeUnavailableError as exc:
            answer = ("unavailable", str(exc))
        except MissingDependencyError as exc:
            answer = ("missing", str(exc))
        except DataError as exc:
            answer = ("data", str(exc))
        except AlexnetDeployError as exc:
            answer = ("failed", str(exc))
        except Exception as exc:  # a runtime's own error must reach the row, whatever its class
            answer = ("failed", f"{type(exc).__name__}: {exc}")
        pipe.send(answer)

"""The two things that LoadGen asks of its user: a library of samples, and a system that answers queries.

Both are called from C++, through which nothing may be raised: an error is kept (`Failure`), and what is left to answer
is answered with class 0.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.loadgen_log import ANSWER_BYTES
from alexnet_deploy.bench.runner import Images
from alexnet_deploy.errors import AlexnetDeployError, InputError, SessionError
from alexnet_deploy.machine import memory_bytes
from alexnet_deploy.runtimes.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The set of images may take as much of the machine's memory.
_MEMORY_SHARE = 0.5


class Failure:
    """The first error inside LoadGen's callbacks, through which nothing may be raised."""

    def __init__(self, on_failure: Callable[[BaseException], None] | None) -> None:
        self.error: BaseException | None = None
        self._on_failure = on_failure

    def keep(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            if self._on_failure is not None:
                self._on_failure(error)

    def raise_if_any(self) -> None:
        if self.error is None:
            return
        if isinstance(self.error, AlexnetDeployError) or not isinstance(self.error, Exception):
            raise self.error
        text = f"{type(self.error).__name__}: {self.error}"
        raise SessionError("the session failed under load", got=text) from self.error

    @contextlib.contextmanager
    def keeping_interrupts(self) -> Iterator[None]:
        """Ctrl-C would be raised at any line of a callback; it is kept like an error."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        if before is signal.SIG_IGN:
            yield
            return
        signal.signal(signal.SIGINT, lambda *_: self.keep(KeyboardInterrupt()))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class Library:
    """LoadGen's query sample library: the images of a test, preprocessed once and kept in memory.

    Attributes:
        total: Images there are.
        count: Images kept at once.
        size_bytes: Of those.

    Raises:
        InputError: They would take more than half of the machine's memory.
    """

    def __init__(self, images: Images, failure: Failure, shape: Sequence[int], count: int) -> None:
        self._images, self._failure, self._shape = images, failure, tuple(shape)
        self.total, self.count = len(images), count
        self.size_bytes = count * int(np.prod(self._shape)) * np.dtype(np.float32).itemsize
        if self.size_bytes > _MEMORY_SHARE * (memory_bytes() or float("inf")):
            raise InputError(
                f"{count} preprocessed images do not fit into memory",
                got=f"{self.size_bytes / 1e9:.1f} GB of {memory_bytes() / 1e9:.1f} GB",
                expected=f"at most {_MEMORY_SHARE:.0%}",
                remedy="name fewer with LoadOptions.performance_samples",
            )
        self._rows: dict[int, int] = {}
        self._loaded: NDArray[np.float32] = np.empty((0, *self._shape), np.float32)

    def load(self, indices: Sequence[int]) -> None:
        """Preprocesses the images; LoadGen repeats some at the end for multi-stream."""
        try:
            self._rows = {index: row for row, index in enumerate(dict.fromkeys(indices))}
            self._loaded = np.empty((len(self._rows), *self._shape), np.float32)
            for index, row in self._rows.items():
                self._loaded[row] = self._images[index : index + 1][0]
        except BaseException as exc:
            self._failure.keep(exc)

    def unload(self, _indices: Sequence[int]) -> None:
        self._rows, self._loaded = {}, self._loaded[:0]

    def batch(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """The images; a view where they lie one after another, as offline and multi-stream ask for them."""
        rows = [self._rows[index] for index in indices]
        if rows == list(range(rows[0], rows[0] + len(rows))):
            return self._loaded[rows[0] : rows[0] + len(rows)]
        return self._loaded[rows]


class System:
    """LoadGen's system under test, which answers within the call: streams and offline."""

    def __init__(self, loadgen: Any, session: Session, library: Library, failure: Failure, max_batch: int) -> None:
        self._loadgen, self._session, self._library = loadgen, session, library
        self.failure, self._max_batch = failure, max_batch

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        pass

    def issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's query: `(id, index)` of its samples."""
        asked = [(sample.id, sample.index) for sample in samples]
        for start in range(0, len(asked), self._max_batch):
            self._answer(asked[start : start + self._max_batch])

    def flush(self) -> None:
        """Nothing is held back until there is more."""

    def _answer(self, asked: Sequence[tuple[int, int]]) -> None:
        classes = np.zeros(len(asked), "<i4")
        if self.failure.error is None:
            try:
                outputs = self._session.run(self._library.batch([index for _, index in asked]))
                classes = outputs.argmax(axis=1).astype("<i4")
            except BaseException as exc:
                self.failure.keep(exc)
        # LoadGen copies what it keeps before it returns.
        first: int = classes.ctypes.data
        response = self._loadgen.QuerySampleResponse
        self._loadgen.QuerySamplesComplete(
            [response(each, first + ANSWER_BYTES * place, ANSWER_BYTES) for place, (each, _) in enumerate(asked)]
        )


class Server(System):
    """Answers from a thread of its own; what has arrived while a batch ran is the next batch."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._waiting: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="loadgen-server", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    def issue(self, samples: Sequence[Any]) -> None:
        for sample in samples:
            self._waiting.put((sample.id, sample.index))

    def _serve(self) -> None:
        serving = True
        while serving:
            arrived = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while arrived[-1] is not None and len(arrived) < self._max_batch:
                    arrived.append(self._waiting.get_nowait())
            serving = arrived[-1] is not None
            asked = [each for each in arrived if each is not None]
            if asked:
                self._answer(asked)

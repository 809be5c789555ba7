"""One session under measurement: opened, timed and evaluated in this process, or in one of its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from alexnet_deploy.bench.sampling import UNTIL_STABLE, Sampler, Samples, Warm, WarmUp
from alexnet_deploy.bench.worker import ANSWER_SECONDS, Worker
from alexnet_deploy.data.batches import PreprocessedImages
from alexnet_deploy.data.catalog import open_data
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DataError, InputError, SessionError
from alexnet_deploy.machine import peak_memory_bytes
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import KernelTime, Session, SessionSpec
from alexnet_deploy.specs import Preprocessing, Scope

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVALUATION_BATCH = 16
# More than the largest networks take for an image on one core, decoding included.
_IMAGE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Loading the runtime and the artifact, and the first inference of one image that lies in memory.

    Attributes:
        in_flight: Requests that run at once while it is measured.
        copies: Whether it computes on a device.
        threads: CPU threads that the runtime says it took; None where it does not say.
    """

    load_ms: float
    first_inference_ms: float
    in_flight: int = 1
    copies: bool = False
    threads: int | None = None


class Runner(Protocol):
    """What the bench asks of a session."""

    def open(self) -> Opened:
        """Loads the session and runs it once."""

    def measure(self, batch: int, runs: int, scope: Scope, warm_up: WarmUp, seconds: float) -> Samples:
        """Warms up, then takes samples: `runs`, or as many as take so long."""

    def evaluate(self) -> NDArray[np.float32]:
        """Logits of all evaluation images."""

    def evaluate_part(self, first: int, last: int, warm_up: WarmUp | None) -> tuple[NDArray[np.float32], Samples]:
        """Logits of some of them, and the times of their full batches but the first, from memory to memory."""

    def layer_times(self, batches: Sequence[int], runs: int) -> list[list[KernelTime]] | None:
        """What each kernel takes at each batch, in a second session that profiles; None where the runtime does not."""

    def peak_memory_bytes(self) -> int | None:
        """High-water mark of the process."""

    def release(self) -> None:
        """Begins to free everything and does not wait, so that several end at once; `close` does."""

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
        labelled: As `open_data` takes it.
    """

    data: str
    preprocessing: Preprocessing
    indices: NDArray[np.int64]
    labelled: bool = True

    def source(self) -> ImageSource:
        """Opens the images."""
        return evaluation_source(self.data, labelled=self.labelled)

    def open(self) -> PreprocessedImages:
        """Opens them for a session."""
        return PreprocessedImages(source=self.source(), spec=self.preprocessing, indices=self.indices)


def evaluation_source(data: str, *, labelled: bool = True) -> ImageSource:
    """The shipped evaluation images, or the test split of a data source, as `open_data` opens it."""
    return shipped_images(Split.EVALUATION) if data == "shipped" else open_data(data, "test", labelled=labelled)


@dataclass
class LocalRunner:
    """Runs in this process.

    Attributes:
        opener: Opens the session.
        images: The preprocessed evaluation images.
        profiler: Opens a session that profiles.
        clock: Seconds; a test injects its own.
    """

    opener: Callable[[], Session]
    images: Images
    profiler: Callable[[], Session] | None = None
    clock: Callable[[], float] = time.perf_counter
    _session: Session | None = field(default=None, init=False)

    def open(self) -> Opened:
        image = np.ascontiguousarray(self.images[:1])
        started = self.clock()
        self._session = self.opener()
        loaded = self.clock()
        self._session.run(image)
        done = self.clock()
        return Opened(
            load_ms=(loaded - started) * 1e3,
            first_inference_ms=(done - loaded) * 1e3,
            in_flight=self._session.in_flight,
            copies=self._session.copies,
            threads=self._session.threads,
        )

    def measure(
        self,
        batch: int,
        runs: int,
        scope: Scope = Scope.COPIES,
        warm_up: WarmUp = UNTIL_STABLE,
        seconds: float = 0.0,
    ) -> Samples:
        return self._sampler(batch, scope).samples(runs, warm_up, seconds)

    def layer_times(self, batches: Sequence[int], runs: int) -> list[list[KernelTime]] | None:
        if self.profiler is None:
            return None
        with self.profiler() as session:
            return session.layer_times([np.ascontiguousarray(self._batch(batch)) for batch in batches], runs)

    def evaluate(self) -> NDArray[np.float32]:
        logits, _ = self.evaluate_part(0, len(self.images), None)
        return logits

    def evaluate_part(self, first: int, last: int, warm_up: WarmUp | None) -> tuple[NDArray[np.float32], Samples]:
        sampler = self._sampler(EVALUATION_BATCH, Scope.COPIES)
        warm = sampler.warm(warm_up) if warm_up else Warm(runs=0, stable=True, last_ms=0.0)
        logits, milliseconds = [], []
        for start in range(first, last, EVALUATION_BATCH):
            images = np.ascontiguousarray(self.images[start : min(start + EVALUATION_BATCH, last)])
            started = self.clock()
            logits.append(sampler.session.run(images))
            if len(images) == EVALUATION_BATCH:
                milliseconds.append((self.clock() - started) * 1e3)
        # The first one finds caches that other sessions have had in between.
        kept = milliseconds[1:]
        samples = Samples(milliseconds=kept, seconds=sum(kept) / 1e3, warm_up=warm.runs + 1, stable=warm.stable)
        return np.concatenate(logits), samples

    def peak_memory_bytes(self) -> int | None:
        return peak_memory_bytes()

    def release(self) -> None:
        """Nothing: a session is closed by the thread that opened it."""

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _sampler(self, batch: int, scope: Scope) -> Sampler:
        return Sampler(session=self._opened(), batch=lambda: self._batch(batch), scope=scope, clock=self.clock)

    def _opened(self) -> Session:
        if self._session is None:
            raise SessionError("the session is not open")
        return self._session

    def _batch(self, size: int) -> NDArray[np.float32]:
        parts: list[NDArray[np.float32]] = []
        while (left := size - sum(map(len, parts))) > 0:
            # Where there are fewer images, they are prepared more than once: all of a batch is work.
            parts.append(self.images[:left])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class _MakeRunner:
    """Makes the runner in a worker."""

    spec: SessionSpec
    data: EvaluationData

    def __call__(self) -> LocalRunner:
        try:
            images = self.data.open()
        except InputError as exc:
            # The parent had them: they went away, and no row could be measured without them.
            raise DataError(str(exc)) from exc
        return LocalRunner(
            opener=lambda: open_session(self.spec),
            images=images,
            profiler=lambda: open_session(dataclasses.replace(self.spec, profile=True)),
        )


class RemoteRunner:
    """Runs in a process of its own.

    Args:
        spec: What to run.
        data: The evaluation images.
        make: Makes the runner there; by default one of the session that `spec` opens.
    """

    def __init__(self, spec: SessionSpec, data: EvaluationData, make: Callable[[], LocalRunner] | None = None) -> None:
        self._worker = Worker(make or _MakeRunner(spec, data), spec.name)
        # A pass over many images takes its time.
        self._pass_seconds = ANSWER_SECONDS + _IMAGE_SECONDS * len(data.indices)

    def open(self) -> Opened:
        self._worker.start()
        result: Opened = self._worker.ask("open")
        return result

    def measure(
        self,
        batch: int,
        runs: int,
        scope: Scope = Scope.COPIES,
        warm_up: WarmUp = UNTIL_STABLE,
        seconds: float = 0.0,
    ) -> Samples:
        samples: Samples = self._worker.ask("measure", batch, runs, scope, warm_up, seconds)
        return samples

    def layer_times(self, batches: Sequence[int], runs: int) -> list[list[KernelTime]] | None:
        times: list[list[KernelTime]] | None = self._worker.ask("layer_times", batches, runs)
        return times

    def evaluate(self) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._worker.ask("evaluate", seconds=self._pass_seconds)
        return logits

    def evaluate_part(self, first: int, last: int, warm_up: WarmUp | None) -> tuple[NDArray[np.float32], Samples]:
        found: tuple[NDArray[np.float32], Samples] = self._worker.ask(
            "evaluate_part", first, last, warm_up, seconds=self._pass_seconds
        )
        return found

    def peak_memory_bytes(self) -> int | None:
        size: int | None = self._worker.ask("peak_memory_bytes")
        return size

    def release(self) -> None:
        self._worker.release()

    def close(self) -> None:
        self._worker.close()

"""The interface of every runtime: a context manager that checks its input once and then only runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from alexnet_deploy.errors import AlexnetDeployError, InputError, SessionError
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray


# The hint that tells an engine's session to capture the network and replay it.
CUDA_GRAPH = "cuda-graph"
# The hint that tells OpenVINO to keep several requests in flight.
THROUGHPUT = "throughput"
# The hint that tells OpenVINO to compute in bf16 what the graph leaves in FP32.
BF16_HINT = "bf16"


@dataclass(frozen=True, kw_only=True)
class SessionSpec:
    """What to run, and how.

    Attributes:
        runtime: A name in `open.RUNTIMES`.
        precision: Of the arithmetic.
        path: The artifact: a checkpoint for torch, ONNX or an engine for the others.
        threads: CPU threads.
        hint: What the runtime is told beyond the graph: one of the hints above; None for nothing.
        lrn: Lowering of LRN in the artifact, for the record.
        max_batch: The largest batch that will be asked for; runtimes that build an engine of the graph need it.
        trust: Of an engine: open it without its passport.
        profile: Open it so that `layer_times` works, which slows the session down.
    """

    runtime: str
    precision: Precision
    path: Path
    threads: int
    hint: str | None = None
    lrn: str | None = None
    max_batch: int = 16
    trust: bool = False
    profile: bool = False

    @property
    def name(self) -> str:
        """`runtime/precision`, as in the keys of a bench; with a hint it is another row."""
        hint = f"+{self.hint}" if self.hint else ""
        return f"{self.runtime}/{self.precision.value}{hint}"


@dataclass(frozen=True, kw_only=True)
class KernelTime:
    """What one kernel of a runtime took in one run; `name` is that of the graph's node, as the runtime has it."""

    name: str
    op: str
    milliseconds: float


class Session(ABC):
    """A loaded model, ready to run: `(N, 3, S, S) float32` to `(N, classes) float32`.

    `run` may be called from many threads at once, and gives each its own rows; whether they compute side by side or one
    after the other is the runtime's matter.

    Attributes:
        image_shape: `(3, S, S)`.
        notes: What the user should know of it, in sentences.
        in_flight: Requests that run at once in `run_overlapped`.
        copies: Whether a run copies to and from a device.
        largest_batch: It takes every batch from 1 to this one, and not the next; None where it takes any.
        threads: CPU threads that the runtime says it took; None where it does not say.
    """

    image_shape: tuple[int, int, int]
    notes: tuple[str, ...] = ()
    in_flight: int = 1
    copies: bool = False
    largest_batch: int | None = None
    threads: int | None = None

    @property
    def compute_ms(self) -> float | None:
        """What the device computed in the last run, without copies; None where the runtime does not say."""
        return None

    def run_overlapped(self, images: NDArray[np.float32], runs: int, clock: Callable[[], float]) -> list[float]:
        """Runs a batch `runs` times with `in_flight` requests at once.

        Returns:
            Seconds of each request, from when it is started to when its logits are in memory.

        Raises:
            SessionError: This session runs one request at a time.
        """
        raise SessionError(f"{type(self).__name__} runs one request at a time")

    def layer_times(self, batches: Sequence[NDArray[np.float32]], runs: int) -> list[list[KernelTime]] | None:
        """For each batch the median time of every kernel over `runs` runs; None where the runtime does not profile.

        The session has been opened with `SessionSpec.profile`; one that was not gives None. Once only: some runtimes
        end their profile with the first reading.
        """
        return None

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs one batch; copies to and from a device are included.

        Raises:
            InputError: The batch has another shape or type.
            SessionError: The runtime failed, or gave something else than one row an image.
        """
        if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != self.image_shape or not len(images):
            raise InputError(
                "the batch does not fit the model",
                got=f"{images.shape} {images.dtype}",
                expected=f"(N, {', '.join(map(str, self.image_shape))}) float32",
            )
        try:
            outputs = self._run(np.ascontiguousarray(images))
        except AlexnetDeployError:
            raise
        except Exception as exc:  # the runtimes' own errors share no base class
            raise SessionError("the runtime failed on a batch", got=str(exc).strip().split("\n")[0]) from exc
        if outputs.ndim != 2 or len(outputs) != len(images):
            raise SessionError("the runtime gave no row an image", got=f"{outputs.shape} for {len(images)} images")
        return outputs

    @abstractmethod
    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]: ...

    def close(self) -> None:  # noqa: B027 - most sessions hold nothing that has to be freed by hand
        """Frees what the session holds; more than once is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

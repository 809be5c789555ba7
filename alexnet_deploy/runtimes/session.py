"""The interface of every runtime: a context manager that checks its input once and then only runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


@dataclass(frozen=True, kw_only=True)
class SessionSpec:
    """What to run, and how.

    Attributes:
        runtime: A name in `open.RUNTIMES`.
        precision: Of the arithmetic.
        path: The artifact: a checkpoint for torch, ONNX or an engine for the others.
        threads: CPU threads.
        hint: What the runtime is told beyond the graph, as `bf16` for OpenVINO; None for nothing.
        lrn: Lowering of LRN in the artifact, for the record.
        max_batch: The largest batch that will be asked for; runtimes that build an engine of the graph need it.
        trust: Of an engine: open it without its passport.
    """

    runtime: str
    precision: Precision
    path: Path
    threads: int
    hint: str | None = None
    lrn: str | None = None
    max_batch: int = 16
    trust: bool = False

    @property
    def name(self) -> str:
        """`runtime/precision`, as in the keys of a bench; with CUDA graphs it is another row."""
        graph = f"+{CUDA_GRAPH}" if self.hint == CUDA_GRAPH else ""
        return f"{self.runtime}/{self.precision.value}{graph}"


class Session(ABC):
    """A loaded model, ready to run: `(N, 3, S, S) float32` to `(N, classes) float32`.

    Attributes:
        image_shape: `(3, S, S)`.
        notes: What the user should know of it, in sentences.
    """

    image_shape: tuple[int, int, int]
    notes: tuple[str, ...] = ()

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

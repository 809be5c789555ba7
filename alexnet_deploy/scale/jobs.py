"""What is done with a chunk of images: a function of the chunk alone, in this process or in a worker's."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.artifacts import passport_path, read_passport
from alexnet_deploy.data.batches import Skipped, batches, decoding_threads
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import ImageError
from alexnet_deploy.prediction import best_classes
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.scale.chunks import Arrays, Chunk, chunks_of
from alexnet_deploy.scale.images import ImageSet
from alexnet_deploy.specs import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Images that a session gets at once; chunks are multiples of it, so that batches are the same whoever runs them.
BATCH = 16
CHUNK = 8 * BATCH
HASH_BYTES = hashlib.sha256().digest_size
_ON_GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "tensorrt", "tensorrt-rtx")

Step = Callable[[Chunk], Arrays]


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Work over images of a set; small enough to be sent.

    Attributes:
        images: Which set.
        indices: Which of them, in the order in which they are worked on.
        name: What progress bars and messages call it.
        chunk: How many images are one chunk.
    """

    images: ImageSet
    indices: NDArray[np.int64] = field(repr=False)
    name: str = "images"
    chunk: int = CHUNK

    def chunks(self, first: int = 0) -> list[Chunk]:
        """The work, from position `first` on."""
        return chunks_of(len(self.indices), self.chunk, first)

    @property
    def files(self) -> tuple[Path, ...]:
        """What it reads besides the images: files of one folder."""
        return ()

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return False

    def at(self, folder: Path, threads: int) -> Job:
        """The same work for a process that has the files in `folder`, and so many CPUs."""
        return self

    @abstractmethod
    def opened(self, source: ImageSource) -> AbstractContextManager[Step]:
        """Loads what is needed, and gives the function of a chunk."""


@dataclass(frozen=True, kw_only=True)
class Scan(Job):
    """Content hashes: `hashes` is `(N, 32) uint8`, zeros for a damaged image; `damaged` has positions and problems.

    Attributes:
        skip_bad: Else the first damaged image is an error.
    """

    skip_bad: bool = False
    name: str = "read images"

    @contextlib.contextmanager
    def opened(self, source: ImageSource) -> Iterator[Step]:
        def step(chunk: Chunk) -> Arrays:
            hashes = np.zeros((chunk.stop - chunk.start, HASH_BYTES), np.uint8)
            damaged = []
            for position, index in enumerate(chunk.of(self.indices)):
                try:
                    hashes[position] = np.frombuffer(bytes.fromhex(source.content_hash(int(index))), np.uint8)
                except ImageError as exc:
                    if not self.skip_bad:
                        raise
                    damaged.append([position, exc.problem])
            return {"hashes": hashes, "damaged": packed(damaged)}

        yield step


@dataclass(frozen=True, kw_only=True)
class SessionJob(Job):
    """Runs a session.

    Attributes:
        spec: What to run.
        preprocessing: That of the model.
        skip_bad: Leave out damaged images and say which; else the first one is an error.
    """

    spec: SessionSpec
    preprocessing: Preprocessing
    skip_bad: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        return artifact_files(self.spec.path)

    @property
    def on_gpu(self) -> bool:
        return self.spec.runtime in _ON_GPU

    def at(self, folder: Path, threads: int) -> SessionJob:
        spec = dataclasses.replace(self.spec, path=folder / self.spec.path.name, threads=threads)
        return dataclasses.replace(self, spec=spec)

    @contextlib.contextmanager
    def opened(self, source: ImageSource) -> Iterator[Step]:
        with open_session(self.spec) as session:

            def step(chunk: Chunk) -> Arrays:
                skipped = Skipped() if self.skip_bad else None
                found = [
                    (session.run(batch.images), batch.indices)
                    for batch in batches(
                        source,
                        BATCH,
                        self.preprocessing,
                        indices=chunk.of(self.indices),
                        skipped=skipped,
                        threads=min(self.spec.threads, decoding_threads(source, self.preprocessing)),
                    )
                ]
                return self.answered(
                    np.concatenate([logits for logits, _ in found]) if found else np.zeros((0, 0), np.float32),
                    np.concatenate([kept for _, kept in found]) if found else np.zeros(0, np.int64),
                    skipped.names if skipped is not None else [],
                )

            yield step

    @abstractmethod
    def answered(self, logits: NDArray[np.float32], kept: NDArray[np.int64], skipped: list[str]) -> Arrays:
        """What is kept of a chunk."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(SessionJob):
    """The logits themselves: `logits` is `(N, classes) float32`."""

    name: str = "accuracy"

    def answered(self, logits: NDArray[np.float32], kept: NDArray[np.int64], skipped: list[str]) -> Arrays:
        return {"logits": logits}


@dataclass(frozen=True, kw_only=True)
class Predict(SessionJob):
    """The likeliest classes: `indices` is `(N,)`, `classes` and `probabilities` are `(N, top)`; `width` is how many
    classes there are, `skipped` what is wrong with images that were left out.

    Attributes:
        top: How many classes.
    """

    top: int
    name: str = "predict"

    def answered(self, logits: NDArray[np.float32], kept: NDArray[np.int64], skipped: list[str]) -> Arrays:
        found = [best_classes(row, self.top) for row in logits]
        shape = (len(found), min(self.top, logits.shape[1]))
        return {
            "indices": kept,
            "classes": np.asarray([classes for classes, _ in found], np.int64).reshape(shape),
            "probabilities": np.asarray([shares for _, shares in found], np.float64).reshape(shape),
            "width": np.asarray([logits.shape[1]], np.int64),
            "skipped": packed(skipped),
        }


def artifact_files(path: Path) -> tuple[Path, ...]:
    """An artifact, its passport, and of an engine without weights the graph that they come from."""
    passport = read_passport(path)
    if passport is None:
        return (path,)
    parents = [path.with_name(name) for name, _ in passport.parents] if passport.kind == "engine" else []
    return (path, passport_path(path), *(parent for parent in parents if parent.is_file()))


def packed(values: Any) -> NDArray[np.uint8]:
    """Plain values as an array, to travel with others."""
    return np.frombuffer(json.dumps(values).encode(), np.uint8)

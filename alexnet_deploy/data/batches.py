"""Batches of preprocessed images, decoded one batch ahead of the consumer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import ImageError
from alexnet_deploy.specs import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`images` is `(N, 3, S, S) float32`; `labels` and `indices` are `(N,) int64`."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]


@dataclass
class Skipped:
    """Damaged images that `--skip-bad` left out, by file name."""

    names: list[str] = field(default_factory=list)

    def note(self, name: str) -> None:
        """Adds a name; an image that is met again in a later epoch is counted once."""
        if name not in self.names:
            self.names.append(name)

    def __len__(self) -> int:
        return len(self.names)


def load_batch(
    source: ImageSource,
    indices: NDArray[np.int64],
    spec: Preprocessing,
    *,
    flips: NDArray[np.bool_] | None = None,
    skipped: Skipped | None = None,
) -> Batch:
    """Decodes and preprocesses the images at `indices`.

    Args:
        source: The images.
        indices: Which of them, in order.
        spec: The preprocessing.
        flips: Which of them to mirror left to right.
        skipped: Where to note damaged images; None makes the first one an error.

    Raises:
        ImageError: An image is damaged and `skipped` is None.
    """
    images, kept = [], []
    for position, index in enumerate(indices):
        try:
            pixels = source.image(int(index))
        except ImageError as exc:
            if skipped is None:
                raise
            skipped.note(exc.problem)
            continue
        images.append(pixels[:, ::-1] if flips is not None and flips[position] else pixels)
        kept.append(index)
    kept_indices = np.asarray(kept, np.int64)
    return Batch(images=batch_from_images(images, spec), labels=source.labels[kept_indices], indices=kept_indices)


@dataclass(frozen=True, kw_only=True)
class PreprocessedImages:
    """Images of a source as `(N, 3, S, S) float32` arrays, made when a slice is asked for.

    Attributes:
        indices: Which images, in order.
    """

    source: ImageSource
    spec: Preprocessing
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        return load_batch(self.source, self.indices[part], self.spec).images


def undamaged(source: ImageSource, skipped: Skipped | None) -> NDArray[np.int64]:
    """Indices of the images to use: all of them, or with `skipped` those that can be decoded."""
    everything = np.arange(len(source), dtype=np.int64)
    if skipped is None:
        return everything
    kept = []
    for index in everything:
        try:
            source.image(int(index))
        except ImageError as exc:
            skipped.note(exc.problem)
        else:
            kept.append(index)
    return np.asarray(kept, np.int64)


def batches(
    source: ImageSource,
    batch_size: int,
    spec: Preprocessing,
    *,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    flips: NDArray[np.bool_] | None = None,
    skipped: Skipped | None = None,
) -> Iterator[Batch]:
    """Yields batches in order (the last one may be smaller), loading the next one while one is in use."""
    order = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)

    def load(start: int) -> Batch:
        part = slice(start, start + batch_size)
        return load_batch(source, order[part], spec, flips=None if flips is None else flips[part], skipped=skipped)

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: Future[Batch] | None = None
        for start in range(0, len(order), batch_size):
            current = ahead.result() if ahead else load(start)
            following = start + batch_size
            ahead = pool.submit(load, following) if following < len(order) else None
            if len(current.indices):
                yield current

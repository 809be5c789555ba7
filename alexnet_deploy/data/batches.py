"""Batches of preprocessed images, made by several threads one batch ahead of the consumer.

Pillow decodes and resizes without the interpreter's lock, so that threads do what other loaders start processes for.
What comes out does not depend on their number.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.data.preprocessing import empty_batch, row_writer
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DataError, ImageError
from alexnet_deploy.machine import usable_cpus
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

# About a tenth of an image's time holds the interpreter's lock (headers, and the copies between Pillow and NumPy), so
# that more threads would wait for each other.
MOST_THREADS = 8
# Pixels a side from which images that lie in memory are prepared faster by two threads (1.5 times at 224, 0.9 times at
# 160, 0.6 times at 64, where threads only fight for the lock).
_WORTH_THREADS = 192
# Of a batch and thread: few, since each costs as much as a small image; several, since images take different times.
_SHARES = 4
# Images that are looked at before the next ones are given to the threads.
_LOOKED_AT = 256


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


def damaged_text(names: Sequence[str]) -> str:
    """How many images are damaged, one at least, and which is the first."""
    return f"{len(names)} damaged images, the first: {names[0]}" if len(names) > 1 else f"a damaged image: {names[0]}"


def say_skipped(names: Sequence[str], voice: Voice) -> None:
    """How many damaged images were left out, where there were any."""
    if names:
        voice.warn(f"left out {damaged_text(names)}")


def say_notes(source: ImageSource, voice: Voice) -> None:
    """What the user of a source should hear."""
    for note in source.notes:
        voice.warn(note)


def load_batch(
    source: ImageSource,
    indices: NDArray[np.int64],
    spec: Preprocessing,
    *,
    flips: NDArray[np.bool_] | None = None,
    skipped: Skipped | None = None,
) -> Batch:
    """Decodes and preprocesses the images at `indices`, in this thread: nothing runs on when it returns.

    Args:
        source: The images.
        indices: Which of them, in order.
        spec: The preprocessing.
        flips: Which of them to mirror left to right.
        skipped: Where to note damaged images; None makes the first one an error.

    Raises:
        ImageError: An image is damaged and `skipped` is None.
    """
    work = _Work(source=source, indices=indices, spec=spec, flips=flips)
    return work.batch(work.errors(), skipped)


class _Work:
    """A batch that is being made, image by image, by whichever thread."""

    def __init__(
        self, source: ImageSource, indices: NDArray[np.int64], spec: Preprocessing, flips: NDArray[np.bool_] | None
    ) -> None:
        self._source, self._indices, self._flips, self._write = source, indices, flips, row_writer(spec)
        self._images = empty_batch(len(indices), spec)

    def make(self, part: slice) -> list[ImageError | None]:
        """Fills some rows; damaged images are returned, so that the first one in order is the one that is told."""
        return list(self.errors(part))

    def errors(self, part: slice = slice(None)) -> Iterator[ImageError | None]:
        """Fills one row after the other, as each is asked for."""
        return (self._row(position) for position in range(len(self._indices))[part])

    def _row(self, position: int) -> ImageError | None:
        index = int(self._indices[position])
        try:
            pixels = self._source.image(index)
        except ImageError as exc:
            return exc
        mirrored = self._flips is not None and self._flips[position]
        try:
            self._write(self._images[position], pixels[:, ::-1] if mirrored else pixels)
        except DataError as exc:
            # It is sound, and does not go with this preprocessing: that is for the user to decide.
            raise DataError(
                f"{self._source.name_of(index)}: {exc.problem}", got=exc.got, expected=exc.expected
            ) from exc
        return None

    def batch(self, results: Iterable[ImageError | None], skipped: Skipped | None) -> Batch:
        """The batch, once all rows are made."""
        good = np.ones(len(self._indices), np.bool_)
        for position, error in enumerate(results):
            if error is None:
                continue
            if skipped is None:
                raise error
            skipped.note(error.problem)
            good[position] = False
        images = self._images if good.all() else self._images[good]
        kept = np.asarray(self._indices, np.int64)[good]
        return Batch(images=images, labels=self._source.labels[kept], indices=kept)


@dataclass(frozen=True, kw_only=True)
class PreprocessedImages:
    """Images of a source as `(N, 3, S, S) float32` arrays, made when a slice is asked for, in the thread that asks: a
    session is timed between two slices, and nothing else may run then.

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
    good = np.ones(len(source), np.bool_)
    with ThreadPoolExecutor(_threads() if source.decodes else 1) as pool:
        for start in range(0, len(source), _LOOKED_AT):
            part = everything[start : start + _LOOKED_AT]
            for index, error in zip(part, pool.map(lambda index: _error_of(source, int(index)), part), strict=True):
                if error is not None:
                    skipped.note(error.problem)
                    good[index] = False
    return everything[good]


def _error_of(source: ImageSource, index: int) -> ImageError | None:
    try:
        source.image(index)
    except ImageError as exc:
        return exc
    return None


def decoding_threads(source: ImageSource, spec: Preprocessing) -> int:
    """How many threads make a batch, where nobody says: one where each image takes less than handing it over."""
    return _threads() if source.decodes or spec.image_size >= _WORTH_THREADS else 1


def _threads() -> int:
    return min(usable_cpus(), MOST_THREADS)


def batches(
    source: ImageSource,
    batch_size: int,
    spec: Preprocessing,
    *,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    flips: NDArray[np.bool_] | None = None,
    skipped: Skipped | None = None,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Yields batches in order (the last one may be smaller), making the next one while one is in use.

    Args:
        source: The images; its `image` is called from several threads at once.
        batch_size: Of all batches but the last.
        spec: The preprocessing.
        indices: Which images, in order; all of them by default.
        flips: Which of them to mirror left to right.
        skipped: Where to note damaged images, in order; None makes the first one an error.
        threads: That decode and preprocess; as many as `decoding_threads` says by default. Batches are the same for
            any number.

    Raises:
        ImageError: An image is damaged and `skipped` is None; batches before it have been given.
    """
    order = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    cuts = [slice(start, start + batch_size) for start in range(0, len(order), batch_size)]
    made = batches_of_cuts(source, order, cuts, spec, flips=flips, skipped=skipped, threads=threads)
    with contextlib.closing(made):
        # `filter` keeps no batch that it has given.
        yield from filter(lambda batch: len(batch.indices) > 0, made)


def batches_of_cuts(
    source: ImageSource,
    order: NDArray[np.int64],
    cuts: Sequence[slice],
    spec: Preprocessing,
    *,
    flips: NDArray[np.bool_] | None = None,
    skipped: Skipped | None = None,
    threads: int | None = None,
) -> Generator[Batch]:
    """As `batches`, where batches need not be of one size: one for every cut.

    Args:
        source, spec, flips, skipped, threads: As `batches` takes them.
        order: Which images, in order.
        cuts: What of `order` is a batch, which has no image where all of them are damaged.

    Raises:
        ImageError: As from `batches`.
    """
    threads = threads or decoding_threads(source, spec)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def begin(cut: slice) -> tuple[_Work, list[Future[list[ImageError | None]]]]:
        work = _Work(source=source, indices=order[cut], spec=spec, flips=None if flips is None else flips[cut])
        count = len(order[cut])
        share = max(1, count // (_SHARES * threads))
        return work, [pool.submit(work.make, slice(at, at + share)) for at in range(0, count, share)]

    try:
        begun = deque([begin(cut) for cut in cuts[:1]])
        for following in [*cuts[1:], None][: len(cuts)]:
            # Before this one is waited for, so that no thread is idle while its last image is made.
            begun.extend([] if following is None else [begin(following)])
            work, futures = begun.popleft()
            current = work.batch((error for future in futures for error in future.result()), skipped)
            yield current
            # Its memory is the consumer's alone before the next one is begun.
            del work, futures, current
    finally:
        # Whoever stops early does not wait for images that nobody will see.
        pool.shutdown(cancel_futures=True)

"""Accuracy of a session over any number of images, in the memory of one chunk."""

from __future__ import annotations

import io
import math
import tempfile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.statistics import Accuracy, mcnemar

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOP = 5
# Those of `bench.statistics`, which the tests hold this against.
_ECE_BINS = 15


class ReferenceLogits:
    """The logits that all others are compared with, on disk: 4 kB an image of a thousand classes."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="alexnet-deploy-")  # noqa: SIM115 - `close` is ours
        self._classes = 0

    def clear(self) -> None:
        """Forgets all of them: those of a session that fell out in the middle."""
        self._file.truncate(0)
        self._file.seek(0)

    def append(self, logits: NDArray[np.float32]) -> None:
        """Adds the next images, `(N, classes)`."""
        self._classes = logits.shape[1]
        self._file.seek(0, io.SEEK_END)
        self._file.write(np.ascontiguousarray(logits, np.float32).tobytes())

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Those of images `start` to `stop`."""
        size = self._classes * np.dtype(np.float32).itemsize
        self._file.seek(start * size)
        return np.frombuffer(self._file.read((stop - start) * size), np.float32).reshape(-1, self._classes)

    def close(self) -> None:
        """Gives the disk back."""
        self._file.close()


class AccuracySums:
    """What `accuracy_from_logits` says, from chunks of logits.

    What is counted is counted in integers. What is added up in floating point is rounded within each chunk and once at
    the end: the order of the chunks does not matter, only how they are cut.
    """

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("images", "agree", "top1", "top5", "lost", "won", "without_length"), 0)
        self._labelled = self._compared = True
        self._sums: dict[str, list[float]] = {"signal": [], "noise": [], "cosine": []}
        self._bins, self._right = np.zeros(_ECE_BINS, np.int64), np.zeros(_ECE_BINS, np.int64)
        self._confidence: list[list[float]] = []

    def add(
        self, logits: NDArray[np.float32], reference: NDArray[np.float32] | None, labels: NDArray[np.int64] | None
    ) -> None:
        """Adds a chunk: `(N, classes)` logits, those of the reference where there is one, and `(N,)` labels where they
        are the model's."""
        first = logits.argmax(1)
        reference_first = first if reference is None else reference.argmax(1)
        self._count(images=len(logits), agree=(first == reference_first).sum())
        if reference is None:
            self._compared = False
        else:
            self._compare(logits.astype(np.float64), reference.astype(np.float64))
        if labels is None:
            self._labelled = False
            return
        right, reference_right = first == labels, reference_first == labels
        best = np.argsort(-logits, axis=1, kind="stable")[:, :_TOP]
        self._count(
            top1=right.sum(),
            top5=(best == labels[:, None]).any(axis=1).sum(),
            lost=(reference_right & ~right).sum(),
            won=(right & ~reference_right).sum(),
        )
        self._judge(logits.astype(np.float64), right)

    def _count(self, **counts: Any) -> None:
        for name, count in counts.items():
            self._counts[name] += int(count)

    def _compare(self, logits: NDArray[np.float64], reference: NDArray[np.float64]) -> None:
        lengths = np.linalg.norm(logits, axis=1) * np.linalg.norm(reference, axis=1)
        self._count(without_length=(lengths == 0).sum())
        products = (logits * reference).sum(axis=1)
        self._sums["cosine"].append(float(np.divide(products, lengths, where=lengths > 0, out=0 * lengths).sum()))
        self._sums["signal"].append(float(np.square(reference).sum()))
        self._sums["noise"].append(float(np.square(logits - reference).sum()))

    def _judge(self, logits: NDArray[np.float64], right: NDArray[np.bool_]) -> None:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        confidence = powers.max(axis=1) / powers.sum(axis=1)
        bins = np.minimum((confidence * _ECE_BINS).astype(int), _ECE_BINS - 1)
        self._bins += np.bincount(bins, minlength=_ECE_BINS)
        self._right += np.bincount(bins[right], minlength=_ECE_BINS)
        self._confidence.append(np.bincount(bins, weights=confidence, minlength=_ECE_BINS).tolist())

    def accuracy(self) -> Accuracy:
        """Of everything that was added; one chunk at least."""
        images = self._counts["images"]
        signal, noise, cosine = (math.fsum(self._sums[name]) for name in ("signal", "noise", "cosine"))
        common: dict[str, Any] = {
            "images": images,
            "agreement": self._counts["agree"] / images if self._compared else None,
            "cosine": None if self._counts["without_length"] or not self._compared else round(cosine / images, 8),
            "sqnr_db": None if noise == 0 or signal == 0 else round(10 * math.log10(signal / noise), 2),
        }
        if not self._labelled:
            return Accuracy(top1=None, top5=None, ece=None, lost=0, won=0, p_value=1.0, **common)
        lost, won = self._counts["lost"], self._counts["won"]
        return Accuracy(
            top1=self._counts["top1"] / images,
            top5=self._counts["top5"] / images,
            ece=self._expected_calibration_error(images),
            lost=lost,
            won=won,
            p_value=mcnemar(lost, won),
            **common,
        )

    def _expected_calibration_error(self, images: int) -> float:
        confidence = [math.fsum(column) for column in zip(*self._confidence, strict=True)]
        return math.fsum(abs(int(right) - sure) / images for right, sure in zip(self._right, confidence, strict=True))

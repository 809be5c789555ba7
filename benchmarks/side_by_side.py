"""One pass of images through many sessions: reading and preparing them costs more than any session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.statistics import accuracy_from_logits
from alexnet_deploy.data.batches import batches
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_BATCH = 16


def accuracies(runs: Sequence[Run], source: ImageSource, preprocessing: Preprocessing) -> list[dict[str, Any]]:
    """Accuracy of each session against the labels and against the first, which is FP32.

    Returns:
        For each, what `Accuracy.to_json` gives, `drop` (top-1 lost, as a fraction) and `images`.
    """
    logits: list[list[NDArray[np.float32]]] = [[] for _ in runs]
    with Voice().track("accuracy", len(source)) as track:
        for batch in batches(source, _BATCH, preprocessing):
            for found, run in zip(logits, runs, strict=True):
                found.append(run(batch.images))
            track.advance(len(batch.indices))
    joined = [np.concatenate(found) for found in logits]
    rows = []
    for scores in joined:
        accuracy = accuracy_from_logits(scores, joined[0], source.labels if source.classes else None)
        drop = (accuracy.lost - accuracy.won) / len(source)
        rows.append({**accuracy.to_json(), "drop": drop, "images": len(source)})
    return rows

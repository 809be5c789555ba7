"""Predictions over a data source, to a Parquet file, here or on a cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.data.batches import damaged_text, say_notes, say_skipped
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.scale.answers import unpacked
from alexnet_deploy.scale.executor import Executor
from alexnet_deploy.scale.images import ImageSet, file_name
from alexnet_deploy.scale.jobs import Predict
from alexnet_deploy.scale.parquet import predictions_file
from alexnet_deploy.specs import Preprocessing


def images_to_predict(data: str) -> ImageSet:
    """The test split of a source, of which nobody needs to know the classes; looks for it.

    Args:
        data: `shipped`, or as `open_data` takes it.

    Raises:
        InputError: There is no such source.
        DataError: It holds no images.
    """
    images = ImageSet(data=data, labelled=False).everywhere
    _ = images.source
    return images


def parquet_from_data(
    output: Path,
    images: ImageSet,
    spec: SessionSpec,
    preprocessing: Preprocessing,
    labels: Sequence[str],
    executor: Executor,
    *,
    top: int,
    skip_bad: bool = False,
    voice: Voice = SILENT,
) -> dict[str, Any]:
    """Predicts every image of a set, and returns what `predict --data --json` prints.

    Args:
        output: The Parquet file; its rows are in the order of the source.
        images: As `images_to_predict` finds them.
        spec: What to run.
        preprocessing: That of the model.
        labels: Names of its classes, or none.
        executor: Who predicts.
        top: How many classes of each image.
        skip_bad: Leave out damaged images and count them.
        voice: Shows progress, and hears of damaged images.

    Raises:
        InputError: The labels do not fit the model.
        DataError: An image is damaged, or all of them are.
    """
    started = time.monotonic()
    source = images.source
    say_notes(source, voice)
    job = Predict(
        images=images,
        indices=np.arange(len(source), dtype=np.int64),
        spec=spec,
        preprocessing=preprocessing,
        top=top,
        skip_bad=skip_bad,
    )
    skipped: list[str] = []
    with (
        predictions_file(output, labels, lambda index: file_name(source, index)) as writer,
        voice.track(job.name, len(source)) as track,
        contextlib.closing(executor.run(job)) as answers,
    ):
        for answer in answers:
            arrays = answer.arrays
            _require_fit(labels, int(arrays["width"][0]))
            for index, classes, shares in zip(
                arrays["indices"], arrays["classes"], arrays["probabilities"], strict=True
            ):
                writer.add(int(index), classes.tolist(), shares.tolist())
            skipped += unpacked(arrays["skipped"])
            track.advance(answer.chunk.stop - answer.chunk.start)
        say_skipped(skipped, voice)
        if not writer.rows:
            raise DataError(
                f"no image of {source.name} can be read",
                got=damaged_text(skipped),
                remedy="name other images with --data",
            )
        rows = writer.rows
    return {
        "schema": 1,
        "path": str(output),
        "data": {"name": source.name, "images": rows, "skipped": len(skipped)},
        "executor": executor.to_json(),
        "seconds": round(time.monotonic() - started, 3),
    }


def _require_fit(labels: Sequence[str], classes: int) -> None:
    # A chunk whose images are all damaged has no classes.
    if labels and classes and len(labels) != classes:
        raise InputError("the labels do not fit the model", got=f"{len(labels)}", expected=f"{classes}")

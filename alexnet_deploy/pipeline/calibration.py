"""The calibration stage: which images, and the table that is made of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy import __version__
from alexnet_deploy.artifacts import sha256_of
from alexnet_deploy.data.batches import Skipped, undamaged
from alexnet_deploy.data.catalog import open_data
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.machine import tool_versions
from alexnet_deploy.pipeline.workspace import Artifact, Made, Workspace
from alexnet_deploy.precision.calibrate import CALIBRATION_BATCH, CalibrationOptions, table_from_images
from alexnet_deploy.precision.resume import Progress
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import fingerprint
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir


def calibration_images(
    info: ModelInfo, data: str | None, images: int, *, skip_bad: bool = False, voice: Voice
) -> ImageSource:
    """The images to calibrate on.

    Args:
        info: The model; the shipped images are its own only where its classes are theirs.
        data: A source, whose training split is drawn from; `shipped`; or None for the shipped images where they fit.
        images: How many at most.
        skip_bad: Leave out damaged images and say how many; else the first one is an error later.
        voice: Hears what was left out.

    Raises:
        InputError: The model was not trained on what the shipped images show, and no data was named.
        DataError: All images are damaged.
    """
    if not 1 <= images <= 1_000_000:
        raise InputError("no such number of calibration images", got=images, expected="1 to 1,000,000")
    if data is None or data == "shipped":
        source: ImageSource = shipped_images(Split.CALIBRATION)
        if data is None and info.labels != source.classes:
            raise InputError(
                f"the shipped calibration images are not what {info.name} was trained on",
                got="Fashion-MNIST images",
                expected=f"images as it sees them in use ({len(info.labels) or 'unnamed'} classes)",
                remedy="name them with `alexnet-deploy calibrate --data FOLDER` (one folder a class); the other "
                "commands use its table; `--data shipped` insists on the shipped images",
            )
    else:
        everything = open_data(data, "train")
        order = np.random.default_rng(0).permutation(len(everything))
        source = everything.subset(sorted(order[:images]), everything.name)
    source = source.subset(range(min(images, len(source))), source.name)
    if not skip_bad:
        return source
    skipped = Skipped()
    kept = undamaged(source, skipped)
    if not len(kept):
        raise DataError(
            f"no image of {source.name} can be read",
            got=f"{len(skipped)} damaged images, the first: {skipped.names[0]}",
            remedy="name other images with --data",
        )
    if skipped:
        voice.warn(f"{len(skipped)} damaged images were skipped, the first: {skipped.names[0]}")
    return source.subset(kept, source.name)


def calibrated(
    workspace: Workspace,
    path: Path,
    graph: Path,
    model: ir.Model,
    info: ModelInfo,
    source: ImageSource,
    options: CalibrationOptions | None = None,
) -> Artifact:
    """Makes the table, or reuses the one of the same images, graph and options.

    Args:
        workspace: Keeps it.
        path: Its file.
        graph: The FP32 graph's file.
        model: What is in it.
        info: Its description.
        source: The images.
        options: Method and percentile.
    """
    options = options or CalibrationOptions()
    request: dict[str, Any] = {
        "images": sorted(source.content_hash(index) for index in range(len(source))),
        "preprocessing": info.preprocessing.to_json(),
        **asdict(options),
    }
    made_by = tool_versions("onnxruntime-gpu", "onnxruntime")
    digest = sha256_of(graph)
    # Thresholds come from the counts, so that an interrupted run serves every method.
    counted = [request["images"], request["preprocessing"], digest, made_by, __version__, CALIBRATION_BATCH]
    progress = Progress(path.with_name(path.name + ".part"), fingerprint(counted))

    def stage() -> Made:
        table = table_from_images(
            model, source, info.preprocessing, digest, options=options, progress=progress, voice=workspace.voice
        )
        data = (json.dumps(table.to_json(), indent=1) + "\n").encode()
        facts = {"method": table.method.value, "images": len(table.images), "data": source.name}
        return Made(data=data, facts=facts, tools=made_by)

    artifact = workspace.make(path, "calibration", request, [graph], stage)
    if not artifact.reused:
        progress.forget()
    return artifact

"""The calibration stage: which images, and the table that is made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy import __version__
from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.data.batches import Skipped, damaged_text, say_notes, say_skipped, undamaged
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import AlexnetDeployError, DataError, ImageError, InputError, UncalibratedError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.machine import tool_versions
from alexnet_deploy.pipeline.workspace import Artifact, Made, Workspace
from alexnet_deploy.precision.calibrate import CALIBRATION_BATCH, CalibrationOptions, Counter, table_from_images
from alexnet_deploy.precision.findings import reported
from alexnet_deploy.precision.resume import Progress
from alexnet_deploy.precision.safety import Activations
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.scale.counting import ElsewhereCounter
from alexnet_deploy.scale.executor import Executor
from alexnet_deploy.scale.images import SHIPPED, ImageSet, calibration_source
from alexnet_deploy.scale.scanning import scanned
from alexnet_deploy.specs import fingerprint
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir


def calibration_set(info: ModelInfo, data: str | None, images: int) -> ImageSet:
    """What to calibrate on, by name.

    Args:
        info: The model; the shipped images are its own only where its classes are theirs.
        data: A source, whose training split is drawn from; `shipped`; or None for the shipped images where they fit.
        images: How many at most.

    Raises:
        UncalibratedError: The model was not trained on what the shipped images show, and no data was named.
    """
    if not 1 <= images <= 1_000_000:
        raise InputError("no such number of calibration images", got=images, expected="1 to 1,000,000")
    if data is None and info.labels != shipped_images(Split.CALIBRATION).classes:
        raise UncalibratedError(
            f"{info.name} has no calibration table, and the shipped calibration images are not its own",
            got="Fashion-MNIST images",
            expected=f"images as it sees them in use ({len(info.labels) or 'unnamed'} classes)",
            remedy="`alexnet-deploy calibrate --data FOLDER` (classes or none) with the same --model and "
            "--workdir; the other commands use its table; `--data shipped` insists on the shipped images",
        )
    return ImageSet(data=data or SHIPPED, split="train", drawn=images)


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
    source = calibration_set(info, data, images).source
    say_notes(source, voice)
    if not skip_bad:
        return source
    skipped = Skipped()
    kept = undamaged(source, skipped)
    if not len(kept):
        raise DataError(
            f"no image of {source.name} can be read",
            got=damaged_text(skipped.names),
            remedy="name other images with --data",
        )
    say_skipped(skipped.names, voice)
    return source.subset(kept, source.name)


def table_images(table: CalibrationTable, path: Path, count: int) -> ImageSource:
    """The first images of a table in the order of their content hashes, found again where its passport says.

    Args:
        table: Which images.
        path: The table's file; one without a passport is taken to be of the shipped images.
        count: How many at most.

    Raises:
        DataError: They are not there any more, or have changed.
    """
    passport = read_passport(path)
    origin = passport.facts.get("origin", {}) if passport is not None else {}
    data, drawn = origin.get("data"), int(origin.get("images", len(table.images)))
    wanted = table.images[:count]
    try:
        source = shipped_images(Split.CALIBRATION) if data is None else calibration_source(data, drawn)
    except AlexnetDeployError as exc:
        raise _not_at_hand(path, data, exc) from exc
    places = _places(source, set(wanted))
    if len(places) < len(wanted):
        raise _not_at_hand(path, data, f"{len(places)} of the first {len(wanted)} images")
    return source.subset([places[digest] for digest in wanted], source.name)


def _places(source: ImageSource, wanted: set[str]) -> dict[str, int]:
    """Where the images of these hashes are; damaged ones are none of them."""
    found: dict[str, int] = {}
    for index in range(len(source)):
        if len(found) == len(wanted):
            break
        try:
            digest = source.content_hash(index)
        except ImageError:
            continue
        if digest in wanted:
            found[digest] = index
    return found


def _not_at_hand(path: Path, data: str | None, got: object) -> DataError:
    return DataError(
        f"the calibration images of {path} are not at hand",
        got=got,
        expected=f"those that it was made from: {data or 'the shipped ones'}",
        remedy="put them back, calibrate anew, or round weights without them: --rounding nearest",
    )


def calibrated(
    workspace: Workspace,
    path: Path,
    graph: Path,
    model: ir.Model,
    info: ModelInfo,
    source: ImageSource,
    options: CalibrationOptions | None = None,
    origin: dict[str, Any] | None = None,
    *,
    hashes: Sequence[str] | None = None,
    counter: Counter | None = None,
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
        origin: For the passport: `data` and `images` as `calibration_images` got them, so that `table_images` finds
            the images again.
        hashes: Of the images, where somebody has read them already.
        counter: Counts them in place of this process.
    """
    if hashes is None:
        hashes = [source.content_hash(index) for index in range(len(source))]
    options = options or CalibrationOptions()
    request: dict[str, Any] = {
        "images": sorted(hashes),
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
            model,
            source,
            info.preprocessing,
            digest,
            options=options,
            hashes=hashes,
            counter=counter,
            progress=progress,
            voice=workspace.voice,
        )
        data = (json.dumps(table.to_json(), indent=1) + "\n").encode()
        facts = {
            "method": table.method.value,
            "images": len(table.images),
            "data": source.name,
            "origin": origin or {},
            "safety": reported(Activations(model, table).findings(), workspace.voice),
        }
        return Made(data=data, facts=facts, tools=made_by)

    artifact = workspace.make(path, "calibration", request, [graph], stage)
    if not artifact.reused:
        progress.forget()
    return artifact


def calibrated_elsewhere(
    workspace: Workspace,
    path: Path,
    graph: Path,
    model: ir.Model,
    info: ModelInfo,
    images: ImageSet,
    executor: Executor,
    options: CalibrationOptions | None = None,
    origin: dict[str, Any] | None = None,
    *,
    skip_bad: bool = False,
) -> Artifact:
    """The same table as `calibrated` makes, with images that an executor reads and counts.

    Args:
        workspace, path, graph, model, info, options, origin: As `calibrated` takes them.
        images: What to calibrate on.
        executor: Who reads and counts.
        skip_bad: Leave out damaged images and say how many; else the first one is an error.

    Raises:
        DataError: An image is damaged, or all are.
    """
    images = images.everywhere
    say_notes(images.source, workspace.voice)
    everything = np.arange(len(images.source), dtype=np.int64)
    found = scanned(executor, images, everything, skip_bad=skip_bad, voice=workspace.voice)
    counter = ElsewhereCounter(
        executor=executor, images=images, kept=found.kept, graph=graph, preprocessing=info.preprocessing
    )
    source = images.source.subset(found.kept, images.source.name)
    return calibrated(
        workspace, path, graph, model, info, source, options, origin, hashes=found.hashes, counter=counter
    )

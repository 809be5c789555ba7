"""The images that accuracy is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.runner import EvaluationData
from alexnet_deploy.data.batches import Skipped, say_notes, say_skipped, undamaged
from alexnet_deploy.data.shipped import Split, shipped_hashes
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DataError
from alexnet_deploy.pipeline.candidates import candidates_of, offers_quantized
from alexnet_deploy.pipeline.costs import Costs
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.scale.executor import Executor
from alexnet_deploy.scale.images import ImageSet, absolute
from alexnet_deploy.scale.scanning import scanned
from alexnet_deploy.specs import QUANTIZED, Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray


def spread(count: int, most: int | None) -> NDArray[np.int64]:
    """At most so many positions out of `count`, evenly spread, in order."""
    kept = count if most is None else min(count, most)
    return np.arange(kept, dtype=np.int64) * count // max(kept, 1)


class EvaluationImages:
    """The images that accuracy is measured on, and their labels.

    Args:
        deployment: The model.
        name: `shipped`, or a data source.
        most: How many of them, spread over all, since a folder has its classes one after the other; all where None.
        skip_bad: Leave out damaged ones and count them.
        executor: Who reads them where all have to be read; this process where None.
        unlabelled: What is measured where their classes are not the model's.
    """

    def __init__(
        self,
        deployment: Deployment,
        name: str,
        most: int | None,
        *,
        skip_bad: bool,
        executor: Executor | None = None,
        unlabelled: str = "agreement with the reference is measured",
    ) -> None:
        voice = deployment.workspace.voice
        self._executor = executor
        self.images = _images(deployment, name if executor is None else absolute(name))
        self.source = self.images.source
        say_notes(self.source, voice)
        _say_if_trained_on(deployment, self.source)
        self._hashes: tuple[str, ...] | None = None
        hashes: tuple[str, ...] = ()
        if executor is not None and skip_bad:
            everything = np.arange(len(self.source), dtype=np.int64)
            found = scanned(executor, self.images, everything, skip_bad=True, voice=voice)
            good, hashes, self.skipped = found.kept, found.hashes, len(found.damaged)
        else:
            skipped = Skipped() if skip_bad else None
            good = undamaged(self.source, skipped)
            self.skipped = len(skipped or ())
            say_skipped(skipped.names if skipped is not None else [], voice)
        chosen = spread(len(good), most)
        self.kept: NDArray[np.int64] = good[chosen]
        if hashes:
            self._hashes = tuple(hashes[place] for place in chosen)
        self.labels = _labels(deployment, self.source, self.source.labels[self.kept], unlabelled)
        self.data = EvaluationData(
            data=name,
            preprocessing=deployment.info.preprocessing,
            indices=self.kept,
            labelled=self.images.labelled,
        )

    def _content_hashes(self, voice: Voice) -> set[str]:
        if self._hashes is None and self._executor is not None:
            self._hashes = scanned(self._executor, self.images, self.kept, skip_bad=False, voice=voice).hashes
        if self._hashes is None:
            self._hashes = tuple(self.source.content_hash(int(index)) for index in self.kept)
        return set(self._hashes)

    def to_json(self) -> dict[str, Any]:
        """The entry `data` of a bench."""
        return {
            "name": self.source.name,
            "images": len(self.kept),
            "skipped": self.skipped,
            "labelled": self.labels is not None,
        }

    def require_fresh(self, deployment: Deployment) -> None:
        """Accuracy on images that INT8 was calibrated or guarded on says little.

        Raises:
            DataError: Some of the evaluation images are among those.
        """
        table = deployment.present_table()
        used = set(CalibrationTable.read(table).images) if table is not None else set()
        used |= shipped_hashes(Split.GUARD)
        shared = used & self._content_hashes(deployment.workspace.voice)
        if shared:
            raise DataError(
                f"evaluation images of {self.source.name} were used for calibration or by the guard",
                got=f"{len(shared)} of {len(self.kept)} shared",
                expected="sets that share no image (by content hash)",
                remedy="give the folder train/ and val/, or name other images with --data, or calibrate on others with "
                "`alexnet-deploy calibrate --data`",
            )


def fresh_candidates(
    images: EvaluationImages,
    deployment: Deployment,
    options: BenchOptions,
    runtimes: Sequence[str],
    precisions: Sequence[Precision],
    costs: Costs | None = None,
) -> list[Candidate]:
    """`candidates_of`, with nothing quantized that was calibrated or guarded on the images.

    Raises:
        DataError: It was; told before artifacts are made where the table is there already.
        InputError: As `candidates_of` raises it.
    """
    if offers_quantized(runtimes, precisions):
        images.require_fresh(deployment)
    candidates = candidates_of(deployment, options, runtimes, precisions, costs)
    if any(each.spec.precision in QUANTIZED and each.reason is None for each in candidates):
        images.require_fresh(deployment)
    return candidates


def _images(deployment: Deployment, name: str) -> ImageSet:
    """With the classes where they are the model's; all the images of a folder where its classes say nothing."""
    images = ImageSet(data=name)
    if images.source.notes and deployment.info.labels != images.source.classes:
        return ImageSet(data=name, labelled=False)
    return images


def _say_if_trained_on(deployment: Deployment, source: ImageSource) -> None:
    """Of a folder that has no split of its own, training and evaluation are the same images."""
    passport = read_passport(deployment.source)
    trained = passport.facts.get("data") if passport is not None and passport.kind == "checkpoint" else None
    if isinstance(trained, str) and Path(trained).absolute() == Path(source.name).absolute():
        deployment.workspace.voice.warn(
            f"{deployment.info.name} was trained on images of {source.name}: its accuracy there says little of others "
            "(give the folder train/ and val/, or name other images with --data)"
        )


def _labels(
    deployment: Deployment, source: ImageSource, labels: NDArray[np.int64], unlabelled: str
) -> NDArray[np.int64] | None:
    if source.classes and deployment.info.labels == source.classes:
        return labels
    deployment.workspace.voice.warn(
        (
            f"the classes of {source.name} are not those of {deployment.info.name}"
            if source.classes
            else f"the images of {source.name} lie in no folders of their classes"
        )
        + f": top-1 and top-5 are left out, {unlabelled} (--data names other images)"
    )
    return None

"""The images that accuracy is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.candidate import Candidate
from alexnet_deploy.bench.runner import EvaluationData
from alexnet_deploy.data.batches import Skipped, say_skipped, undamaged
from alexnet_deploy.data.shipped import Split, shipped_hashes
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DataError
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.scale.executor import Executor
from alexnet_deploy.scale.images import ImageSet, absolute
from alexnet_deploy.scale.scanning import scanned
from alexnet_deploy.specs import QUANTIZED

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
    """

    def __init__(
        self, deployment: Deployment, name: str, most: int | None, *, skip_bad: bool, executor: Executor | None = None
    ) -> None:
        voice = deployment.workspace.voice
        self._executor = executor
        self.images = ImageSet(data=name if executor is None else absolute(name))
        self.source = self.images.source
        for note in self.source.notes:
            voice.warn(note)
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
        self._hashes = tuple(hashes[place] for place in chosen) if hashes else None
        self.labels = _labels(deployment, self.source, self.source.labels[self.kept])
        self.data = EvaluationData(data=name, preprocessing=deployment.info.preprocessing, indices=self.kept)

    def _content_hashes(self, voice: Voice) -> set[str]:
        if self._hashes is None and self._executor is not None:
            self._hashes = scanned(self._executor, self.images, self.kept, skip_bad=False, voice=voice).hashes
        if self._hashes is not None:
            return set(self._hashes)
        return {self.source.content_hash(int(index)) for index in self.kept}

    def to_json(self) -> dict[str, Any]:
        """The entry `data` of a bench."""
        return {
            "name": self.source.name,
            "images": len(self.kept),
            "skipped": self.skipped,
            "labelled": self.labels is not None,
        }

    def require_fresh(self, deployment: Deployment, candidates: Sequence[Candidate]) -> None:
        """Accuracy on images that INT8 was calibrated or guarded on says little; nothing where no candidate is INT8.

        Raises:
            DataError: Some of the evaluation images are among those.
        """
        if not any(each.spec.precision in QUANTIZED and each.reason is None for each in candidates):
            return
        table = deployment.present_table()
        used = set(CalibrationTable.read(table).images) if table is not None else set()
        used |= shipped_hashes(Split.GUARD)
        shared = used & self._content_hashes(deployment.workspace.voice)
        if shared:
            raise DataError(
                f"evaluation images of {self.source.name} were used for calibration or by the guard",
                got=f"{len(shared)} of {len(self.kept)} shared",
                expected="sets that share no image (by content hash)",
                remedy="name other images with --data, or calibrate on others with `alexnet-deploy calibrate --data`",
            )


def _labels(deployment: Deployment, source: ImageSource, labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
    if source.classes and deployment.info.labels == source.classes:
        return labels
    deployment.workspace.voice.warn(
        (
            f"the classes of {source.name} are not those of {deployment.info.name}"
            if source.classes
            else f"the images of {source.name} lie in no folders of their classes"
        )
        + ": top-1 and top-5 are left out, "
        "agreement with the reference is measured (--data names other images)"
    )
    return None

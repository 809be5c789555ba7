"""The images that accuracy is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.candidate import Candidate
from alexnet_deploy.bench.runner import EvaluationData, evaluation_source
from alexnet_deploy.data.batches import Skipped, undamaged
from alexnet_deploy.data.shipped import Split, shipped_hashes
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DataError
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.precision.table import CalibrationTable
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
    """

    def __init__(self, deployment: Deployment, name: str, most: int | None, *, skip_bad: bool) -> None:
        voice = deployment.workspace.voice
        skipped = Skipped() if skip_bad else None
        self.source = evaluation_source(name)
        good = undamaged(self.source, skipped)
        self.kept: NDArray[np.int64] = good[spread(len(good), most)]
        self.skipped = len(skipped or ())
        if skipped:
            voice.warn(f"{len(skipped)} damaged images were skipped, the first: {skipped.names[0]}")
        self.labels = _labels(deployment, self.source, self.source.labels[self.kept])
        self.data = EvaluationData(data=name, preprocessing=deployment.info.preprocessing, indices=self.kept)

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
        shared = used & {self.source.content_hash(int(index)) for index in self.kept}
        if shared:
            raise DataError(
                f"evaluation images of {self.source.name} were used for calibration or by the guard",
                got=f"{len(shared)} of {len(self.kept)} shared",
                expected="sets that share no image (by content hash)",
                remedy="name other images with --data, or calibrate on others with `alexnet-deploy calibrate --data`",
            )


def _labels(deployment: Deployment, source: ImageSource, labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
    if deployment.info.labels == source.classes:
        return labels
    deployment.workspace.voice.warn(
        f"the classes of {source.name} are not those of {deployment.info.name}: top-1 and top-5 are left out, "
        "agreement with the reference is measured (--data names other images)"
    )
    return None

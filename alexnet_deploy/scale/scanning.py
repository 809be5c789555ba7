"""What a look at every image of a set tells: its content hash, or that it is damaged."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.data.batches import damaged_text, say_skipped
from alexnet_deploy.errors import DataError
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.scale.answers import unpacked
from alexnet_deploy.scale.executor import Executor
from alexnet_deploy.scale.images import ImageSet
from alexnet_deploy.scale.jobs import Scan

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """What can be used of a set.

    Attributes:
        kept: Indices of the images that can be read, in order.
        hashes: Their content hashes.
        damaged: What is wrong with the others.
    """

    kept: NDArray[np.int64]
    hashes: tuple[str, ...]
    damaged: tuple[str, ...]


def scanned(
    executor: Executor,
    images: ImageSet,
    indices: NDArray[np.int64],
    *,
    skip_bad: bool,
    voice: Voice = SILENT,
) -> Scanned:
    """Reads images.

    Args:
        executor: Who reads.
        images: The set.
        indices: Which of them.
        skip_bad: Leave out damaged images, and say how many there are.
        voice: Hears it, and shows progress.

    Raises:
        ImageError: An image is damaged, the first one of them, and is not to be left out.
        DataError: All of them are.
    """
    job = Scan(images=images, indices=indices, skip_bad=skip_bad)
    kept: list[int] = []
    hashes: list[str] = []
    damaged: list[str] = []
    with voice.track(job.name, len(indices)) as track, contextlib.closing(executor.run(job)) as answers:
        for answer in answers:
            bad = dict(unpacked(answer.arrays["damaged"]))
            damaged += bad.values()
            for position, (index, digest) in enumerate(
                zip(answer.chunk.of(indices), answer.arrays["hashes"], strict=True)
            ):
                if position not in bad:
                    kept.append(int(index))
                    hashes.append(digest.tobytes().hex())
            track.advance(answer.chunk.stop - answer.chunk.start)
    say_skipped(damaged, voice)
    if not kept:
        raise DataError(
            f"no image of {images.source.name} can be read",
            got=damaged_text(damaged),
            remedy="name other images with --data",
        )
    return Scanned(kept=np.asarray(kept, np.int64), hashes=tuple(hashes), damaged=tuple(damaged))

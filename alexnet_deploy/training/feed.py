"""The images of every step: the same ones in the same order whatever number of processes shares them."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_deploy.data.batches import Batch, Skipped, batches, batches_of_cuts, decoding_threads
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import InputError, TrainingError
from alexnet_deploy.network import AlexNet
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Preprocessing
from alexnet_deploy.training.options import TrainingOptions
from alexnet_deploy.training.ranks import Ranks

# Features of the frozen trunk are kept in memory in FP16.
_MAX_FEATURE_BYTES = 8_000_000_000
# Images of a pass that learns nothing.
CHUNK = 100

Features = tuple[Tensor, Tensor]


def share_of(count: int, index: int, parts: int) -> slice:
    """The `index`-th of `parts` shares of `count` things in a row, which differ by one at most."""
    return slice(count * index // parts, count * (index + 1) // parts)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one forward pass of a step takes.

    Attributes:
        inputs: `(N, 3, S, S) float32` images, or `(N, F) float32` features of the frozen trunk.
        labels: `(N,) int64`.
        own: Their positions in this process's share of the batch.
    """

    inputs: Tensor
    labels: Tensor
    own: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """The batch of a step.

    Attributes:
        size: Images in it, over all processes, damaged ones included.
        share: Those of this process.
        parts: What this process computes, loaded one part ahead.
    """

    size: int
    share: slice
    parts: Iterator[Part]


class Feed:
    """Cuts the epochs into steps, and a step's batch into the shares of the processes and their parts.

    Args:
        source: The images to learn from.
        preprocessing: At the size that is trained at.
        options: Seed, batch size, mirroring.
        ranks: The processes.
        accumulate: Parts of a share.
        skipped: Where damaged images are noted; None makes the first one an error.

    Raises:
        InputError: A batch has fewer images than there are parts.
    """

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        options: TrainingOptions,
        ranks: Ranks,
        accumulate: int,
        skipped: Skipped | None,
    ) -> None:
        self.source, self.preprocessing, self.options = source, preprocessing, options
        self.ranks, self.accumulate, self.skipped = ranks, accumulate, skipped
        self.steps_per_epoch = max(1, len(source) // options.batch_size)
        self.batch = min(options.batch_size, len(source))
        self.features: Features | None = None
        self.threads = threads_of(source, preprocessing, ranks)
        parts = ranks.size * accumulate
        if parts > self.batch:
            raise InputError(
                "a batch has fewer images than it is to be cut into",
                got=f"{self.batch} images for {ranks.size} x {accumulate} parts",
                expected="processes x --accumulate, at most as many as the images of a batch",
                remedy="a larger --batch-size (it is that of all processes together), or fewer processes or parts",
            )

    def describe(self) -> str:
        """How an epoch is cut, in words."""
        shared = f", shared by {self.ranks.size} processes" if self.ranks.size > 1 else ""
        parts = f", in {self.accumulate} parts each" if self.accumulate > 1 else ""
        rest = len(self.source) - self.steps_per_epoch * self.batch
        left = f"; the last {rest} images of an epoch's order, others in every epoch, fill no batch" if rest else ""
        count = "one batch" if self.steps_per_epoch == 1 else f"{self.steps_per_epoch} batches"
        return f"{count} of {self.batch} images an epoch{shared}{parts}{left}"

    def steps(self, epoch: int, done: int) -> Iterator[StepBatch]:
        """The rest of an epoch after `done` of its steps, in the order that seed and epoch give."""
        random = np.random.default_rng([self.options.seed, epoch])
        order = random.permutation(len(self.source))
        flips = random.random(len(order)) < (0.5 if self.options.flip else 0.0)
        starts = range(done * self.batch, self.steps_per_epoch * self.batch, self.batch)
        share = share_of(self.batch, self.ranks.rank, self.ranks.size)
        places = [self._part(index) for index in range(self.accumulate)]
        cuts = [slice(start + place.start, start + place.stop) for start in starts for place in places]
        parts = (
            self._decoded(order, flips, cuts, share) if self.features is None else self._kept(order, flips, cuts, share)
        )
        for _ in starts:
            yield StepBatch(size=self.batch, share=share, parts=itertools.islice(parts, self.accumulate))

    def _part(self, index: int) -> slice:
        return share_of(self.batch, self.ranks.rank * self.accumulate + index, self.ranks.size * self.accumulate)

    def _decoded(
        self, order: NDArray[np.int64], flips: NDArray[np.bool_], cuts: list[slice], share: slice
    ) -> Iterator[Part]:
        """Loads one part while another is in use."""

        def part(cut: slice, batch: Batch) -> Part:
            # Of an epoch's order, in which every image stands once.
            kept = self._places(cut, share)[np.isin(order[cut], batch.indices)]
            return Part(inputs=torch.from_numpy(batch.images), labels=torch.from_numpy(batch.labels), own=kept)

        made = batches_of_cuts(
            self.source, order, cuts, self.preprocessing, flips=flips, skipped=self.skipped, threads=self.threads
        )
        with contextlib.closing(made):
            # `map` keeps no part that it has given.
            yield from map(part, cuts, made)

    def _kept(
        self, order: NDArray[np.int64], flips: NDArray[np.bool_], cuts: list[slice], share: slice
    ) -> Iterator[Part]:
        """Of the features of the frozen trunk, which lie in memory."""
        assert self.features is not None
        plain, flipped = self.features
        for cut in cuts:
            wanted = torch.from_numpy(order[cut])
            rows = torch.where(torch.from_numpy(flips[cut])[:, None], flipped[wanted], plain[wanted])
            labels = torch.from_numpy(self.source.labels[order[cut]])
            yield Part(inputs=rows.float(), labels=labels, own=self._places(cut, share))

    def _places(self, cut: slice, share: slice) -> NDArray[np.int64]:
        places: NDArray[np.int64] = np.arange(cut.start, cut.stop, dtype=np.int64) % self.batch - share.start
        return places


def threads_of(source: ImageSource, preprocessing: Preprocessing, ranks: Ranks) -> int:
    """How many threads of a process make a part, which is the same for any number: those of its share of the CPUs."""
    return min(ranks.cpus, decoding_threads(source, preprocessing))


def chunks_of(count: int, rank: int, size: int) -> slice:
    """Which of `count` images a process takes of a pass over all of them.

    Whole chunks, so that every pass is over the same images as where one process takes them all.
    """
    own = share_of(math.ceil(count / CHUNK), rank, size)
    return slice(own.start * CHUNK, min(own.stop * CHUNK, count))


@torch.no_grad()
def features_from_trunk(
    network: AlexNet, source: ImageSource, preprocessing: Preprocessing, ranks: Ranks, *, flip: bool, voice: Voice
) -> Features:
    """The features of all images, plain and mirrored: `(N, F) float16`. Each process computes some, and has all.

    Raises:
        TrainingError: They do not fit in memory.
    """
    width = math.prod(network.feature_shape)
    needed = 2 * 2 * len(source) * width
    if needed > _MAX_FEATURE_BYTES:
        raise TrainingError(
            "the features of the frozen trunk do not fit in memory",
            got=f"{needed / 1e9:.1f} GB",
            expected=f"at most {_MAX_FEATURE_BYTES / 1e9:.0f} GB",
            remedy="train on fewer images, or without --head-only",
        )
    network.eval()
    cuts = [chunks_of(len(source), rank, ranks.size) for rank in range(ranks.size)]
    own = np.arange(len(source), dtype=np.int64)[cuts[ranks.rank]]
    threads = threads_of(source, preprocessing, ranks)
    both = [torch.zeros(len(source), width, dtype=torch.float16) for _ in range(2 if flip else 1)]
    with ranks.together(), voice.track("features", len(own) * len(both)) as track:
        for mirrored, rows in enumerate(both):
            flips = np.full(len(own), bool(mirrored))
            for batch in batches(source, CHUNK, preprocessing, indices=own, flips=flips, threads=threads):
                images = torch.from_numpy(batch.images).to(ranks.device, memory_format=torch.channels_last)
                rows[torch.from_numpy(batch.indices)] = network.features(images).half().cpu()
                track.advance(len(batch.indices))
    for rows in both:
        ranks.merge(rows, cuts)
    return both[0], both[-1]

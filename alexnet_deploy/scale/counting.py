"""Calibration in chunks: histograms of a chunk's activations, which merge to those of all images exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.data.batches import batches
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.graph import read_graph
from alexnet_deploy.precision.calibrate import CALIBRATION_BATCH, Observer
from alexnet_deploy.precision.channels import ChannelRanges
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.resume import State
from alexnet_deploy.scale.chunks import Arrays, Chunk
from alexnet_deploy.scale.executor import Executor
from alexnet_deploy.scale.images import ImageSet
from alexnet_deploy.scale.jobs import Job, Step
from alexnet_deploy.specs import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Count(Job):
    """Histograms by the name of their tensor, as `arrays_from_histograms` writes them.

    Attributes:
        graph: The FP32 graph's file.
        preprocessing: That of the model.
    """

    graph: Path
    preprocessing: Preprocessing
    name: str = "calibrate"
    chunk: int = 4 * CALIBRATION_BATCH

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.graph,)

    def at(self, folder: Path, threads: int) -> Count:
        # The session keeps its own number of threads: what a kernel rounds may depend on it, and the table must not
        # depend on how many workers there are.
        return Count(
            images=self.images,
            indices=self.indices,
            graph=folder / self.graph.name,
            preprocessing=self.preprocessing,
            chunk=self.chunk,
        )

    @contextlib.contextmanager
    def opened(self, source: ImageSource) -> Iterator[Step]:
        observer = Observer(read_graph(self.graph))

        def step(chunk: Chunk) -> Arrays:
            found: dict[str, Histogram] = {name: Histogram() for name in observer.names}
            for batch in batches(source, CALIBRATION_BATCH, self.preprocessing, indices=chunk.of(self.indices)):
                counted = observer.histograms(observer.values(batch.images))
                found = {name: found[name].merged(counted[name]) for name in observer.names}
            return arrays_from_histograms(found)

        yield step


@dataclass(frozen=True, kw_only=True)
class ElsewhereCounter:
    """Counts images with an executor; what calibration takes in place of its own loop.

    Attributes:
        executor: Who counts.
        images: The set.
        kept: Of which these images are calibrated on.
        graph: The FP32 graph's file.
        preprocessing: That of the model.
    """

    executor: Executor
    images: ImageSet
    kept: NDArray[np.int64]
    graph: Path
    preprocessing: Preprocessing

    def __call__(self, order: NDArray[np.int64], first: int) -> Generator[State]:
        """How many images each chunk has, and their histograms."""
        job = Count(images=self.images, indices=self.kept[order], graph=self.graph, preprocessing=self.preprocessing)
        with contextlib.closing(self.executor.run(job, first)) as answers:
            for answer in answers:
                yield answer.chunk.stop - answer.chunk.start, histograms_from_arrays(answer.arrays)


def arrays_from_histograms(histograms: Mapping[str, Histogram]) -> Arrays:
    """`NAME/counts` is `(2, bins) int64`, the negative side first; ranges of channels are there where known."""
    arrays: Arrays = {}
    for name, found in histograms.items():
        arrays[f"{name}/counts"] = np.stack([found.negative, found.positive])
        arrays[f"{name}/exponent"] = np.asarray([found.exponent], np.int64)
        arrays[f"{name}/ends"] = np.asarray([found.minimum, found.maximum], np.float64)
        if found.channels is not None:
            arrays[f"{name}/channels"] = np.stack([found.channels.minima, found.channels.maxima])
    return arrays


def histograms_from_arrays(arrays: Arrays) -> dict[str, Histogram]:
    """What `arrays_from_histograms` wrote."""
    found = {}
    for name in [key.removesuffix("/counts") for key in arrays if key.endswith("/counts")]:
        negative, positive = arrays[f"{name}/counts"]
        minimum, maximum = arrays[f"{name}/ends"]
        channels = arrays.get(f"{name}/channels")
        found[name] = Histogram(
            exponent=int(arrays[f"{name}/exponent"][0]),
            positive=positive,
            negative=negative,
            minimum=float(minimum),
            maximum=float(maximum),
            channels=None if channels is None else ChannelRanges(minima=channels[0], maxima=channels[1]),
        )
    return found

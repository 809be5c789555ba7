"""Histograms of chunks merge to the table of one pass to the last digit, whoever counts them and whoever dies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.precision.calibrate import CALIBRATION_BATCH, CalibrationOptions, table_from_images
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.resume import Progress
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.progress import SILENT
from alexnet_deploy.scale.counting import (
    Count,
    ElsewhereCounter,
    arrays_from_histograms,
    histograms_from_arrays,
)
from alexnet_deploy.scale.executor import Executor, LocalExecutor
from alexnet_deploy.scale.images import ImageSet
from alexnet_deploy.scale.ray_data import RayExecutor
from tests.conftest import small_preprocessing
from tests.graphs import GRAPH_HASH, small_graph
from tests.scale.jobs import DeadlyCount

# Two chunks and a part of a third, whose last batch is filled up.
COUNT = 2 * 4 * CALIBRATION_BATCH + 21
IMAGES = ImageSet(data="shipped", split="train", drawn=COUNT)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "small.onnx"
    path.write_bytes(graph_bytes(small_graph()))
    return path


def counter_of(executor: Executor, graph: Path) -> ElsewhereCounter:
    return ElsewhereCounter(
        executor=executor,
        images=IMAGES,
        kept=np.arange(COUNT, dtype=np.int64),
        graph=graph,
        preprocessing=small_preprocessing(),
    )


def table(method: Method = Method.MAX, **how: Any) -> bytes:
    """The file, in which every digit counts."""
    options = CalibrationOptions(method=method, percentile=99.5)
    found = table_from_images(small_graph(), IMAGES.source, small_preprocessing(), GRAPH_HASH, options=options, **how)
    return json.dumps(found.to_json()).encode()


@pytest.mark.parametrize("method", Method)
def test_chunks_give_the_table_of_one_pass(method: Method, graph: Path) -> None:
    assert table(method, counter=counter_of(LocalExecutor(), graph)) == table(method)


def test_one_worker_gives_the_table_of_one_pass(executor: RayExecutor, graph: Path) -> None:
    alone = replace(executor.cluster, options=replace(executor.cluster.options, workers=1))
    executor = RayExecutor(alone, SILENT)
    assert table(counter=counter_of(executor, graph)) == table()
    assert executor.to_json()["workers"] == 1


def test_two_workers_of_whom_one_is_killed_give_it_too(executor: RayExecutor, graph: Path, tmp_path: Path) -> None:
    mark = tmp_path / "died"

    def counter(order: NDArray[np.int64], first: int) -> Any:
        job = DeadlyCount(images=IMAGES, indices=order, graph=graph, preprocessing=small_preprocessing(), mark=mark)
        for answer in executor.run(job, first):
            yield answer.chunk.stop - answer.chunk.start, histograms_from_arrays(answer.arrays)

    assert table(counter=counter) == table()
    how = executor.to_json()
    assert mark.exists() and how["repeated_chunks"] >= 1 and how["workers"] == 2


def test_what_one_way_counted_the_other_goes_on_from(graph: Path, tmp_path: Path) -> None:
    whole, path = table(), tmp_path / "table.part"
    counter = counter_of(LocalExecutor(), graph)
    seen: list[int] = []

    def stopping(order: NDArray[np.int64], first: int) -> Any:
        for count, histograms in counter(order, first):
            if seen:
                raise KeyboardInterrupt
            seen.append(count)
            yield count, histograms

    with pytest.raises(KeyboardInterrupt):
        table(counter=stopping, progress=Progress(path, "this"))
    kept = path.read_bytes()
    assert table(progress=Progress(path, "this")) == whole
    path.write_bytes(kept)
    begun: list[int] = []

    def noting(order: NDArray[np.int64], first: int) -> Any:
        begun.append(first)
        return counter(order, first)

    assert table(counter=noting, progress=Progress(path, "this")) == whole
    assert begun == seen == [4 * CALIBRATION_BATCH]


def test_histograms_travel_to_the_last_bit() -> None:
    source = shipped_images(Split.CALIBRATION)
    values = np.stack([source.image(index) for index in range(3)]).astype(np.float32) / np.float32(255) - np.float32(
        0.3
    )
    counted = Histogram()
    counted.add(values)
    empty = Histogram()
    found = histograms_from_arrays(arrays_from_histograms({"a/b": counted, "empty": empty}))
    assert found == {"a/b": counted, "empty": empty}


def test_a_chunk_is_whole_batches() -> None:
    job = Count(images=IMAGES, indices=np.arange(9), graph=Path("x"), preprocessing=small_preprocessing())
    assert job.chunk % CALIBRATION_BATCH == 0

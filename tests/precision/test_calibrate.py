"""Calibration counts all images once, in any order to the same digits, in the memory of one batch."""

from __future__ import annotations

import json
import tracemalloc
import weakref
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper

from alexnet_deploy.data.batches import Skipped, undamaged
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ArraySource, ImageSource
from alexnet_deploy.errors import GraphError, ImageError, InputError
from alexnet_deploy.export import lowered
from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.precision import calibrate
from alexnet_deploy.precision.calibrate import (
    CALIBRATION_BATCH,
    CalibrationOptions,
    calibrated_values,
    result_of,
    table_from_images,
)
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.table import CalibrationTable, Range
from alexnet_deploy.precision.thresholds import Method, threshold
from alexnet_deploy.specs import Lowering, Preprocessing
from tests.conftest import random_images, small_preprocessing
from tests.graphs import GRAPH_HASH, evaluate, model_of, small_graph

NAMES = (
    "input", "relu1", "pool1", "relu2", "pool2", "relu3", "relu4", "relu5", "flatten5", "relu6", "relu7", "logits",
)  # fmt: skip
COUNT = 37
# Small images that reach the graph as they are: pixel / 100 - 1.
PLAIN = Preprocessing(image_size=4, resize_size=4, scale=0.01, mean=(1.0,) * 3, std=(1.0,) * 3)


def source_of(count: int = COUNT) -> ImageSource:
    return shipped_images(Split.CALIBRATION).subset(range(count))


@cache
def activations() -> dict[str, NDArray[np.float32]]:
    """Every calibrated value for every image, each computed by itself in the banded graph as it is written."""
    model = lowered(small_graph(), Lowering.BANDED)
    by_name = {str(value.name): value for node in model.graph for value in node.outputs}
    by_name["input"] = model.graph.inputs[0]
    source = source_of()
    images = batch_from_images([source.image(index) for index in range(COUNT)], small_preprocessing())
    found = {}
    for name in NAMES:
        if name == "input":
            found[name] = images
            continue
        model.graph.outputs[:] = [by_name[name]]
        found[name] = np.concatenate([evaluate(model, images[index : index + 1]) for index in range(COUNT)])
    return found


def test_the_values_are_what_layers_read_and_give() -> None:
    assert set(calibrated_values(small_graph())) == set(NAMES)


def test_a_layer_without_relu_gives_its_own_output() -> None:
    model = small_graph()
    nodes = {node.name: node for node in model.graph}
    assert result_of(nodes["conv1"]).name == "relu1"
    assert result_of(nodes["fc8"]).name == "logits"


def test_a_layer_whose_output_has_a_second_reader_gives_its_own_output() -> None:
    model = model_of(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Add", ["c", "r"], ["y"]),
        ],
        ["N", 3, 4, 4],
        {"w": np.ones((2, 3, 1, 1), np.float32)},
    )
    assert result_of(model.graph[0]).name == "c"


def written(table: CalibrationTable) -> bytes:
    """The file of a table, in which every digit counts."""
    return json.dumps(table.to_json(), indent=1, allow_nan=False).encode()


@cache
def small_run(count: int = COUNT) -> CalibrationTable:
    return table_from_images(small_graph(), source_of(count), small_preprocessing(), GRAPH_HASH)


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_ranges_are_numpys_over_the_whole_set_whatever_the_batch(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "CALIBRATION_BATCH", batch)
    table = table_from_images(small_graph(), source_of(), small_preprocessing(), GRAPH_HASH)
    assert set(table.tensors) == set(NAMES)
    for name, array in activations().items():
        found = table.tensors[name].histogram
        largest = float(np.abs(array).max())
        np.testing.assert_allclose(
            [found.minimum, found.maximum], [array.min(), array.max()], rtol=0, atol=1e-5 * largest, err_msg=name
        )
        assert int(found.magnitudes.sum()) == array.size, name
    pixels = activations()["input"]
    assert table.range_of("input") == Range(minimum=float(pixels.min()), maximum=float(pixels.max()))


def test_the_counts_are_those_of_the_activations_but_for_rounding() -> None:
    for name, array in activations().items():
        expected = Histogram()
        expected.add(array)
        found = small_run().tensors[name].histogram
        assert found.exponent == expected.exponent
        # A value at an edge falls to the other side where kernels round differently.
        moved = np.abs(np.cumsum(found.positive - expected.positive)).max()
        assert moved <= (0 if name == "input" else 1e-3 * array.size), name
        assert (found.positive + found.negative).sum() == array.size


def test_a_table_says_what_it_was_made_from() -> None:
    options = CalibrationOptions(method=Method.ENTROPY, percentile=98.5)
    table = table_from_images(small_graph(), source_of(3), small_preprocessing(), GRAPH_HASH, options=options)
    assert (table.method, table.percentile, table.graph_sha256) == (Method.ENTROPY, 98.5, GRAPH_HASH)
    assert table.preprocessing == small_preprocessing().fingerprint
    assert table.images == tuple(sorted(source_of(3).content_hash(index) for index in range(3)))
    for found in table.tensors.values():
        assert found.thresholds == {method: threshold(found.histogram, method, 98.5) for method in Method}
    assert (small_run().method, small_run().percentile) == (Method.MAX, 99.99)


@pytest.mark.parametrize("method", Method)
def test_the_method_of_a_run_is_the_method_chosen_later(method: Method) -> None:
    source, options = random_images(3, side=4, colour=True), CalibrationOptions(method=method)
    table = table_from_images(layers(), source, PLAIN, GRAPH_HASH, options=options)
    assert written(table) == written(table_from_images(layers(), source, PLAIN, GRAPH_HASH).by_method(method))


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.5, float("nan")])
def test_what_is_no_percentile_is_refused_before_any_image_is_read(percentile: float) -> None:
    with pytest.raises(InputError, match="percentile"):
        CalibrationOptions(percentile=percentile)


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_the_images_does_not_change_a_digit(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(COUNT)
    shuffled = table_from_images(small_graph(), source_of().subset(order), small_preprocessing(), GRAPH_HASH)
    assert written(shuffled) == written(small_run())
    assert shuffled == small_run()


@pytest.mark.parametrize("count", [1, 15, 16, 17, 32, 33])
def test_order_does_not_matter_at_any_edge_of_a_batch(count: int) -> None:
    source = random_images(count, side=4, colour=True)
    tables = {
        written(table_from_images(layers(), source.subset(order), PLAIN, GRAPH_HASH))
        for order in (np.arange(count), np.arange(count)[::-1], np.random.default_rng(count).permutation(count))
    }
    assert len(tables) == 1


def test_an_image_that_is_there_twice_counts_twice_in_any_order() -> None:
    source = random_images(20, side=4, colour=True)
    order = np.asarray([*range(20), 3, 3, 17])
    twice, again = (
        table_from_images(layers(), source.subset(chosen), PLAIN, GRAPH_HASH) for chosen in (order, order[::-1])
    )
    assert written(twice) == written(again) and len(twice.images) == 23
    once = table_from_images(layers(), source, PLAIN, GRAPH_HASH)
    assert int(twice.tensors["x"].histogram.magnitudes.sum()) == 23 * 48
    assert int(once.tensors["x"].histogram.magnitudes.sum()) == 20 * 48


class Watched:
    """What goes through ONNX Runtime, and which of its results are still alive when the next ones are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import onnxruntime

        self.fed: list[NDArray[np.float32]] = []
        self.alive: list[int] = []
        given: list[weakref.ref[NDArray[np.float32]]] = []
        run = onnxruntime.InferenceSession.run

        def watched(session: Any, names: list[str], feeds: dict[str, NDArray[np.float32]]) -> Any:
            self.alive.append(sum(array() is not None for array in given))
            self.fed.extend(array.copy() for array in feeds.values())
            results = run(session, names, feeds)
            given.extend(weakref.ref(array) for array in results)
            return results

        monkeypatch.setattr(onnxruntime.InferenceSession, "run", watched)


@pytest.mark.parametrize("count", [5, 16, 50])
def test_every_batch_has_the_same_size_and_only_its_filling_is_made_up(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    source = random_images(count, side=4, colour=True)
    table_from_images(layers(), source, PLAIN, GRAPH_HASH)
    assert {len(batch) for batch in watched.fed} == {CALIBRATION_BATCH}
    everything = np.concatenate(watched.fed)
    order = sorted(range(count), key=source.content_hash)
    np.testing.assert_array_equal(
        everything[:count], batch_from_images([source.image(index) for index in order], PLAIN)
    )
    assert (everything[count:] == everything[count - 1]).all()


def test_the_activations_of_one_batch_at_most_wait_while_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    table_from_images(layers(), random_images(70, side=4, colour=True), PLAIN, GRAPH_HASH)
    assert len(watched.alive) == 5
    # Counting goes on while the next batch runs.
    assert max(watched.alive) <= len(calibrated_values(layers()))


class Drawn(ImageSource):
    """Images that are made when they are asked for, so that only what a reader keeps of them takes memory."""

    def __init__(self, count: int, side: int) -> None:
        self.name, self.classes, self.side = "drawn", ("noise",), side
        self.labels = np.zeros(count, np.int64)

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.random.default_rng(index).integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)


def test_memory_does_not_grow_with_the_images() -> None:
    side = 32
    plain = replace(PLAIN, image_size=side, resize_size=side)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            table_from_images(layers(side), Drawn(count, side), plain, GRAPH_HASH)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(16)
    few, many = peak(48), peak(240)
    # 192 images more are 2.4 MB more as the graph reads them, and 3.1 MB more after its layer.
    assert many < few + 1_000_000, (few, many)


def test_another_image_is_another_table() -> None:
    whole = table_from_images(small_graph(), source_of(4), small_preprocessing(), GRAPH_HASH)
    part = table_from_images(small_graph(), source_of(3), small_preprocessing(), GRAPH_HASH)
    assert set(part.images) < set(whole.images)
    for name, found in whole.tensors.items():
        assert part.tensors[name].histogram.maximum <= found.histogram.maximum * (1 + 1e-5) + 1e-6, name
        assert part.tensors[name].histogram != found.histogram


def test_the_graph_is_not_touched() -> None:
    model = small_graph()
    before = graph_bytes(model)
    table_from_images(model, source_of(2), small_preprocessing(), GRAPH_HASH)
    assert graph_bytes(model) == before


class Damaged(ArraySource):
    """Noise in which some images cannot be read."""

    def image(self, index: int) -> NDArray[np.uint8]:
        if index in (1, 5):
            raise ImageError(f"image {index} cannot be read")
        return super().image(index)


def damaged() -> Damaged:
    noise = random_images(8)
    return Damaged(noise.images, noise.labels, noise.classes, "damaged")


def test_a_damaged_image_is_an_error() -> None:
    with pytest.raises(ImageError, match="image 1"):
        table_from_images(small_graph(), damaged(), small_preprocessing(), GRAPH_HASH)


def test_images_that_are_not_damaged_give_the_table_without_the_others() -> None:
    skipped = Skipped()
    kept = undamaged(damaged(), skipped)
    table = table_from_images(small_graph(), damaged().subset(kept), small_preprocessing(), GRAPH_HASH)
    assert len(skipped) == 2 and len(table.images) == 6
    good = random_images(8).subset([0, 2, 3, 4, 6, 7])
    assert written(table) == written(table_from_images(small_graph(), good, small_preprocessing(), GRAPH_HASH))


def with_operator(operator: str) -> ir.Model:
    """A graph whose second convolution reads `operator` of the image."""
    return model_of(
        [
            helper.make_node(operator, ["x"], ["h"]),
            helper.make_node("Conv", ["h", "w"], ["y"], name="conv1"),
        ],
        ["N", 3, 4, 4],
        {"w": np.ones((2, 3, 1, 1), np.float32)},
    )


def layers(side: int = 4) -> ir.Model:
    """A convolution that sees the image, its ReLU, and a fully connected layer."""
    random = np.random.default_rng(7)
    return model_of(
        [
            helper.make_node("Conv", ["x", "w1"], ["c"], name="conv1"),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("Gemm", ["f", "w2"], ["y"], name="fc2"),
        ],
        ["N", 3, side, side],
        {
            "w1": random.standard_normal((4, 3, 1, 1)).astype(np.float32),
            "w2": random.standard_normal((4 * side * side, 5)).astype(np.float32),
        },
    )


def grey(*levels: int) -> ArraySource:
    images = np.stack([np.full((4, 4), level, np.uint8) for level in levels])
    return ArraySource(images, np.zeros(len(levels), np.int64), ("grey",), "grey")


def test_counts_by_hand() -> None:
    table = table_from_images(with_operator("Relu"), grey(50, 150, 250), PLAIN, GRAPH_HASH)
    assert set(table.tensors) == {"h", "y"}
    for name, each, largest in (("h", 48, 1.5), ("y", 32, 4.5)):
        found = table.tensors[name].histogram
        assert found.minimum == 0.0
        assert found.maximum == pytest.approx(largest, rel=1e-6)
        places = [0, int(largest / 3 / found.width), int(found.maximum / found.width)]
        assert [int(found.positive[max(place - 1, 0) : place + 2].sum()) for place in places] == [each] * 3
        assert int(found.magnitudes.sum()) == 3 * each and not found.negative.any()
        assert table.range_of(name) == Range(minimum=0.0, maximum=found.maximum)


def test_a_channel_below_zero_is_counted_there() -> None:
    table = table_from_images(with_operator("Identity"), grey(40, 60), PLAIN, GRAPH_HASH)
    found = table.tensors["h"].histogram
    assert (int(found.negative.sum()), int(found.positive.sum())) == (96, 0)
    assert (found.minimum, found.maximum) == pytest.approx((-0.6, -0.4), rel=1e-6)


@pytest.mark.parametrize("operator", ["Sqrt", "Log"])
def test_an_activation_that_is_not_a_number_is_an_error(operator: str) -> None:
    with pytest.raises(GraphError, match="activation h is not finite") as caught:
        table_from_images(with_operator(operator), grey(50), PLAIN, GRAPH_HASH)
    assert caught.value.remedy


@pytest.mark.parametrize("place", [0, 17, 40], ids=["first-batch", "second-batch", "last-batch"])
def test_one_image_whose_activation_is_not_a_number_is_an_error_in_any_batch(place: int) -> None:
    levels = [200] * 41
    levels[place] = 50
    with pytest.raises(GraphError, match="activation h is not finite"):
        table_from_images(with_operator("Sqrt"), grey(*levels), PLAIN, GRAPH_HASH)


def test_an_infinite_activation_is_an_error() -> None:
    with pytest.raises(GraphError, match="not finite"):
        table_from_images(with_operator("Reciprocal"), grey(100), PLAIN, GRAPH_HASH)

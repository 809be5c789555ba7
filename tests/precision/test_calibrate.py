"""Calibration finds exact ranges over all images, whatever their order and batches, and refuses what is no number."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper

from alexnet_deploy.data.batches import Skipped
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ArraySource, ImageSource
from alexnet_deploy.errors import GraphError, ImageError
from alexnet_deploy.export import lowered
from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.precision import calibrate
from alexnet_deploy.precision.calibrate import calibrated_values, result_of, table_from_images
from alexnet_deploy.precision.table import Range
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


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_ranges_are_numpys_over_the_whole_set_whatever_the_batch(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "CALIBRATION_BATCH", batch)
    table = table_from_images(small_graph(), source_of(), small_preprocessing(), GRAPH_HASH)
    assert set(table.tensors) == set(NAMES)
    for name, array in activations().items():
        found = table.tensors[name]
        largest = float(np.abs(array).max())
        np.testing.assert_allclose(
            [found.minimum, found.maximum], [array.min(), array.max()], rtol=0, atol=1e-5 * largest, err_msg=name
        )
    assert table.tensors["input"] == Range(
        minimum=float(activations()["input"].min()), maximum=float(activations()["input"].max())
    )
    assert (table.images, table.method, table.graph_sha256) == (COUNT, "max", GRAPH_HASH)
    assert table.preprocessing == small_preprocessing().fingerprint


def test_the_order_of_the_images_does_not_matter() -> None:
    source = source_of()
    order = np.random.default_rng(0).permutation(COUNT)
    forward = table_from_images(small_graph(), source, small_preprocessing(), GRAPH_HASH)
    shuffled = table_from_images(small_graph(), source.subset(order), small_preprocessing(), GRAPH_HASH)
    assert shuffled.images_sha256 == forward.images_sha256
    for name, found in forward.tensors.items():
        np.testing.assert_allclose(
            [shuffled.tensors[name].minimum, shuffled.tensors[name].maximum],
            [found.minimum, found.maximum],
            rtol=1e-5,
            atol=1e-6,
        )


def test_another_image_is_another_table() -> None:
    whole = table_from_images(small_graph(), source_of(4), small_preprocessing(), GRAPH_HASH)
    part = table_from_images(small_graph(), source_of(3), small_preprocessing(), GRAPH_HASH)
    assert whole.images_sha256 != part.images_sha256
    for name, found in whole.tensors.items():
        assert part.tensors[name].maximum <= found.maximum * (1 + 1e-5) + 1e-6, name


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


def test_damaged_images_can_be_left_out_and_are_counted() -> None:
    skipped = Skipped()
    table = table_from_images(small_graph(), damaged(), small_preprocessing(), GRAPH_HASH, skipped=skipped)
    assert len(skipped) == 2 and table.images == 6
    good = random_images(8).subset([0, 2, 3, 4, 6, 7])
    assert table == table_from_images(small_graph(), good, small_preprocessing(), GRAPH_HASH)


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


def grey(*levels: int) -> ArraySource:
    images = np.stack([np.full((4, 4), level, np.uint8) for level in levels])
    return ArraySource(images, np.zeros(len(levels), np.int64), ("grey",), "grey")


def test_a_range_by_hand() -> None:
    table = table_from_images(with_operator("Relu"), grey(50, 150, 250), PLAIN, GRAPH_HASH)
    assert set(table.tensors) == {"h", "y"}
    assert table.tensors["h"].minimum == 0.0
    assert table.tensors["h"].maximum == pytest.approx(1.5, rel=1e-6)
    assert table.tensors["y"].minimum == 0.0
    assert table.tensors["y"].maximum == pytest.approx(4.5, rel=1e-6)


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

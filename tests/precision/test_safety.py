"""Dead channels, FP16's range and INT8's clipping are found where they were planted, with NumPy's shares, and nowhere
else."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.export import run_onnx
from alexnet_deploy.graph import WeightedNode, weighted_nodes
from alexnet_deploy.precision.calibrate import table_from_images
from alexnet_deploy.precision.findings import (
    CHANNEL_IMAGES,
    FP16_LOSS,
    FP16_MAX,
    Finding,
    Kind,
    Part,
    lines_from_facts,
    lines_of,
    reported,
)
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.safety import (
    Activations,
    logit_findings,
    noting_clipped,
    weight_findings,
)
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.precision.weights import IntegerWeights, nearest, rounded, scales
from alexnet_deploy.progress import Voice
from tests.conftest import random_images, small_preprocessing
from tests.graphs import GRAPH_HASH, evaluate, model_of, shipped_batch, small_graph
from tests.precision.test_calibrate import PLAIN

VARIANTS = ("paper", "unpadded", "bvlc", "caffenet", "owt")


def kinds(findings: Sequence[Finding]) -> list[tuple[Kind, str, Part]]:
    return [(each.kind, each.layer, each.part) for each in findings]


# A graph of two convolutions and a fully connected layer, whose channels the tests choose.

CHANNELS = 8


def weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    shapes = {"w1": (CHANNELS, 3, 1, 1), "w2": (CHANNELS, CHANNELS, 1, 1), "w3": (5, CHANNELS * 16)}
    found = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    # Every channel is alive on some pixels.
    found |= {"b1": np.full(CHANNELS, 0.2, np.float32), "b2": np.full(CHANNELS, 0.2, np.float32)}
    return found


def network(constants: dict[str, NDArray[np.float32]], between: Sequence[onnx.NodeProto] = ()) -> ir.Model:
    """`between` reads `relu1` and gives `h`."""
    middle = list(between) or [helper.make_node("Identity", ["relu1"], ["h"], name="same")]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1"),
        helper.make_node("Relu", ["c1"], ["relu1"], name="relu1"),
        *middle,
        helper.make_node("Conv", ["h", "w2", "b2"], ["c2"], name="conv2"),
        helper.make_node("Relu", ["c2"], ["relu2"], name="relu2"),
        helper.make_node("Flatten", ["relu2"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3"], ["y"], name="fc3", transB=1),
    ]
    return model_of(nodes, ["N", 3, 4, 4], constants)


def images(count: int = CHANNEL_IMAGES) -> ImageSource:
    return random_images(count, side=4, colour=True)


def pixels(source: ImageSource) -> NDArray[np.float32]:
    return batch_from_images([source.image(index) for index in range(len(source))], PLAIN)


def table_of(model: ir.Model, source: ImageSource | None = None, method: Method = Method.MAX) -> CalibrationTable:
    return table_from_images(model, source or images(), PLAIN, GRAPH_HASH).by_method(method)


def value_of(model: ir.Model, name: str, source: ImageSource | None = None) -> NDArray[np.float32]:
    """The value for every image, computed in the graph as it is written."""
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    before = list(model.graph.outputs)
    values[name].dtype = ir.DataType.FLOAT
    model.graph.outputs[:] = [values[name]]
    found = evaluate(model, pixels(source or images()))
    model.graph.outputs[:] = before
    return found


def numbers(values: object) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


# A sound network.


@pytest.mark.parametrize("variant", VARIANTS)
def test_of_the_weights_of_a_sound_network_there_is_nothing_to_say(variant: str) -> None:
    model = small_graph(variant)
    assert weight_findings(model) == []
    assert logit_findings(model, run_onnx(model, shipped_batch(4))) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_of_the_activations_of_a_sound_network_there_is_nothing_to_say(variant: str) -> None:
    model, source = small_graph(variant), shipped_images(Split.CALIBRATION).subset(range(CHANNEL_IMAGES))
    table = table_from_images(model, source, small_preprocessing(), GRAPH_HASH)
    assert Activations(model, table).findings() == []


def test_of_the_small_network_of_the_other_tests_there_is_nothing_to_say() -> None:
    model = network(weights())
    assert Activations(model, table_of(model)).findings() == []


# Dead channels.


def test_channels_without_weights_are_counted_and_so_are_no_others() -> None:
    constants = weights()
    constants["w2"][[1, 4]] = 0
    constants["w1"][0, 1:] = 0
    (found,) = weight_findings(network(constants))
    assert kinds([found]) == [(Kind.IDLE, "conv2", Part.WEIGHTS)]
    assert (found.count, found.total, found.share, found.tensor) == (2, CHANNELS, 0.25, "w2")


def test_one_idle_channel_of_eleven_is_below_the_share() -> None:
    constants = weights()
    constants["w3"] = np.ones((11, CHANNELS * 16), np.float32)
    constants["w3"][3] = 0
    assert weight_findings(network(constants)) == []


def test_channels_that_no_image_wakes_are_dead_and_idle_ones_are_said_elsewhere() -> None:
    constants = weights()
    constants["b1"][[2, 4, 5, 7]] = -100
    constants["w1"][0] = 0
    model = network(constants)
    alive = value_of(model, "relu1").max(axis=(0, 2, 3)) > value_of(model, "relu1").min(axis=(0, 2, 3))
    assert alive.tolist() == [index not in (0, 2, 4, 5, 7) for index in range(CHANNELS)]
    found = Activations(model, table_of(model)).dead()
    assert kinds(found) == [(Kind.DEAD, "conv1", Part.OUTPUT)]
    assert (found[0].count, found[0].total, found[0].tensor) == (4, CHANNELS, "relu1")


def test_on_few_images_a_quiet_channel_is_not_called_dead() -> None:
    constants = weights()
    constants["b1"][[2, 4, 5, 7]] = -100
    model = network(constants)
    assert Activations(model, table_of(model, images(CHANNEL_IMAGES - 1))).dead() == []


@pytest.mark.parametrize("count", [2, CHANNEL_IMAGES])
def test_of_a_dead_layer_and_all_behind_it_the_first_is_named(count: int) -> None:
    constants = weights()
    constants["b1"][:] = -100
    model = network(constants)
    found = Activations(model, table_of(model, images(count))).findings()
    assert kinds(found) == [(Kind.DEAD, "conv1", Part.OUTPUT)]
    assert (found[0].count, found[0].total, found[0].share) == (CHANNELS, CHANNELS, 1)


def test_a_layer_without_weights_is_dead_though_its_biases_differ() -> None:
    constants = weights()
    constants["w2"][:] = 0
    constants["b2"] = np.arange(1, CHANNELS + 1, dtype=np.float32)
    model = network(constants)
    assert kinds(Activations(model, table_of(model)).findings()) == [(Kind.DEAD, "conv2", Part.OUTPUT)]


def test_a_table_without_channels_says_less_and_nothing_wrong() -> None:
    constants = weights()
    constants["b1"][[2, 4, 5, 7]] = -100
    model = network(constants)
    table = table_of(model)
    old = {
        name: replace(each, histogram=replace(each.histogram, channels=None)) for name, each in table.tensors.items()
    }
    assert Activations(model, replace(table, tensors=old)).dead() == []


# Saturation and logits.


def test_values_at_the_bound_of_a_clip_are_counted() -> None:
    nodes = [
        helper.make_node("Constant", [], ["low"], value_float=0.0),
        helper.make_node("Constant", [], ["high"], value_float=0.3),
        helper.make_node("Clip", ["relu1", "low", "high"], ["h"], name="clip1"),
    ]
    model = network(weights(), nodes)
    (found,) = Activations(model, table_of(model)).saturated()
    assert kinds([found]) == [(Kind.SATURATED, "conv2", Part.INPUT)]
    values = value_of(model, "h")
    assert (found.count, found.total) == (int((values == values.max()).sum()), values.size)
    assert found.largest == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("logits", "found"),
    [
        (np.tile(numbers([[1, 2, 3]]), (4, 1)), True),
        (np.tile(numbers([[1], [2], [3], [4]]), (1, 3)), True),
        (np.zeros((4, 3), np.float32), True),
        (np.tile(numbers([[1, 2, 3]]), (4, 1)) + 1e-3 * np.eye(4, 3, dtype=np.float32), False),
        (numbers([[1, 2, 3]]), False),
        (numbers([[1], [2]]), False),
    ],
    ids=["of every image", "of every class", "zero", "nearly", "one image", "one class"],
)
def test_logits_that_tell_nothing_are_found(logits: NDArray[np.float32], found: bool) -> None:
    findings = logit_findings(small_graph(), logits)
    assert kinds(findings) == ([(Kind.SAME_LOGITS, "fc8", Part.OUTPUT)] if found else [])


# FP16.


def test_weights_beyond_fp16_are_counted_in_their_layer() -> None:
    constants = weights()
    constants["w2"][3, :2, 0, 0] = FP16_MAX, -70_000
    constants["w2"][5, 4] = 1e6
    (found,) = weight_findings(network(constants))
    assert kinds([found]) == [(Kind.FP16_OVERFLOW, "conv2", Part.WEIGHTS)]
    assert (found.count, found.total, found.largest) == (2, CHANNELS * CHANNELS, 1e6)


@settings(max_examples=60)
@given(st.lists(st.integers(-40, 0), min_size=CHANNELS, max_size=CHANNELS), st.integers(0, 1000))
def test_channels_that_fp16_spoils_are_those_that_numpy_says(exponents: list[int], seed: int) -> None:
    constants = weights(seed)
    constants["w2"] *= np.exp2(np.asarray(exponents, np.float32)).reshape(-1, 1, 1, 1)
    rows = constants["w2"].reshape(CHANNELS, -1).astype(np.float64)
    lost = np.linalg.norm(rows.astype(np.float16) - rows, axis=1) / np.linalg.norm(rows, axis=1)
    expected = int((lost > FP16_LOSS).sum())
    found = weight_findings(network(constants))
    assert [each.count for each in found if each.layer == "conv2"] == ([expected] if expected else [])
    assert {each.kind for each in found} <= {Kind.FP16_UNDERFLOW}


def test_small_weights_beside_large_ones_cost_nothing() -> None:
    constants = weights()
    constants["w3"][:, 1:] = 1e-7
    assert weight_findings(network(constants)) == []


@pytest.mark.parametrize(
    ("largest", "kind"),
    [(16_000, None), (17_000, Kind.FP16_HEADROOM), (65_000, Kind.FP16_HEADROOM), (66_000, Kind.FP16_OVERFLOW)],
)
def test_activations_near_fp16s_end_and_beyond_it_are_told_apart(largest: float, kind: Kind | None) -> None:
    model = network(weights())
    values = value_of(model, "relu2")
    factor = np.float32(largest / values.max())
    constants = weights()
    constants["w2"] *= factor
    constants["b2"] *= factor
    # The last layer takes it back.
    constants["w3"] /= factor * CHANNELS
    model = network(constants)
    found = Activations(model, table_of(model)).half()
    both = [("conv2", Part.OUTPUT), ("fc3", Part.INPUT)]
    assert kinds(found) == ([] if kind is None else [(kind, *place) for place in both])
    if kind is not None:
        limit = FP16_MAX if kind is Kind.FP16_OVERFLOW else FP16_MAX / 4
        values = value_of(model, "relu2")
        width = table_of(model).tensors["relu2"].histogram.width
        beyond = int((values >= np.ceil(limit / width) * width).sum())
        assert (found[0].count, found[0].total) == (beyond, values.size) and beyond > 0
        assert found[0].largest == pytest.approx(largest, rel=1e-4)


def test_activations_too_small_for_fp16_are_counted() -> None:
    constants = weights()
    constants["w1"] *= 1e-5
    constants["b1"] *= 1e-5
    constants["w2"] *= 1e5
    model = network(constants)
    found = [each for each in Activations(model, table_of(model)).half() if each.part is Part.OUTPUT]
    assert kinds(found) == [(Kind.FP16_UNDERFLOW, "conv1", Part.OUTPUT)]
    values = value_of(model, "relu1")
    width = table_of(model).tensors["relu1"].histogram.width
    assert (found[0].count, found[0].total) == (
        int(((values >= width) & (values < 2.0**-14)).sum()),
        int((values >= width).sum()),
    )


def norm_between(pool_first: bool = False) -> list[onnx.NodeProto]:
    first = [helper.make_node("MaxPool", ["relu1"], ["p"], name="pool1", kernel_shape=[1, 1])] if pool_first else []
    source = "p" if pool_first else "relu1"
    return [*first, helper.make_node("LRN", [source], ["h"], name="norm1", size=5, alpha=1.0, beta=0.75, bias=1.0)]


@pytest.mark.parametrize("pool_first", [False, True])
def test_a_norm_whose_squares_overflow_is_named_though_what_it_reads_and_gives_fits(pool_first: bool) -> None:
    constants = weights()
    constants["w1"] *= 600
    model = network(constants, norm_between(pool_first))
    values = value_of(model, "relu1")
    limit = np.sqrt(FP16_MAX)
    assert limit < values.max() < FP16_MAX / 4 and np.abs(value_of(model, "h")).max() < limit
    found = Activations(model, table_of(model)).half()
    assert kinds(found) == [(Kind.FP16_LRN, "norm1", Part.INPUT)]
    width = table_of(model).tensors["relu1"].histogram.width
    assert found[0].count == int((values >= np.ceil(limit / width) * width).sum()) <= int((values > limit).sum())
    assert found[0].largest == pytest.approx(values.max())
    quiet = network(weights(), norm_between(pool_first))
    assert Activations(quiet, table_of(quiet)).half() == []


# INT8.


@pytest.mark.parametrize("percentile", [99.0, 99.4, 99.7, 99.99])
def test_what_a_percentile_cuts_off_is_counted(percentile: float) -> None:
    model = network(weights())
    table = table_of(model).by_method(Method.PERCENTILE, percentile)
    found = {(each.tensor): each for each in Activations(model, table).int8()}
    for name in ("relu1", "relu2", "y"):
        values, limit = np.abs(value_of(model, name)), table.tensors[name].thresholds[Method.PERCENTILE]
        clipped = int((values > limit).sum())
        # Five logits of a hundred images are too few to judge.
        assert (name in found) == (clipped >= 0.005 * values.size and name != "y")
        if name in found:
            assert (found[name].count, found[name].total, found[name].kind) == (
                clipped,
                values.size,
                Kind.INT8_CLIPPING,
            )
            assert found[name].largest == pytest.approx(values.max())
    assert bool(found) == (percentile < 99.5)
    assert Activations(model, table.by_method(Method.MAX)).int8() == []


@given(st.integers(0, 2**32 - 1), st.floats(0, 1.2), st.booleans())
def test_the_count_beyond_a_limit_is_numpys_but_for_one_bin(seed: int, share: float, on_an_edge: bool) -> None:
    values = np.random.default_rng(seed).standard_t(3, 500).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    limit = share * float(np.abs(values).max())
    if on_an_edge:
        limit = round(limit / histogram.width) * histogram.width
    beyond = int((np.abs(values) > limit).sum())
    counted = histogram.beyond(limit)
    cut = int(((np.abs(values) > limit) & (np.abs(values) < np.ceil(limit / histogram.width) * histogram.width)).sum())
    assert counted == beyond if on_an_edge else beyond - cut <= counted <= beyond
    assert histogram.total == values.size


@pytest.mark.parametrize("value", [4.0, -4.0])
def test_nothing_is_beyond_the_largest_value_though_it_is_the_edge_of_a_bin(value: float) -> None:
    histogram = Histogram()
    histogram.add(numbers([0, 1, value]))
    assert [histogram.beyond(limit) for limit in (0.0, 1.0, 3.9999, 4.0, 5.0)] == [3, 2, 1, 0, 0]
    assert Histogram().beyond(0.0) == 0


def test_channels_that_one_large_value_leaves_without_steps_are_counted() -> None:
    constants = weights()
    constants["w1"][0] *= 400
    constants["w2"][:, 0] /= 400
    model = network(constants)
    table = table_of(model)
    (found,) = Activations(model, table).int8()
    assert kinds([found]) == [(Kind.INT8_RESOLUTION, "conv1", Part.OUTPUT)]
    largest = value_of(model, "relu1").max(axis=(0, 2, 3))
    assert found.count == int((largest < 4 * largest.max() / 127).sum()) == CHANNELS - 1
    assert found.total == CHANNELS
    assert Activations(model, table).int8({"relu2"}) == []


def test_only_what_is_quantized_is_judged() -> None:
    model = network(weights())
    table = table_of(model).by_method(Method.PERCENTILE, 95.0)
    assert {each.tensor for each in Activations(model, table).int8()} == {"x", "relu1", "relu2", "h", "f"}
    assert [each.tensor for each in Activations(model, table).int8({"relu2", "f"})] == ["relu2", "f"]


def test_weights_that_a_rounding_saturates_are_counted_in_its_last_turn() -> None:
    found: dict[str, Finding] = {}
    limit = 0.4

    def clipping(layer: WeightedNode, steps: int, smallest_scale: NDArray[np.floating] | float = 0.0) -> IntegerWeights:
        made = nearest(layer, steps, smallest_scale)
        scale = scales(np.full(len(layer.weight), limit), steps)
        return replace(made, scale=scale, integers=rounded(layer.weight, scale, steps))

    layers = list(weighted_nodes(network(weights())))
    watched = noting_clipped(clipping, found)
    for layer in layers:
        made = watched(layer, 127, 0.0)
        clipped = int((np.abs(layer.weight) > limit * 127.5 / 127).sum())
        np.testing.assert_array_equal(made.integers, clipping(layer, 127, 0.0).integers)
        assert (found[layer.name].count, found[layer.name].total) == (clipped, layer.weight.size)
        assert kinds([found[layer.name]]) == [(Kind.INT8_CLIPPING, layer.name, Part.WEIGHTS)]
    noting_clipped(nearest, found)(layers[0], 63, 0.0)
    assert set(found) == {"conv2", "fc3"}


# What a person reads.


def some(kind: Kind, *shares: float) -> list[Finding]:
    return [
        Finding(kind=kind, layer=f"conv{i}", part=Part.OUTPUT, tensor=f"t{i}", count=int(1000 * share), total=1000)
        for i, share in enumerate(shares)
    ]


def test_many_findings_are_a_line_a_kind_and_the_worst_come_first() -> None:
    shares = np.linspace(0.1, 0.9, 20)
    lines = lines_of([*some(Kind.INT8_CLIPPING, *shares), *some(Kind.DEAD, 0.5)])
    assert [kind for kind, _ in lines] == [Kind.DEAD, Kind.INT8_CLIPPING]
    text = lines[1][1]
    assert text.startswith("int8-clipping: conv19 (900 of 1,000, 90 %), conv18 (") and "and 16 more: " in text
    assert "conv15" not in text and "--max-drop" in text and "\n" not in text
    assert "dead-channels: conv0 (500 of 1,000, 50 %): channels" in lines[0][1]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_says_what_it_means_and_what_to_do(kind: Kind) -> None:
    ((_, line),) = lines_of(some(kind, 0.5))
    assert line.startswith(f"{kind.value}: conv0 (") and line.count(": ") >= 2 and "; " in line


def test_a_warning_is_for_the_quiet_too_and_a_note_is_not() -> None:
    findings = [*some(Kind.FP16_LRN, 0.5), *some(Kind.DEAD, 0.5)]
    stream = io.StringIO()
    facts = reported(findings, Voice(quiet=True, stream=stream))
    assert stream.getvalue().startswith("warning: dead-channels: ") and stream.getvalue().count("\n") == 1
    assert facts == [finding.to_json() for finding in findings]
    reported(findings, Voice(stream=stream))
    assert "\nfp16-lrn: " in stream.getvalue()


def test_findings_survive_a_passport_and_damaged_ones_are_passed_over() -> None:
    finding = replace(some(Kind.FP16_OVERFLOW, 0.25)[0], part=Part.WEIGHTS, largest=1e6)
    assert Finding.from_json(finding.to_json()) == finding
    facts = {"safety": [finding.to_json()]}
    assert lines_from_facts(facts) == [line for _, line in lines_of([finding])]
    assert "the weights of conv0 (250 of 1,000, 25 %, up to 1e+06)" in lines_from_facts(facts)[0]
    good = finding.to_json()
    for wrong in ({"kind": "bad"}, {"total": 0, "count": 0}, {"total": "many"}, {"count": 2000}, {"part": None}):
        assert lines_from_facts({"safety": [good | wrong]}) == []
    assert lines_from_facts({}) == []
    damaged: list[object] = [5, ["text"], [{}]]
    for entries in damaged:
        assert lines_from_facts({"safety": entries}) == []

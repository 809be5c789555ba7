"""Thresholds, Q/DQ and rounding behave as numbers must, whatever the values are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import helper

from alexnet_deploy.graph import constant_of, graph_bytes, weighted_nodes
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.rounding import gptq
from alexnet_deploy.precision.table import CalibrationTable, observed
from alexnet_deploy.precision.thresholds import Method, threshold
from alexnet_deploy.precision.weights import largest_by_channel, rounded, scales
from alexnet_deploy.specs import Target
from tests.graphs import evaluate, model_of

FEW = settings(derandomize=True, deadline=None, max_examples=40)
VALUES = hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-100, 100, width=32, allow_subnormal=False))


def counted(values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


@given(VALUES, st.lists(st.floats(0.01, 100), min_size=2, max_size=6))
@FEW
def test_a_higher_percentile_never_cuts_off_more(values: NDArray[np.float32], percentiles: list[float]) -> None:
    histogram = counted(values)
    found = [threshold(histogram, Method.PERCENTILE, percentile) for percentile in sorted(percentiles)]
    assert all(low <= high for low, high in itertools.pairwise(found))
    assert found[-1] <= threshold(histogram, Method.MAX)
    assert threshold(histogram, Method.PERCENTILE, 100) == threshold(histogram, Method.MAX)


@given(VALUES, st.integers(-20, 20), st.sampled_from(Method))
@FEW
def test_a_threshold_scales_with_its_values_and_does_not_care_for_signs(
    values: NDArray[np.float32], power: int, method: Method
) -> None:
    """By a power of two, which moves every value into the same bin of another width."""
    assume(np.abs(values[values != 0]).min(initial=1.0) > 1e-20)
    found = threshold(counted(values), method, 99.0)
    scaled = np.ldexp(values, power).astype(np.float32)
    assert threshold(counted(scaled), method, 99.0) == pytest.approx(np.ldexp(found, power), rel=1e-12)
    assert threshold(counted(-values), method, 99.0) == found
    assert threshold(counted(np.abs(values)), method, 99.0) == found


@given(VALUES, VALUES)
@FEW
def test_more_values_of_any_kind_never_make_the_maximum_smaller(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> None:
    both = counted(one).merged(counted(other))
    parts = [threshold(counted(values), Method.MAX) for values in (one, other)]
    assert threshold(both, Method.MAX) == max(parts)


def one_layer_table(seen: NDArray[np.float32]) -> CalibrationTable:
    return CalibrationTable(
        method=Method.MAX,
        percentile=99.9,
        tensors={"x": observed(counted(seen), 99.9), "y": observed(counted(seen), 99.9)},
        graph_sha256="0" * 64,
        preprocessing="0" * 16,
        images=("a",),
    )


TINIEST = [np.float32(1e-45), np.float32(1e-42), np.float32(1e-38), np.float32(1e-30)]


@given(
    VALUES | st.sampled_from([np.full(3, tiny, np.float32) for tiny in TINIEST]),
    st.sampled_from([Target.TENSORRT, Target.TENSORRT_RTX, Target.OPENVINO, Target.ONNXRUNTIME_CPU]),
)
@FEW
def test_quantized_and_back_is_within_half_a_step_and_saturates_beyond(
    seen: NDArray[np.float32], target: Target
) -> None:
    """A 1x1 convolution by one, so that what it gives is what it reads after Q and DQ."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["z"], name="conv1"), helper.make_node("Identity", ["z"], ["y"])]
    model = model_of(nodes, ["N", 1, 1, 1], {"w": np.ones((1, 1, 1, 1), np.float32)})
    table = one_layer_table(seen)
    table.tensors["z"] = table.tensors["y"]
    quantized = int8_from_fp32(model, table, target)
    graph_bytes(quantized)
    node = next(node for node in quantized.graph if node.op_type == "QuantizeLinear")
    scale, zero = (constant_of(value) for value in node.inputs[1:])
    assert scale is not None and zero is not None
    assert np.isfinite(scale) and scale > 0
    step = float(scale)
    low, high = float(min(seen.min(), 0)), float(max(seen.max(), 0))
    x = np.unique(np.concatenate([seen, [0.0, low, high]])).astype(np.float32)
    least, most = (-128, 127) if zero.dtype == np.int8 else (0, 255)
    integers = np.clip(np.rint(x.astype(np.float64) / step) + int(zero), least, most)
    back = (integers - int(zero)) * step
    # The ends may lie half a step outside, since the zero point is a whole number.
    assert np.abs(back - x).max() <= step * (1 + 1e-5)
    assert back[list(x).index(0.0)] == 0
    got = evaluate(quantized, x.reshape(-1, 1, 1, 1)).ravel()
    # Quantized once or twice, and by a weight that is a whole number of steps.
    assert np.abs(got - x).max() <= 2.1 * step
    beyond = evaluate(quantized, np.asarray([1e30, -1e30], np.float32).reshape(-1, 1, 1, 1)).ravel()
    assert np.isfinite(beyond).all()


WEIGHTS = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 12)), elements=st.floats(-4, 4, width=32))


@given(WEIGHTS, st.sampled_from([127, 63, 7]), st.integers(0, 99))
@FEW
def test_gptq_stays_within_its_steps_and_errs_no_more_on_what_it_was_shown(
    weight: NDArray[np.float32], steps: int, seed: int
) -> None:
    inputs = weight.shape[1]
    seen = np.random.default_rng(seed).standard_normal((3 * inputs, inputs))
    second = (seen.T @ seen / len(seen)).astype(np.float32)
    scale = scales(largest_by_channel(weight), steps)
    integers = gptq(weight, scale, steps, second[None])
    assert integers.shape == weight.shape and np.abs(integers.astype(int)).max() <= steps
    np.testing.assert_array_equal(integers[weight == 0], 0)
    # Independent inputs of one size leave nothing to make up for.
    plain = gptq(weight, scale, steps, np.eye(inputs, dtype=np.float32)[None])
    np.testing.assert_array_equal(plain, rounded(weight, scale, steps))


@given(st.integers(1, 6), st.integers(0, 5), st.sampled_from(list(Target)))
@FEW
def test_channels_that_are_zeros_stay_zeros(channels: int, zero: int, target: Target) -> None:
    weight = np.random.default_rng(channels).normal(0, 1, (channels, 3, 3, 3)).astype(np.float32)
    weight[zero % channels] = 0
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv1"), helper.make_node("Relu", ["c"], ["y"])]
    model = model_of(nodes, ["N", 3, 5, 5], {"w": weight})
    quantized = int8_from_fp32(model, one_layer_table(np.asarray([-1.0, 1.0], np.float32)), target)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 5, 5)).astype(np.float32)
    got = evaluate(quantized, x)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[:, zero % channels], 0)
    assert not list(weighted_nodes(quantized))

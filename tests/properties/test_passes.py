"""Passes over graphs keep what is computed, whatever the window, the constants and the shapes are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from alexnet_deploy.graph import copy_of, graph_bytes, weighted_nodes
from alexnet_deploy.lrn.lowering import lower_to_banded, lrn_nodes, spec_of
from alexnet_deploy.lrn.node import lower_to_plugin
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.lrn.recovery import recover_lrn
from alexnet_deploy.normalise import normalise
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.specs import LrnSpec, Precision
from tests.graphs import evaluate, model_of, operators, relative_error

FEW = settings(derandomize=True, deadline=None, max_examples=25)
# Powers of FP32 sums, and the body's or the chain's own roundings.
BOUND = 8e-6
specs = st.builds(
    LrnSpec,
    size=st.integers(0, 5).map(lambda half: 2 * half + 1),
    alpha=st.floats(1e-5, 10),
    beta=st.sampled_from([0.5, 0.75, 1.0]) | st.floats(0.2, 1.5),
    bias=st.floats(0.5, 4),
)


def norm(spec: LrnSpec, channels: int, side: int) -> ir.Model:
    node = helper.make_node(
        "LRN", ["x"], ["y"], name="norm1", size=spec.size, alpha=spec.alpha, beta=spec.beta, bias=spec.bias
    )
    return model_of([node], ["N", channels, side, side], {})


def images(channels: int, side: int, seed: int, scale: float = 10.0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return (scale * random.standard_normal((2, channels, side, side))).astype(np.float32)


def close(got: LrnSpec, expected: LrnSpec) -> bool:
    """As close as FP32 attributes and sums can tell."""
    numbers = [(got.alpha, expected.alpha), (got.beta, expected.beta), (got.bias, expected.bias)]
    return got.size == expected.size and all(abs(a - b) <= 1e-5 * b for a, b in numbers)


@given(specs, st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
@FEW
def test_a_norm_that_was_banded_comes_back_as_it_was(spec: LrnSpec, channels: int, side: int, seed: int) -> None:
    model = norm(spec, channels, side)
    lower_to_banded(model)
    assert not lrn_nodes(model)
    found = recover_lrn(model)
    x = images(channels, side, seed)
    # ONNX Runtime's own kernel keeps a running sum, which loses digits.
    np.testing.assert_allclose(evaluate(model, x), lrn_reference(x, spec), rtol=5e-4 if found else BOUND)
    if found:
        assert operators(model) == ["LRN"]
        # A window that reaches beyond every channel on both sides can be written with any width.
        wide = spec.size >= 2 * channels - 1
        assert wide or close(spec_of(lrn_nodes(model)[0]), spec)
    else:
        # What FP32 cannot tell from other constants stays as it was; for ordinary ones it can.
        assert spec.alpha / spec.size < 1e-4 or spec.beta not in (0.5, 0.75, 1.0) or channels == 1


@given(specs, st.integers(1, 20), st.integers(1, 4), st.booleans(), st.integers(0, 99))
@FEW
def test_every_way_to_write_a_band_is_the_norm(
    spec: LrnSpec, channels: int, side: int, contain_nan: bool, seed: int
) -> None:
    x = images(channels, side, seed)
    for switches in ({"contain_nan": contain_nan}, {"channels_last": True}):
        model = norm(spec, channels, side)
        assert lower_to_banded(model, **switches) == 1
        graph_bytes(model)
        np.testing.assert_allclose(evaluate(model, x), lrn_reference(x, spec), rtol=BOUND, atol=1e-30)


@given(specs, st.integers(1, 20), st.integers(1, 4), st.integers(0, 99))
@FEW
def test_the_body_of_the_plugins_node_is_the_norm(spec: LrnSpec, channels: int, side: int, seed: int) -> None:
    model = norm(spec, channels, side)
    lower_to_plugin(model)
    graph_bytes(model)
    x = images(channels, side, seed)
    np.testing.assert_allclose(evaluate(model, x), lrn_reference(x, spec), rtol=BOUND, atol=1e-30)


@st.composite
def networks(draw: st.DrawFn) -> tuple[ir.Model, NDArray[np.float32]]:
    """Convolutions with all that stands between them, flattened and multiplied, with or without a fixed batch."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    side, channels, value = draw(st.integers(6, 12)), 3, "x"
    batch: Any = draw(st.sampled_from([1, 2, "N"]))
    nodes, constants = [], {}
    for index in range(draw(st.integers(1, 3))):
        filters = draw(st.integers(1, 6))
        kernel = draw(st.sampled_from([1, 3]))
        name = f"c{index}"
        constants[f"{name}.w"] = random.normal(0, 0.5, (filters, channels, kernel, kernel)).astype(np.float32)
        if draw(st.booleans()):
            # An output channel that is zeros everywhere.
            constants[f"{name}.w"][0] = 0
        parameters = [f"{name}.w"]
        if draw(st.booleans()):
            constants[f"{name}.b"] = random.normal(0, 0.5, filters).astype(np.float32)
            parameters.append(f"{name}.b")
        nodes.append(helper.make_node("Conv", [value, *parameters], [name], pads=[kernel // 2] * 4))
        value, channels = name, filters
        for op in draw(st.lists(st.sampled_from(["Relu", "Identity", "Dropout", "LRN"]), max_size=3)):
            attributes: dict[str, Any] = {"size": 3, "alpha": 0.01} if op == "LRN" else {}
            nodes.append(helper.make_node(op, [value], [f"{value}{op[0]}"], **attributes))
            value += op[0]
    features = channels * side * side
    rows = draw(st.sampled_from(["Flatten", "Reshape"]))
    if rows == "Flatten":
        nodes.append(helper.make_node("Flatten", [value], ["rows"]))
    else:
        constants["rows_shape"] = np.asarray([-1, features] if batch == "N" else [batch, -1], np.int64)
        nodes.append(helper.make_node("Reshape", [value, "rows_shape"], ["rows"]))
    constants["fc.w"] = random.normal(0, features**-0.5, (features, 4)).astype(np.float32)
    nodes.append(helper.make_node("MatMul", ["rows", "fc.w"], ["y"]))
    x = random.standard_normal((2 if batch == "N" else batch, 3, side, side)).astype(np.float32)
    return model_of(nodes, [batch, 3, side, side], constants, opset=draw(st.sampled_from([13, 18, 20]))), x


@given(networks())
@FEW
def test_a_normalised_graph_computes_the_same_and_a_second_time_changes_nothing(
    network: tuple[ir.Model, NDArray[np.float32]],
) -> None:
    model, x = network
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    found = normalise(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    expected = evaluate(model, x)
    np.testing.assert_allclose(evaluate(found.model, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    again = normalise(found.model)
    assert not again.modified
    assert graph_bytes(again.model) == graph_bytes(found.model)
    # Any batch, whatever was written into the file.
    more = np.concatenate([x, x, x])
    np.testing.assert_allclose(evaluate(found.model, more)[: len(x)], evaluate(found.model, x), rtol=1e-4, atol=1e-5)


@given(networks())
@FEW
def test_half_precision_keeps_layers_and_names_and_nearly_the_numbers(
    network: tuple[ir.Model, NDArray[np.float32]],
) -> None:
    model, x = network
    whole = normalise(model).model
    half = half_from_fp32(whole, Precision.FP16)
    graph_bytes(half)
    assert [layer.name for layer in weighted_nodes(half)] == [layer.name for layer in weighted_nodes(whole)]
    assert {layer.weight.dtype.name for layer in weighted_nodes(half)} == {"float16"}
    expected = evaluate(whole, x)
    if np.abs(expected).max() > 1e-3:
        assert relative_error(evaluate(half, x), expected) < 3e-2


@given(networks())
@FEW
def test_a_copy_is_the_graph_to_the_byte(network: tuple[ir.Model, NDArray[np.float32]]) -> None:
    model, _ = network
    assert graph_bytes(copy_of(model)) == graph_bytes(model)

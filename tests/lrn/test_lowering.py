"""The banded form of LRN equals the operator and its definition, and attributes are read as the decimals they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper
from onnx.backend.test.case.node import lrn as lrn_cases

from alexnet_deploy.errors import GraphError
from alexnet_deploy.graph import copy_of
from alexnet_deploy.lrn.lowering import band_weights, lower_to_banded, lrn_nodes, spec_of
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.specs import LrnSpec
from tests.graphs import evaluate, model_of, operators, relative_error, shipped_batch, small_graph

CHANNELS, SIDE = 12, 5
# The docstring's own bound, and one more rounding for the comparison with the operator of FP32 itself.
BOUND, BOUND_OF_TWO = 7e-7, 1.5e-6


def lrn_model(spec: LrnSpec, channels: int | str = CHANNELS) -> ir.Model:
    node = helper.make_node(
        "LRN", ["x"], ["y"], name="norm1", size=spec.size, alpha=spec.alpha, beta=spec.beta, bias=spec.bias
    )
    return model_of([node], ["N", channels, SIDE, SIDE], {})


def images(scale: float, channels: int = CHANNELS) -> NDArray[np.float32]:
    random = np.random.default_rng(3)
    return (scale * random.standard_normal((3, channels, SIDE, SIDE))).astype(np.float32)


def banded(model: ir.Model) -> ir.Model:
    copy = copy_of(model)
    assert lower_to_banded(copy) == len(lrn_nodes(model))
    assert "LRN" not in operators(copy)
    return copy


@pytest.mark.parametrize("scale", [0.5, 30.0, 1000.0, 10000.0])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 9])
def test_the_banded_form_equals_the_definition(size: int, beta: float, scale: float) -> None:
    spec = LrnSpec(size=size, alpha=1e-3, beta=beta, bias=2.0)
    x = images(scale)
    np.testing.assert_allclose(evaluate(banded(lrn_model(spec)), x), lrn_reference(x, spec), rtol=BOUND, atol=0)


# ONNX Runtime's kernel takes odd windows only, and its running sum loses digits of large activations.
@pytest.mark.parametrize("scale", [0.5, 30.0])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
def test_the_banded_form_equals_the_operator(size: int, beta: float, scale: float) -> None:
    model, x = lrn_model(LrnSpec(size=size, alpha=1e-3, beta=beta, bias=2.0)), images(scale)
    np.testing.assert_allclose(evaluate(banded(model), x), evaluate(model, x), rtol=BOUND_OF_TWO, atol=0)


@pytest.mark.parametrize("size", [4, 5, 23, 24, 40])
def test_a_window_wider_than_the_channels_takes_them_all(size: int) -> None:
    spec = LrnSpec(size=size, alpha=1e-2)
    model, x = lrn_model(spec, 3), images(30.0, 3)
    got = evaluate(banded(model), x)
    np.testing.assert_allclose(got, lrn_reference(x, spec), rtol=BOUND, atol=0)
    if size >= 6:
        everything = 1 + 1e-2 / size * (x.astype(np.float64) ** 2).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(got, x / everything**0.75, rtol=BOUND, atol=0)


@given(
    size=st.integers(1, 12),
    channels=st.integers(1, 20),
    alpha=st.floats(1e-6, 10.0),
    beta=st.one_of(st.just(0.75), st.floats(0.1, 2.0)),
    bias=st.floats(0.1, 5.0),
)
@settings(max_examples=40, deadline=None)
def test_any_window_and_constants_agree_with_the_definition(
    size: int, channels: int, alpha: float, beta: float, bias: float
) -> None:
    spec = LrnSpec(size=size, alpha=alpha, beta=beta, bias=bias)
    x = images(20.0, channels)
    # Powers of FP32 sums of any size: one unit in the last place of the sum times beta, and of the exponent.
    np.testing.assert_allclose(evaluate(banded(lrn_model(spec, channels)), x), lrn_reference(x, spec), rtol=4e-6)


def test_three_quarters_is_taken_by_roots_and_anything_else_by_a_power() -> None:
    assert operators(banded(lrn_model(LrnSpec()))) == ["Mul", "Conv", "Sqrt", "Sqrt", "Mul", "Div"]
    assert operators(banded(lrn_model(LrnSpec(beta=0.6)))) == ["Mul", "Conv", "Pow", "Div"]


def test_the_band_is_the_window_and_nothing_else() -> None:
    band = band_weights(4, LrnSpec(size=3, alpha=0.3))
    expected = np.float32(0.3 / 3) * np.asarray([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]])
    np.testing.assert_array_equal(band[:, :, 0, 0], expected)
    assert band.dtype == np.float32 and band.shape == (4, 4, 1, 1)


def test_an_even_window_reaches_one_channel_further_up() -> None:
    inside = band_weights(5, LrnSpec(size=4, alpha=4.0))[:, :, 0, 0]
    np.testing.assert_array_equal(inside[2], [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(inside[1], [1, 1, 1, 1, 0])


@pytest.mark.parametrize("value", [1e-4, 5e-5, 2e-05, 0.1, 0.75, 1 / 3, 9.999e-5, 0.7512, 123.456])
def test_attributes_come_back_as_the_decimals_they_were(value: float) -> None:
    spec = LrnSpec(size=3, alpha=value, beta=value, bias=value)
    found = spec_of(lrn_nodes(lrn_model(spec))[0])
    assert np.float32(found.alpha) == np.float32(value)
    if value != 1 / 3:
        assert found == spec


def test_attributes_that_are_left_out_are_onnxs_defaults() -> None:
    model = model_of([helper.make_node("LRN", ["x"], ["y"], size=7)], [1, CHANNELS, SIDE, SIDE], {})
    assert spec_of(lrn_nodes(model)[0]) == LrnSpec(size=7, alpha=1e-4, beta=0.75, bias=1.0)


def test_a_node_without_a_size_is_refused() -> None:
    node = ir.node("LRN", [ir.Value(name="x")], name="norm1")
    with pytest.raises(GraphError, match="norm1"):
        spec_of(node)


def test_an_unknown_channel_count_is_refused_and_the_graph_stays() -> None:
    model = lrn_model(LrnSpec(), "C")
    with pytest.raises(GraphError, match="norm1") as caught:
        lower_to_banded(model)
    assert caught.value.expected
    assert operators(model) == ["LRN"]


def test_lrn_over_vectors_is_refused() -> None:
    model = model_of([helper.make_node("LRN", ["x"], ["y"], name="norm1", size=3)], ["N", 8, 4], {})
    with pytest.raises(GraphError, match="norm1"):
        lower_to_banded(model)


@pytest.mark.parametrize("variant", ["paper", "caffenet"])
def test_the_network_computes_the_same_with_banded_norms(variant: str) -> None:
    model = small_graph(variant)
    copy = banded(model)
    assert operators(copy).count("Conv") == 5 + 2
    assert [value.name for value in copy.graph.outputs] == ["logits"]
    x = shipped_batch(8)
    assert relative_error(evaluate(copy, x), evaluate(model, x)) < 1e-5


def test_lowering_without_norms_changes_nothing() -> None:
    model = small_graph("owt")
    before = operators(model)
    assert lower_to_banded(model) == 0
    assert operators(model) == before


@pytest.mark.parametrize("case", [lrn_cases.LRN.export, lrn_cases.LRN.export_default])
def test_onnxs_own_cases_pass_through_the_banded_form(
    case: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ONNX gives to every backend: the node, inputs, and the outputs that its authors computed."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(lrn_cases, "expect", lambda node, **values: seen.append({"node": node, **values}))
    case()
    (expected,) = seen
    (x,), (y,) = expected["inputs"], expected["outputs"]
    model = model_of([expected["node"]], x.shape, {})
    assert lower_to_banded(model) == 1
    np.testing.assert_allclose(evaluate(model, x), y, rtol=1e-6, atol=0)

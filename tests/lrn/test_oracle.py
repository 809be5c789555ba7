"""The oracle is ONNX's LRN: ONNX's evaluator, ONNX Runtime, torch and a loop over the definition agree with it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.specs import LrnSpec


def onnx_model(shape: tuple[int, ...], spec: LrnSpec) -> onnx.ModelProto:
    node = onnx.helper.make_node("LRN", ["x"], ["y"], size=spec.size, alpha=spec.alpha, beta=spec.beta, bias=spec.bias)
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    graph = onnx.helper.make_graph([node], "lrn", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def by_definition(x: NDArray[np.float64], spec: LrnSpec) -> NDArray[np.float64]:
    """The sum over the window as Krizhevsky et al. write it, one value at a time."""
    result = np.empty_like(x)
    channels = x.shape[1]
    for n, c, h, w in np.ndindex(x.shape):
        first = max(0, c - math.floor((spec.size - 1) / 2))
        last = min(channels - 1, c + math.ceil((spec.size - 1) / 2))
        total = math.fsum(float(x[n, i, h, w]) ** 2 for i in range(first, last + 1))
        result[n, c, h, w] = x[n, c, h, w] / (spec.bias + spec.alpha / spec.size * total) ** spec.beta
    return result


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("beta", [0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(("alpha", "bias"), [(1e-4, 2.0), (1.0, 1.0)])
def test_it_is_onnxs_reference_for_odd_windows(size: int, beta: float, alpha: float, bias: float) -> None:
    spec = LrnSpec(size=size, alpha=alpha, beta=beta, bias=bias)
    # As many images as channels: ONNX 1.23's evaluator counts its loop over the channels by the batch.
    x = np.random.default_rng(0).normal(0, 2, (7, 7, 3, 4)).astype(np.float32)
    theirs: Any = ReferenceEvaluator(onnx_model(x.shape, spec)).run(None, {"x": x})
    np.testing.assert_allclose(theirs[0], lrn_reference(x, spec), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
@pytest.mark.parametrize(("alpha", "beta", "bias"), [(1e-4, 0.75, 2.0), (1.0, 0.75, 1.0), (1.0, 0.3, 1.0)])
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_it_is_onnx_runtimes_lrn_for_odd_windows(
    size: int, alpha: float, beta: float, bias: float, channels: int
) -> None:
    import onnxruntime

    spec = LrnSpec(size=size, alpha=alpha, beta=beta, bias=bias)
    x = np.random.default_rng(0).normal(0, 2, (2, channels, 3, 4)).astype(np.float32)
    model = onnx_model(x.shape, spec).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    # ONNX Runtime slides its sum along the channels, so that what leaves the window leaves its rounding behind.
    np.testing.assert_allclose(session.run(None, {"x": x})[0], lrn_reference(x, spec), rtol=2e-5, atol=0)


@settings(deadline=None, max_examples=80)
@given(
    x=hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=6),
        elements=st.floats(-1e3, 1e3, allow_subnormal=False),
    ),
    spec=st.builds(
        LrnSpec,
        size=st.integers(1, 10),
        alpha=st.floats(1e-6, 2.0),
        beta=st.floats(0.1, 1.5),
        bias=st.floats(0.5, 4.0),
    ),
)
def test_it_is_the_papers_sum_for_every_window(x: NDArray[np.float64], spec: LrnSpec) -> None:
    np.testing.assert_allclose(lrn_reference(x, spec), by_definition(x, spec), rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([1, 3, 5, 7, 9]),
    channels=st.integers(1, 12),
    alpha=st.floats(1e-5, 1.0),
)
def test_it_agrees_with_torch_for_odd_windows(seed: int, size: int, channels: int, alpha: float) -> None:
    x = np.random.default_rng(seed).normal(0, 3, (2, channels, 2, 3))
    spec = LrnSpec(size=size, alpha=alpha)
    theirs = torch.nn.functional.local_response_norm(torch.from_numpy(x), size, alpha, spec.beta, spec.bias)
    np.testing.assert_allclose(lrn_reference(x, spec), theirs.numpy(), rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), size=st.sampled_from([3, 5, 7]))
def test_an_odd_window_does_not_care_for_the_direction_of_the_channels(seed: int, size: int) -> None:
    x = np.random.default_rng(seed).normal(0, 3, (1, 9, 2, 2))
    spec = LrnSpec(size=size, alpha=0.5)
    np.testing.assert_allclose(lrn_reference(x[:, ::-1], spec), lrn_reference(x, spec)[:, ::-1], rtol=1e-13)


def test_the_signs_are_kept_and_nothing_grows_with_a_bias_of_one() -> None:
    x = np.random.default_rng(0).normal(0, 3, (2, 8, 3, 3))
    y = lrn_reference(x, LrnSpec(alpha=1.0, bias=1.0))
    assert np.array_equal(np.sign(y), np.sign(x))
    assert bool((np.abs(y) < np.abs(x)).all())


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 2, 3, 4)])
def test_any_number_of_dimensions_is_normalized_across_the_second(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(0, 3, shape)
    flat = x.reshape(2, 6, -1, 1)
    assert np.array_equal(lrn_reference(x, LrnSpec()).reshape(flat.shape), lrn_reference(flat, LrnSpec()))


def test_float32_goes_in_and_float64_comes_out() -> None:
    x = np.ones((1, 5, 1, 1), np.float32)
    y = lrn_reference(x, LrnSpec(size=5, alpha=5.0, beta=1.0, bias=1.0))
    assert y.dtype == np.float64
    # Two, three or four neighbours and itself: 1 / (1 + n).
    assert y.ravel().tolist() == [1 / 4, 1 / 5, 1 / 6, 1 / 5, 1 / 4]

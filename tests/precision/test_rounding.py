"""Weights rounded on what layers read: moments as defined, GPTQ against its textbook form, and what it gains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.graph import constant_of, weighted_nodes
from alexnet_deploy.precision import rounding as rounding_module
from alexnet_deploy.precision.moments import InputMoments, columns, moments_from_images
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.rounding import MeasuredRounding, gptq
from alexnet_deploy.precision.weights import largest_by_channel, nearest, rounded, scales
from alexnet_deploy.progress import Track, Voice
from alexnet_deploy.specs import PLAIN_ROUNDING, RoundingOptions, Target, WeightRounding
from tests.conftest import small_preprocessing
from tests.graphs import CONVOLUTIONS, LINEARS, evaluate, shipped_batch, small_graph, small_table

LAYERS = [*CONVOLUTIONS, *LINEARS]


@cache
def moments(full: bool = True) -> dict[str, InputMoments]:
    source = shipped_images(Split.CALIBRATION).subset(range(24))
    graph = small_graph()
    return moments_from_images(graph, source, small_preprocessing(), list(weighted_nodes(graph)), full=full)


# What layers read.


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv5", "fc7"])
def test_columns_times_weights_are_the_layer(name: str) -> None:
    layer = next(found for found in weighted_nodes(small_graph()) if found.name == name)
    groups = layer.node.attributes.get_int("group", 1)
    shape = (2, layer.weight.shape[1] * groups, *((13, 15) if layer.weight.ndim == 4 else ()))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    weight = torch.from_numpy(layer.weight.copy())
    if layer.weight.ndim == 4:
        top, left, bottom, right = layer.node.attributes.get_ints("pads", (0, 0, 0, 0))
        padded = torch.nn.functional.pad(x, (left, right, top, bottom))
        stride = list(layer.node.attributes.get_ints("strides", (1, 1)))
        expected = torch.nn.functional.conv2d(padded, weight, stride=stride, groups=groups)
        expected = expected.flatten(2).permute(1, 0, 2).reshape(len(weight), -1)
    else:
        expected = (x @ weight.T).T
    seen = columns(layer, x)
    got = torch.bmm(weight.reshape(groups, len(weight) // groups, -1), seen).reshape(len(weight), -1)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_moments_are_those_of_the_columns() -> None:
    found, diagonal = moments(), moments(full=False)
    for name in LAYERS:
        second = found[name].second
        assert second.shape == (*found[name].mean.shape, found[name].mean.shape[1])
        np.testing.assert_allclose(second, second.transpose(0, 2, 1), rtol=1e-4, atol=1e-5 * second.max())
        np.testing.assert_allclose(
            np.diagonal(second, axis1=1, axis2=2), diagonal[name].second, rtol=1e-3, atol=1e-6 * second.max()
        )
        # A mean of squares is at least the square of the mean.
        assert (diagonal[name].second >= found[name].mean ** 2 * (1 - 1e-3) - 1e-9).all()
    fc8 = evaluate_value(small_graph(), "relu7")
    np.testing.assert_allclose(found["fc8"].mean[0], fc8.mean(axis=0), rtol=1e-4, atol=1e-6)


def evaluate_value(model: ir.Model, name: str) -> NDArray[np.float32]:
    from alexnet_deploy.data.batches import load_batch
    from alexnet_deploy.precision.calibrate import ObservingSession

    images = load_batch(shipped_images(Split.CALIBRATION), np.arange(24), small_preprocessing()).images
    return ObservingSession(model, [name]).run(images)[0]


# GPTQ.


def textbook(
    weight: NDArray[np.float64], scale: NDArray[np.float64], steps: int, second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One input after the other, with the inverse written out, in double precision."""
    order = np.argsort(-np.diag(second), kind="stable")
    hessian = second[np.ix_(order, order)]
    hessian = hessian + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    left, integers = weight[:, order].copy(), np.zeros_like(weight)
    for j in range(len(order)):
        integers[:, j] = np.clip(np.rint(left[:, j] / scale), -steps, steps)
        error = (left[:, j] - integers[:, j] * scale) / factor[j, j]
        left[:, j:] -= np.outer(error, factor[j, j:])
    restored = np.empty_like(integers)
    restored[:, order] = integers
    return restored


def correlated(inputs: int, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    x = random.standard_normal((4 * inputs, inputs)) @ random.standard_normal((inputs, inputs))
    return (x.T @ x / len(x)).astype(np.float32)


@pytest.mark.parametrize(("channels", "inputs", "seed"), [(5, 7, 0), (3, 40, 1), (8, 300, 2)])
def test_blocks_of_inputs_are_the_textbook(channels: int, inputs: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weight, second = random.standard_normal((channels, inputs)).astype(np.float32), correlated(inputs, seed)
    scale = scales(largest_by_channel(weight), 7)
    got = gptq(weight, scale, 7, second[None])
    expected = textbook(weight.astype(np.float64), scale.astype(np.float64), 7, second.astype(np.float64))
    # A tie that single precision breaks the other way moves the inputs behind it.
    assert (got == expected).mean() > 0.97
    assert got.dtype == np.int8 and np.abs(got).max() <= 7


def output_error(
    weight: NDArray[np.float32], integers: NDArray[np.int8], scale: NDArray[np.float32], second: NDArray[np.float32]
) -> float:
    lost = (weight - integers * scale[:, None]).astype(np.float64)
    return float(np.einsum("ci,ij,cj->", lost, second, lost))


def test_the_output_errs_far_less_than_after_rounding_to_the_nearest() -> None:
    better, plain = 0.0, 0.0
    for seed in range(30):
        weight = np.random.default_rng(seed).standard_normal((6, 48)).astype(np.float32)
        second = correlated(48, seed + 1)
        scale = scales(largest_by_channel(weight), 7)
        better += output_error(weight, gptq(weight, scale, 7, second[None]), scale, second)
        plain += output_error(weight, rounded(weight, scale, 7), scale, second)
    assert better < 0.5 * plain


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(3).standard_normal((4, 30)).astype(np.float32)
    scale = scales(largest_by_channel(weight), 127)
    got = gptq(weight, scale, 127, np.diag(np.linspace(1, 2, 30, dtype=np.float32))[None])
    np.testing.assert_array_equal(got, rounded(weight, scale, 127))


def test_zeros_stay_zeros_and_groups_do_not_meet() -> None:
    random = np.random.default_rng(4)
    weight = random.standard_normal((6, 5, 3, 1)).astype(np.float32)
    weight[random.random(weight.shape) < 0.5] = 0
    second = np.stack([correlated(15, 5), correlated(15, 6)])
    scale = scales(largest_by_channel(weight), 7)
    both = gptq(weight, scale, 7, second)
    assert not both[weight == 0].any() and both.shape == weight.shape
    for group in range(2):
        part = slice(3 * group, 3 * group + 3)
        np.testing.assert_array_equal(gptq(weight[part], scale[part], 7, second[group : group + 1]), both[part])


def test_an_input_that_is_always_zero_does_no_harm() -> None:
    weight = np.random.default_rng(7).standard_normal((3, 6)).astype(np.float32)
    second = correlated(6, 8)
    second[2], second[:, 2] = 0, 0
    scale = scales(largest_by_channel(weight), 127)
    assert np.abs(gptq(weight, scale, 127, second[None])[:, 2] - rounded(weight, scale, 127)[:, 2]).max() <= 1
    assert gptq(weight, scale, 127, np.zeros((1, 6, 6), np.float32)).shape == weight.shape


# In a graph.


def sqnr(target: Target, options: RoundingOptions) -> float:
    images = shipped_batch(32)
    rounding = MeasuredRounding(options, moments()) if options.needs_images else nearest
    expected = evaluate(small_graph(), images)
    got = evaluate(int8_from_fp32(small_graph(), small_table(), target, rounding=rounding), images)
    return float(10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum()))


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.OPENVINO, Target.ONNXRUNTIME_CPU], ids=str)
def test_the_default_is_better_than_rounding_to_the_nearest(target: Target) -> None:
    assert sqnr(target, RoundingOptions()) > sqnr(target, PLAIN_ROUNDING)


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.ONNXRUNTIME_CPU], ids=str)
def test_a_corrected_bias_keeps_the_mean_output_of_the_first_layer(target: Target) -> None:
    from alexnet_deploy.data.batches import load_batch

    options = RoundingOptions(rounding=WeightRounding.NEAREST, bias_correction=True)
    rounding = MeasuredRounding(options, moments())
    layer = next(weighted_nodes(small_graph()))
    found = rounding(layer, 7)
    assert found.bias_change is not None
    images = torch.from_numpy(
        load_batch(shipped_images(Split.CALIBRATION), np.arange(24), small_preprocessing()).images
    )
    seen = columns(layer, images)[0].mean(dim=1).numpy()
    lost = (layer.weight - found.integers * found.scale.reshape(-1, 1, 1, 1)).reshape(len(layer.weight), -1) @ seen
    np.testing.assert_allclose(found.bias_change, lost, rtol=0.2, atol=0.02 * np.abs(lost).max())
    graph = int8_from_fp32(small_graph(), small_table(), target, rounding=rounding)
    bias = [constant_of(value) for name, value in graph.graph.initializers.items() if name.startswith("conv1.bias.")]
    assert bias


def test_thresholds_never_exceed_the_largest_weight_and_cost_less() -> None:
    layer = next(found for found in weighted_nodes(small_graph()) if found.name == "fc7")
    options = RoundingOptions(rounding=WeightRounding.NEAREST, bias_correction=False, weight_thresholds=True)
    found, plain = MeasuredRounding(options, moments(full=False))(layer, 7), nearest(layer, 7)
    assert (
        (found.scale <= plain.scale).all() and (found.scale >= 0.49 * plain.scale).all() and found.bias_change is None
    )
    importance = moments(full=False)["fc7"].second[0]

    def cost(integers: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(((layer.weight - integers * scale[:, None]) ** 2) @ importance)

    assert (cost(found.integers, found.scale) <= cost(plain.integers, plain.scale) * (1 + 1e-6)).all()


def test_a_layer_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rounding = MeasuredRounding(RoundingOptions(), moments())
    layer = next(found for found in weighted_nodes(small_graph()) if found.name == "fc8")
    first = rounding(layer, 63)
    assert rounding(layer, 63) is first and rounding(layer, 127) is not first
    assert rounding(layer, 63, np.full(len(layer.weight), 1e-12)) is first


def test_a_large_layer_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every input of every group is counted once; small layers stay silent."""
    heard: dict[str, list[int]] = {}

    class Listening(Voice):
        @contextlib.contextmanager
        def track(self, description: str, total: int, done: int = 0) -> Iterator[Track]:
            heard[description] = [total, 0]
            track = Track(self, description, total, None)
            yield track
            heard[description][1] = track._done

    layers = list(weighted_nodes(small_graph()))
    sizes = {layer.name: moments()[layer.name].second.shape for layer in layers}
    monkeypatch.setattr(rounding_module, "_WATCHED_INPUTS", 432)
    rounding = MeasuredRounding(RoundingOptions(), moments(), Listening())
    for layer in layers:
        rounding(layer, 7)
    expected = {f"round {name}": [groups * inputs] * 2 for name, (groups, inputs, _) in sizes.items()}
    assert heard == {name: counts for name, counts in expected.items() if counts[0] >= 432}
    assert 0 < len(heard) < len(expected)

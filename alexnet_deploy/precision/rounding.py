"""Weights rounded for what a layer gives, not for what the weights are: thresholds, GPTQ, and corrected biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.graph import WeightedNode
from alexnet_deploy.precision.moments import InputMoments
from alexnet_deploy.precision.weights import IntegerWeights, by_channel, largest_by_channel, rounded, scales
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.specs import RoundingOptions, WeightRounding

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Shares of a channel's largest weight that are tried as its threshold.
_SHARES = np.linspace(0.5, 1.0, 41)
# As in the paper: of the mean of the second moments' diagonal, so that what images never show stays harmless.
_DAMPING = 0.01
_BLOCK = 128
# Inputs of a layer from which on GPTQ takes long enough to be watched.
_WATCHED_INPUTS = 2048


class MeasuredRounding:
    """Rounds the weights of layers whose inputs were measured; each layer once, however often it is asked for.

    Args:
        options: How.
        moments: What each layer reads.
        voice: Shows progress where a layer takes long.
    """

    def __init__(self, options: RoundingOptions, moments: dict[str, InputMoments], voice: Voice = SILENT) -> None:
        self._options, self._moments, self._voice = options, moments, voice
        self._known: dict[tuple[str, int, bytes], IntegerWeights] = {}
        self._limits: dict[tuple[str, int], NDArray[np.floating]] = {}

    def __call__(
        self, layer: WeightedNode, steps: int, smallest_scale: NDArray[np.floating] | float = 0.0
    ) -> IntegerWeights:
        """As `nearest` does, with what is known of the layer's inputs."""
        found = self._moments[layer.name]
        if (layer.name, steps) not in self._limits:
            limits = largest_by_channel(layer.weight)
            if self._options.weight_thresholds:
                limits = limits * _best_shares(layer.weight, found, steps)
            self._limits[layer.name, steps] = limits
        scale = scales(self._limits[layer.name, steps], steps, smallest_scale)
        key = layer.name, steps, scale.tobytes()
        if key not in self._known:
            self._known[key] = self._rounded(layer, scale, steps, found)
        return self._known[key]

    def _rounded(
        self, layer: WeightedNode, scale: NDArray[np.float32], steps: int, found: InputMoments
    ) -> IntegerWeights:
        weight = layer.weight
        if self._options.rounding is WeightRounding.GPTQ:
            inputs = found.second.shape[0] * found.second.shape[1]
            voice = self._voice if inputs >= _WATCHED_INPUTS else SILENT
            with voice.track(f"round {layer.name}", inputs) as track:
                integers = gptq(weight, scale, steps, found.second, track.advance)
        else:
            integers = rounded(weight, scale, steps)
        change = None
        if self._options.bias_correction:
            change = _mean_output(weight - integers * by_channel(scale, integers.ndim), found.mean)
        return IntegerWeights(integers=integers, scale=scale, bias_change=change)


def _mean_output(weight: NDArray[np.floating], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean output of each channel `(channels,)` where the mean input is `mean` `(groups, inputs)`."""
    groups = mean.shape[0]
    flat = weight.reshape(groups, weight.shape[0] // groups, -1).astype(np.float64)
    return np.asarray(np.einsum("gci,gi->gc", flat, mean).reshape(-1))


def _best_shares(weight: NDArray[np.floating], moments: InputMoments, steps: int) -> NDArray[np.float64]:
    """Of each channel's largest weight, the share at which saturation and rounding cost the output least.

    The error of a weight counts by its input's mean square, as if inputs were independent.
    """
    groups = moments.mean.shape[0]
    second = moments.second
    diagonal = second if second.ndim == 2 else np.diagonal(second, axis1=1, axis2=2)
    channels = weight.shape[0]
    importance = np.repeat(diagonal.astype(np.float64), channels // groups, axis=0)
    flat = weight.reshape(channels, -1)
    largest = largest_by_channel(weight)
    best, least = np.ones(channels), np.full(channels, np.inf)
    # From the largest down, so that of equals the one that saturates nothing stays.
    for share in _SHARES[::-1]:
        scale = scales(largest * share, steps)
        error = (rounded(flat, scale, steps) * by_channel(scale, 2) - flat) ** 2
        cost = np.einsum("ci,ci->c", error, importance)
        better = cost < least
        best[better], least[better] = share, cost[better]
    return best


def gptq(
    weight: NDArray[np.floating],
    scale: NDArray[np.float32],
    steps: int,
    second: NDArray[np.float32],
    advance: Callable[[int], None] = lambda _: None,
) -> NDArray[np.int8]:
    """Rounds one input after the other, and lets the inputs that are still to come make up for the error.

    Frantar, Ashkboos, Hoefler and Alistarh, «GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers», ICLR 2023: with `H` the second moments of the inputs, the error `e` of input `j` moves the weights
    of the inputs behind it by `-e / U[j, j] * U[j, k]`, where `U` is the upper Cholesky factor of the inverse of `H`.
    Inputs of large second moment come first. Weights that are zero stay zero: a pruned network stays pruned.

    Args:
        weight: Output channels first.
        scale: `(channels,)`, or `(channels, blocks)` of equally many inputs each.
        steps: Largest magnitude of an integer.
        second: `(groups, inputs, inputs)`.
        advance: Hears how many inputs are done since it heard last.
    """
    import torch

    groups = second.shape[0]
    channels = weight.shape[0]
    flat = torch.tensor(weight, dtype=torch.float32).reshape(groups, channels // groups, -1)
    by_group = torch.from_numpy(scale).reshape(groups, channels // groups, -1)
    integers = [
        _gptq_of_group(flat[group], by_group[group], steps, torch.from_numpy(second[group]), advance)
        for group in range(groups)
    ]
    return torch.cat(integers).to(torch.int8).numpy().reshape(weight.shape)


def _gptq_of_group(
    weight: torch.Tensor, scale: torch.Tensor, steps: int, second: torch.Tensor, advance: Callable[[int], None]
) -> torch.Tensor:
    import torch

    order = torch.argsort(second.diagonal(), descending=True, stable=True)
    factor = _factor(second[order][:, order])
    # Inputs first: what is done to one input is done in one stretch of memory.
    left = weight.T[order].contiguous()
    kept = left != 0
    block = len(left) // scale.shape[1]
    scale_of = scale.T.contiguous()
    integers = torch.empty_like(left)
    for start in range(0, len(left), _BLOCK):
        end = min(start + _BLOCK, len(left))
        errors = torch.empty(end - start, left.shape[1])
        for row in range(start, end):
            step = scale_of[int(order[row]) // block]
            integers[row] = torch.round(left[row] / step).clamp_(-steps, steps).mul_(kept[row])
            error = (left[row] - integers[row] * step) / factor[row, row]
            left[row:end].addr_(factor[row, row:end], error, alpha=-1)
            errors[row - start] = error
        left[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
        advance(end - start)
    restored = torch.empty_like(integers)
    restored[order] = integers
    return restored.T


def _factor(second: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the inverse, after damping.

    Where `H` backwards is `L L^T`, the factor is the inverse of `L` backwards: one factorisation instead of two, and
    the inverse of `H` itself is never needed.
    """
    import torch

    backwards = second.flip(0, 1)
    diagonal = backwards.diagonal()
    diagonal += _DAMPING * diagonal.mean() or 1.0
    upper = torch.linalg.cholesky(backwards).flip(0, 1)
    factor: torch.Tensor = torch.linalg.solve_triangular(upper, torch.eye(len(upper)), upper=True)
    return factor

"""Weights in integers per output channel, rounded to the nearest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.precision.table import FLOAT8_MAX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alexnet_deploy.graph import WeightedNode


@dataclass(frozen=True, kw_only=True)
class IntegerWeights:
    """A layer's weights as a graph holds them, output channels first.

    Attributes:
        integers: Of the weight's shape; int8, or FP8 numbers.
        scale: `(channels,)` float32.
        bias_change: `(channels,)`, to be added to the bias; None leaves it alone.
    """

    integers: NDArray[Any]
    scale: NDArray[np.float32]
    bias_change: NDArray[np.float64] | None = None


# From a layer, its largest magnitude in integers, and the smallest scale that each channel may have.
Rounding = Callable[["WeightedNode", int, "NDArray[np.floating] | float"], IntegerWeights]


def nearest(layer: WeightedNode, steps: int, smallest_scale: NDArray[np.floating] | float = 0.0) -> IntegerWeights:
    """The largest weight of each channel becomes `steps`; the rest goes to the nearest integer."""
    scale = scales(largest_by_channel(layer.weight), steps, smallest_scale)
    return IntegerWeights(integers=rounded(layer.weight, scale, steps), scale=scale)


def float8() -> np.dtype[Any]:
    """FP8 of four exponent and three mantissa bits, without infinities."""
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(ml_dtypes.float8_e4m3fn)
    return found


def nearest_float8(
    layer: WeightedNode, steps: int, smallest_scale: NDArray[np.floating] | float = 0.0
) -> IntegerWeights:
    """The largest weight of each channel becomes 448, the largest FP8 number; the rest goes to the nearest."""
    scale = scales(largest_by_channel(layer.weight), int(FLOAT8_MAX))
    values = np.clip(layer.weight / by_channel(scale, layer.weight.ndim), -FLOAT8_MAX, FLOAT8_MAX)
    return IntegerWeights(integers=values.astype(float8()), scale=scale)


def largest_by_channel(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """Largest magnitude of each output channel (axis 0)."""
    largest: NDArray[np.floating] = np.abs(weight.reshape(weight.shape[0], -1)).max(axis=1)
    return largest


def scales(
    limits: NDArray[np.floating], steps: int, smallest_scale: NDArray[np.floating] | float = 0.0
) -> NDArray[np.float32]:
    """What one integer stands for where `limits` become `steps`; 1 for a channel of zeros."""
    found: NDArray[np.floating] = np.where(limits > 0, np.maximum(limits / steps, smallest_scale), 1.0)
    return found.astype(np.float32)


def rounded(weight: NDArray[np.floating], scale: NDArray[np.float32], steps: int) -> NDArray[np.int8]:
    """To the nearest, ties to even, as ONNX's QuantizeLinear rounds; saturates at `steps`."""
    found: NDArray[np.int8] = np.clip(np.rint(weight / by_channel(scale, weight.ndim)), -steps, steps).astype(np.int8)
    return found


def by_channel(scale: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """`scale` in a shape that goes with the weight's."""
    return scale.reshape(-1, *[1] * (dimensions - 1))

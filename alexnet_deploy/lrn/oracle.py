"""The definition that every implementation of Local Response Normalization is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.specs import LrnSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


def lrn_reference(x: NDArray[np.floating], spec: LrnSpec) -> NDArray[np.float64]:
    """Evaluates ONNX's LRN in float64.

    `square_sum[c] = sum(x[i]**2 for i in max(0, c - floor((size-1)/2)) .. min(C-1, c + ceil((size-1)/2)))` and
    `y = x / (bias + alpha / size * square_sum)**beta` (ONNX operator LRN, versions 1 and 13).

    Args:
        x: `(N, C, ...)` of any floating type.
        spec: The window and the constants.

    Returns:
        The same shape in float64.
    """
    wide = np.asarray(x, np.float64)
    channels = wide.shape[1]
    below, above = (spec.size - 1) // 2, spec.size // 2
    squares = wide * wide
    sums = np.empty_like(wide)
    for channel in range(channels):
        sums[:, channel] = squares[:, max(0, channel - below) : channel + above + 1].sum(axis=1)
    result: NDArray[np.float64] = wide / (spec.bias + spec.alpha / spec.size * sums) ** spec.beta
    return result

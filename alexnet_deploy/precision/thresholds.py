"""From a histogram to the magnitude at which INT8 saturates, by four methods."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alexnet_deploy.precision.histogram import Histogram


class Method(StrEnum):
    """How a threshold is chosen."""

    MAX = "max"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


DEFAULT_PERCENTILE = 99.99
_LEVELS = 128
_MSE_CANDIDATES = 256
# Thresholds below this share of the largest value are not tried: they clip nearly everything.
_MSE_LOWEST = 0.05


def require_percentile(percentile: float) -> None:
    """Refuses what is no percentile.

    Raises:
        InputError: It is not above 0 and at most 100.
    """
    if not 0 < percentile <= 100:
        raise InputError("no such percentile", got=percentile, expected="above 0, at most 100")


def threshold(histogram: Histogram, method: Method, percentile: float = DEFAULT_PERCENTILE) -> float:
    """The magnitude that becomes 127; never above the largest one seen.

    Raises:
        InputError: The percentile is not above 0 and at most 100.
    """
    require_percentile(percentile)
    largest = max(-histogram.minimum, histogram.maximum, 0.0)
    counts = histogram.magnitudes
    if largest == 0 or not np.isfinite(largest) or not counts.any():
        return 0.0
    if method is Method.PERCENTILE:
        found = _percentile(counts, percentile) * histogram.width
    elif method is Method.ENTROPY:
        found = 2 * _entropy(counts.reshape(-1, 2).sum(axis=1)) * histogram.width
    elif method is Method.MSE:
        found = _mse(counts, histogram.width, largest)
    else:
        found = largest
    return min(found, largest)


def _percentile(counts: NDArray[np.int64], percentile: float) -> int:
    """Bins that hold at least `percentile` of a hundred values, from zero up."""
    cumulative = np.cumsum(counts)
    # In integers to a millionth of a percent, so that the same counts give the same bin everywhere.
    wanted = -(-int(cumulative[-1]) * round(percentile * 1e6) // 100_000_000)
    # One at least: of the smallest percentiles nothing is left after rounding.
    return int(np.searchsorted(cumulative, max(wanted, 1))) + 1


def _entropy(counts: NDArray[np.int64]) -> int:
    """How many bins to keep so that 128 levels lose the least information, of at most 2,048, as TensorRT had.

    S. Migacz, «8-bit inference with TensorRT», 2017.

    For every number of bins `i`: `P` is the first `i` bins with the outliers added to the last, `Q` the first `i` bins
    merged into 128 levels and spread over the bins of each level that are not empty; the `i` of the smallest
    Kullback-Leibler divergence of Q from P wins, the largest of equals. The bin at zero is left out, as NVIDIA's
    implementations do: a ReLU's zeros would outweigh everything else.
    """
    values = counts.astype(np.float64)
    values[0] = 0
    last = int(np.flatnonzero(values).max(initial=0)) + 1
    if last <= _LEVELS:
        return last
    total = values.sum()
    kept = np.concatenate([[0.0], np.cumsum(values)])
    filled = np.concatenate([[0], np.cumsum(values > 0)])
    best, least = last, np.inf
    numbers = np.arange(_LEVELS + 1)
    for bins in range(_LEVELS, last + 1):
        edges = numbers * bins // _LEVELS
        low, high = edges[:-1], edges[1:]
        mass, places = kept[high] - kept[low], filled[high] - filled[low]
        level = np.divide(mass, places, out=np.zeros(_LEVELS), where=places > 0)
        p = values[:bins].copy()
        q = np.where(p > 0, np.repeat(level, high - low), 0.0)
        p[-1] += total - kept[bins]
        if q[-1] == 0 and p[-1] > 0:
            # Outliers in a bin that Q cannot have: infinitely far apart.
            continue
        used = p > 0
        divergence = float(np.sum(p[used] * np.log((p[used] / total) / (q[used] / kept[bins])))) / total
        if divergence <= least:
            best, least = bins, divergence
    return best


def _mse(counts: NDArray[np.int64], width: float, largest: float) -> float:
    """The threshold whose 127 steps have the least squared error over the histogram's bin centres."""
    used = np.flatnonzero(counts)
    centres, weights = (used + 0.5) * width, counts[used].astype(np.float64)
    # Zero itself costs nothing; its bin holds mostly ReLU's zeros.
    weights[used == 0] = 0
    candidates = np.linspace(_MSE_LOWEST, 1.0, _MSE_CANDIDATES) * largest
    steps = candidates[:, None] / (_LEVELS - 1)
    rounded = np.minimum(np.rint(centres[None, :] / steps), _LEVELS - 1) * steps
    errors = ((rounded - centres[None, :]) ** 2 * weights).sum(axis=1)
    return float(candidates[int(np.argmin(errors))])

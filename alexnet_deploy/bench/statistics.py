"""What is derived from raw samples and raw logits; nothing here measures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BOOTSTRAP_DRAWS = 1000
# Spread of the middle half, as a share of the median, above which a row is called noisy.
NOISY_SHARE = 0.1
_ECE_BINS = 15


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times in milliseconds; `ci95` is the bootstrap interval of the median."""

    median: float
    p90: float
    p99: float
    min: float
    ci95: tuple[float, float]
    runs: int
    noisy: bool

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values, to the microsecond."""
        return {
            "median": round(self.median, 3),
            "p90": round(self.p90, 3),
            "p99": round(self.p99, 3),
            "min": round(self.min, 3),
            "ci95": [round(side, 3) for side in self.ci95],
            "runs": self.runs,
            "noisy": self.noisy,
        }


def latency_from_samples(samples_ms: NDArray[np.floating], seed: int = 0) -> Latency:
    """Summarises raw samples; the interval is the percentile bootstrap (B. Efron 1979), seeded."""
    samples = np.asarray(samples_ms, np.float64)
    draws = np.random.default_rng(seed).choice(samples, (_BOOTSTRAP_DRAWS, len(samples)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    quarter, median, three_quarters, p90, p99 = np.quantile(samples, [0.25, 0.5, 0.75, 0.9, 0.99])
    return Latency(
        median=float(median),
        p90=float(p90),
        p99=float(p99),
        min=float(samples.min()),
        ci95=(float(low), float(high)),
        runs=len(samples),
        noisy=bool(three_quarters - quarter > NOISY_SHARE * median),
    )


def of_rounds(samples_ms: NDArray[np.floating], rounds: int) -> NDArray[np.float64]:
    """The median of each turn, from raw samples in the order taken."""
    parts = np.array_split(np.asarray(samples_ms, np.float64), rounds)
    return np.asarray([np.median(part) for part in parts])


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times faster one row is than another; above 1 is faster. `ci95` is a bootstrap interval."""

    median: float
    ci95: tuple[float, float]
    rounds: int

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "median": round(self.median, 3),
            "ci95": [round(side, 3) for side in self.ci95],
            "rounds": self.rounds,
        }


def ratio_from_samples(
    base_ms: NDArray[np.floating], other_ms: NDArray[np.floating], rounds: int, seed: int = 0
) -> Ratio:
    """The median over interleaved rounds of the base's time over the other's, each the median of its round.

    A machine that is slower for a while slows both rows of a round, so that rounds are what is drawn anew.

    Args:
        base_ms, other_ms: Raw samples in the order taken, as many a round of both.
        rounds: In how many turns they were taken.
        seed: Of the bootstrap.
    """
    of_round = of_rounds(base_ms, rounds) / of_rounds(other_ms, rounds)
    draws = np.random.default_rng(seed).choice(of_round, (_BOOTSTRAP_DRAWS, rounds))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Ratio(median=float(np.median(of_round)), ci95=(float(low), float(high)), rounds=rounds)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Fractions, against labels and against the FP32 reference.

    Attributes:
        images: How many.
        top1, top5, ece: None where the labels do not belong to the model's classes.
        agreement: Share of images whose first class is the reference's; None where there is no reference, as are
            cosine, SQNR and flips.
        cosine: Mean over the images of the cosine between their logits and the reference's.
        sqnr_db: Power of the reference's logits over the power of the difference.
        lost, won: Images that only the reference, or only this one, gets right.
        p_value: McNemar's exact test that losses and wins are equally likely.
    """

    images: int
    top1: float | None
    top5: float | None
    ece: float | None
    agreement: float | None
    cosine: float | None
    sqnr_db: float | None
    lost: int
    won: int
    p_value: float

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values in the keys of a bench row."""
        return {
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "agreement": self.agreement,
            "cosine": self.cosine,
            "sqnr_db": self.sqnr_db,
            "ece": self.ece,
            "flips": None if self.agreement is None else {"lost": self.lost, "won": self.won, "p_value": self.p_value},
        }


def accuracy_from_logits(
    logits: NDArray[np.float32], reference: NDArray[np.float32] | None, labels: NDArray[np.int64] | None
) -> Accuracy:
    """Compares `(N, classes)` logits with labels and with the reference's logits (None where there are none)."""
    first = logits.argmax(1)
    reference_first = first if reference is None else reference.argmax(1)
    common: dict[str, Any] = {
        "images": len(logits),
        "agreement": None if reference is None else float((first == reference_first).mean()),
        "cosine": None if reference is None else _cosine(logits, reference),
        "sqnr_db": None if reference is None else _sqnr_db(logits, reference),
    }
    if labels is None:
        return Accuracy(top1=None, top5=None, ece=None, lost=0, won=0, p_value=1.0, **common)
    right, reference_right = first == labels, reference_first == labels
    lost, won = int((reference_right & ~right).sum()), int((right & ~reference_right).sum())
    best = np.argsort(-logits, axis=1, kind="stable")[:, : min(5, logits.shape[1])]
    return Accuracy(
        top1=float(right.mean()),
        top5=float((best == labels[:, None]).any(axis=1).mean()),
        ece=_expected_calibration_error(logits, right),
        lost=lost,
        won=won,
        p_value=mcnemar(lost, won),
        **common,
    )


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p of McNemar's test (Q. McNemar 1947): a binomial with one half on the discordant pairs."""
    pairs = lost + won
    tail = sum(math.comb(pairs, k) for k in range(min(lost, won) + 1)) / 2**pairs if pairs else 1.0
    return min(1.0, 2 * tail)


def _sqnr_db(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> float | None:
    noise = float(np.square(logits.astype(np.float64) - reference).sum())
    signal = float(np.square(reference.astype(np.float64)).sum())
    return None if noise == 0 or signal == 0 else round(10 * math.log10(signal / noise), 2)


def _cosine(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> float | None:
    wide, other = logits.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(other, axis=1)
    if not lengths.all():
        return None
    return round(float(((wide * other).sum(axis=1) / lengths).mean()), 8)


def _expected_calibration_error(logits: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over equal bins (C. Guo et al. 2017)."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    confidence = powers.max(axis=1) / powers.sum(axis=1)
    bins = np.minimum((confidence * _ECE_BINS).astype(int), _ECE_BINS - 1)
    gaps = [
        abs(float(right[bins == b].mean()) - float(confidence[bins == b].mean())) * float((bins == b).mean())
        for b in range(_ECE_BINS)
        if (bins == b).any()
    ]
    return float(sum(gaps))

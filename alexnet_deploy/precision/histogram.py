"""Counts of an activation's values that do not depend on the order in which they come."""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from alexnet_deploy.precision.channels import ChannelRanges

if TYPE_CHECKING:
    from numpy.typing import NDArray

# On each side of zero. Widths are powers of two, so that the largest value is in the upper half: 2,048 bins at least
# span the values, which is what TensorRT's entropy calibration used.
BINS = 4096
# Values that are counted together: what is computed of them stays in the processor's cache.
_AT_ONCE = 1 << 15
# Its reciprocal is still a number in FP32.
_SMALLEST_EXPONENT = -120
# At which the largest FP32 number fits.
_LARGEST_EXPONENT = 116


@dataclass(eq=False)
class Histogram:
    """Integer counts over bins of width `2**exponent`, `BINS` on each side of zero.

    A value that does not fit doubles the width, which merges bins in pairs: exactly, in integers. So the result
    depends on the values alone, not on their order. Bin `i` of `positive` holds `i * width <= x < (i + 1) * width`,
    the same bin of `negative` holds its mirror image, without zero.

    Attributes:
        minimum, maximum: Of all values, exactly; infinity and minus infinity where there are none.
        channels: Of each channel, where the values have channels and whoever adds them says so.
    """

    exponent: int = _SMALLEST_EXPONENT
    positive: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    negative: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    minimum: float = math.inf
    maximum: float = -math.inf
    channels: ChannelRanges | None = None

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def magnitudes(self) -> NDArray[np.int64]:
        """Counts of `|x|`."""
        return self.positive + self.negative

    @property
    def total(self) -> int:
        """How many values."""
        return int(self.magnitudes.sum())

    def beyond(self, limit: float) -> int:
        """How many values have a magnitude above `limit`: exactly where it is the edge of a bin, on which a value
        counts as above; else without those of the bin that it cuts, but never fewer than the extremes say."""
        extremes = (-self.minimum > limit) + (self.maximum > limit)
        first = math.ceil(limit / self.width)
        return max(int(self.magnitudes[first:].sum()), extremes) if extremes else 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Counts finite values of any shape.

        Raises:
            ValueError: One is not finite.
        """
        if not values.size:
            return
        # The sum is 0.0 where a minimum or maximum is -0.0: which of the two zeros it is depends on their order.
        low, high = float(values.min()) + 0.0, float(values.max()) + 0.0
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError(f"values from {low} to {high}")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._widen(max(-low, high))
        flat = values.ravel()
        for start in range(0, flat.size, _AT_ONCE):
            self._count(flat[start : start + _AT_ONCE], signed=low < 0)

    def _count(self, values: NDArray[np.float32], *, signed: bool) -> None:
        # A product with a power of two is exact, so that truncation is the bin.
        places = (values * np.float32(math.ldexp(1.0, -self.exponent))).astype(np.int64)
        if not signed:
            self.positive += np.bincount(places, minlength=BINS)
            return
        # Both sides in one table, the negative one behind; a negative value may be so small that its product is zero.
        np.abs(places, out=places)
        places += BINS * (values < 0)
        counts = np.bincount(places, minlength=2 * BINS)
        self.positive += counts[:BINS]
        self.negative += counts[BINS:]

    def merged(self, other: Histogram) -> Histogram:
        """Both together, as if the values of one had been added to the other; both stay as they are."""
        exponent = max(self.exponent, other.exponent)
        (positive, negative), (more_positive, more_negative) = self._sides(exponent), other._sides(exponent)
        return Histogram(
            exponent=exponent,
            positive=positive + more_positive,
            negative=negative + more_negative,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            channels=self._merged_channels(other),
        )

    def _merged_channels(self, other: Histogram) -> ChannelRanges | None:
        """Known where they are known of every value."""
        known = [found.channels for found in (self, other) if found.minimum <= found.maximum]
        if None in known or not known:
            return None
        first, *rest = (channels for channels in known if channels is not None)
        return first.merged(rest[0]) if rest else first

    def _sides(self, exponent: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        positive, negative = self.positive, self.negative
        # After a dozen doublings everything is in the first bin.
        for _ in range(min(exponent - self.exponent, BINS.bit_length())):
            positive, negative = _halved(positive), _halved(negative)
        return positive, negative

    def _widen(self, largest: float) -> None:
        while largest >= BINS * self.width:
            # Straight to the width that fits where nothing has been counted yet.
            empty = not self.positive.any() and not self.negative.any()
            steps = max(1, math.frexp(largest)[1] - self.exponent - BINS.bit_length() + 1) if empty else 1
            self.exponent += steps
            if not empty:
                self.positive, self.negative = _halved(self.positive), _halved(self.negative)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the counts as base64 of zlib of little-endian int64, negative side first."""
        counts = np.concatenate([self.negative, self.positive]).astype("<i8").tobytes()
        channels = {} if self.channels is None else {"channels": self.channels.to_json()}
        return {
            "exponent": self.exponent,
            "counts": base64.b64encode(zlib.compress(counts, 9)).decode(),
            "sha256": self.digest,
            **channels,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], minimum: float, maximum: float) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: The counts are damaged.
        """
        try:
            exponent = int(values["exponent"])
            # Whatever the text unpacks to, no more than the counts and a byte comes out.
            packed = base64.b64decode(values["counts"])
            unpacked = zlib.decompressobj().decompress(packed, 2 * BINS * 8 + 1)
            if len(unpacked) != 2 * BINS * 8:
                raise ValueError(f"a histogram of {len(unpacked)} bytes or more, expected {2 * BINS * 8}")
            counts = np.frombuffer(unpacked, "<i8").astype(np.int64)
        except (zlib.error, TypeError, OverflowError) as exc:
            raise ValueError(f"a histogram cannot be read: {exc}") from exc
        if not _SMALLEST_EXPONENT <= exponent <= _LARGEST_EXPONENT:
            raise ValueError(f"a histogram of bins of width 2**{exponent}")
        if (counts < 0).any():
            raise ValueError("a histogram with negative counts")
        channels = values.get("channels")
        found = cls(
            exponent=exponent,
            negative=counts[:BINS].copy(),
            positive=counts[BINS:].copy(),
            minimum=minimum,
            maximum=maximum,
            channels=ChannelRanges.from_json(channels, minimum, maximum) if channels is not None else None,
        )
        if found.digest != values["sha256"]:
            raise ValueError("a histogram does not have its hash")
        if any(math.isnan(end) for end in (minimum, maximum)) or not found._fits_range():
            raise ValueError(f"a histogram whose values do not go from {minimum} to {maximum}")
        return found

    def _fits_range(self) -> bool:
        """Whether smallest and largest value lie in the outermost bins that hold something."""
        if not self.minimum <= self.maximum:
            return not self.magnitudes.any()
        sides = ((self.maximum, self.maximum >= 0, self.positive), (-self.minimum, self.minimum < 0, self.negative))
        return all(
            int(np.flatnonzero(counts)[-1]) == math.floor(end / self.width)
            if reached and counts.any()
            else not (reached or counts.any())
            for end, reached, counts in sides
        )

    def __eq__(self, other: object) -> bool:
        """Whether width, counts and ranges are the same."""
        if not isinstance(other, Histogram):
            return NotImplemented
        ranges = self.minimum == other.minimum and self.maximum == other.maximum and self.channels == other.channels
        return ranges and self.digest == other.digest

    @property
    def digest(self) -> str:
        """SHA-256 over the width and the counts."""
        content = np.concatenate([[self.exponent], self.negative, self.positive]).astype("<i8").tobytes()
        return hashlib.sha256(content).hexdigest()


def _halved(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    pairs = counts.reshape(-1, 2).sum(axis=1)
    return np.concatenate([pairs, np.zeros_like(pairs)])

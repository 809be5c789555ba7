"""The range of each channel of an activation, which tells a dead channel from one that is often zero."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelRanges:
    """Smallest and largest value of each channel, exactly: they merge by minimum and maximum, in any order.

    Attributes:
        minima, maxima: `(channels,)` float32.
    """

    minima: NDArray[np.float32]
    maxima: NDArray[np.float32]

    @classmethod
    def of(cls, values: NDArray[np.float32], axis: int) -> Self:
        """Of an activation whose channels lie along `axis`; one image or value at least."""
        # Places last, where they lie together: reduced over all axes at once, NumPy takes ten times as long.
        moved = np.moveaxis(values, axis, 1)
        places = moved.reshape(*moved.shape[:2], -1)
        # The sum is 0.0 where it is -0.0: which of the two zeros it is depends on their order.
        return cls(minima=places.min(axis=2).min(axis=0) + 0.0, maxima=places.max(axis=2).max(axis=0) + 0.0)

    @property
    def magnitudes(self) -> NDArray[np.float32]:
        """Largest `|x|` of each channel."""
        found: NDArray[np.float32] = np.maximum(-self.minima, self.maxima)
        return found

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which channels took one value only; behind a ReLU that is a dead channel, whose value is zero."""
        found: NDArray[np.bool_] = self.minima == self.maxima
        return found

    def merged(self, other: ChannelRanges) -> ChannelRanges:
        """Both together.

        Raises:
            ValueError: They are of different numbers of channels.
        """
        return ChannelRanges(minima=np.minimum(self.minima, other.minima), maxima=np.maximum(self.maxima, other.maxima))

    def __eq__(self, other: object) -> bool:
        """Whether every channel has the same range."""
        if not isinstance(other, ChannelRanges):
            return NotImplemented
        return np.array_equal(self.minima, other.minima) and np.array_equal(self.maxima, other.maxima)

    def to_json(self) -> dict[str, str]:
        """Plain values: base64 of zlib of little-endian float32."""
        return {"minima": _text(self.minima), "maxima": _text(self.maxima)}

    @classmethod
    def from_json(cls, values: dict[str, Any], minimum: float, maximum: float) -> Self:
        """Reads what `to_json` wrote.

        Args:
            values: The document.
            minimum, maximum: Of the whole activation, which some channel must reach.

        Raises:
            ValueError: It is damaged.
        """
        found = cls(minima=_array(values["minima"]), maxima=_array(values["maxima"]))
        if found.minima.shape != found.maxima.shape or not found.minima.size or (found.minima > found.maxima).any():
            raise ValueError("ranges of channels that cannot be")
        if (float(found.minima.min()), float(found.maxima.max())) != (minimum, maximum):
            raise ValueError("ranges of channels that are not of their histogram")
        return found


def _text(array: NDArray[np.float32]) -> str:
    return base64.b64encode(zlib.compress(array.astype("<f4").tobytes(), 9)).decode()


def _array(text: str) -> NDArray[np.float32]:
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4").astype(np.float32)
    except (zlib.error, ValueError, TypeError) as exc:
        raise ValueError(f"ranges of channels cannot be read: {exc}") from exc

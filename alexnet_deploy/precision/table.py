"""The calibration table: the one thing that quantization reads, as JSON that a person can read too."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import write_json
from alexnet_deploy.limits import MAX_TABLE_BYTES, MAX_TABLE_TENSORS, bounded_json, require_within
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.thresholds import Method, threshold

TABLE_SCHEMA = 2
INT8_STEPS = 127
UINT8_STEPS = 255
FLOAT8_MAX = 448.0
# Graphs hold scales in FP32: of a smaller one nothing would be left, and nothing can be divided by that.
SMALLEST_SCALE = 2.0**-126


def _scale(step: float) -> float:
    """A step that can be divided by; 1 for a tensor that is always zero."""
    return max(step, SMALLEST_SCALE) if step else 1.0


@dataclass(frozen=True, kw_only=True)
class Range:
    """Smallest and largest value that a tensor took over all calibration images."""

    minimum: float
    maximum: float

    @property
    def symmetric_scale(self) -> float:
        """`max(|x|) / 127`: one INT8 step where zero is zero; 1 for a tensor that is always zero."""
        return _scale(max(abs(self.minimum), abs(self.maximum)) / INT8_STEPS)

    @property
    def float8_scale(self) -> float:
        """`max(|x|) / 448`, the largest number of FP8 (E4M3); 1 for a tensor that is always zero."""
        return _scale(max(abs(self.minimum), abs(self.maximum)) / FLOAT8_MAX)

    @property
    def affine(self) -> tuple[float, int]:
        """Scale and zero point of unsigned 8 bits over the range, widened to hold zero exactly."""
        low, high = min(self.minimum, 0.0), max(self.maximum, 0.0)
        scale = _scale((high - low) / UINT8_STEPS)
        return scale, max(0, min(UINT8_STEPS, round(-low / scale)))


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What calibration saw of one tensor.

    Attributes:
        histogram: Its values, counted; their range is the histogram's.
        thresholds: By method, the magnitude that becomes 127.
    """

    histogram: Histogram
    thresholds: dict[Method, float]

    def range_by(self, method: Method) -> Range:
        """What was seen, cut off at the threshold on both sides."""
        limit = self.thresholds[method]
        return Range(minimum=max(self.histogram.minimum, -limit), maximum=min(self.histogram.maximum, limit))

    def beyond(self, method: Method) -> float:
        """Share of the values above the threshold."""
        return self.histogram.beyond(self.thresholds[method]) / max(1, self.histogram.total)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; what is derived is written for the reader."""
        return {
            "min": self.histogram.minimum,
            "max": self.histogram.maximum,
            "thresholds": {method.value: self.thresholds[method] for method in Method},
            "scales": {method.value: self.range_by(method).symmetric_scale for method in Method},
            "beyond": {method.value: self.beyond(method) for method in Method},
            "constant_channels": None
            if self.histogram.channels is None
            else int(self.histogram.channels.constant.sum()),
            "histogram": self.histogram.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: It is something else.
        """
        histogram = Histogram.from_json(values["histogram"], float(values["min"]), float(values["max"]))
        thresholds = {m: float(values["thresholds"][m.value]) for m in Method}
        if not all(math.isfinite(number) for number in (histogram.minimum, histogram.maximum, *thresholds.values())):
            raise ValueError("a number is not finite")
        largest = max(-histogram.minimum, histogram.maximum, 0.0)
        if not all(0 <= limit <= largest for limit in thresholds.values()):
            raise ValueError(f"thresholds that are not from 0 to {largest}, the largest value")
        return cls(histogram=histogram, thresholds=thresholds)


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """What quantization needs to know of the activations.

    Attributes:
        method: By which thresholds are taken unless somebody asks for another.
        percentile: Of that method.
        tensors: By value name of the FP32 graph.
        graph_sha256: Hash of the FP32 graph.
        preprocessing: Fingerprint of the preprocessing.
        images: Content hashes of the images, sorted.
    """

    method: Method
    percentile: float
    tensors: dict[str, Observed]
    graph_sha256: str
    preprocessing: str
    images: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; scales are written for the reader and derived from the thresholds."""
        return {
            "schema": TABLE_SCHEMA,
            "method": self.method.value,
            "percentile": self.percentile,
            "graph_sha256": self.graph_sha256,
            "preprocessing": self.preprocessing,
            "images": len(self.images),
            "images_sha256": list(self.images),
            "tensors": {name: found.to_json() for name, found in self.tensors.items()},
        }

    def write(self, path: Path) -> None:
        """Writes the table whole."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what `write` wrote.

        Raises:
            InputError: The file is missing or is not a calibration table.
        """
        try:
            values = bounded_json(path, MAX_TABLE_BYTES)
            if values["schema"] != TABLE_SCHEMA:
                raise ValueError(f"schema {values['schema']}, and this version reads {TABLE_SCHEMA}")
            require_within(f"the calibration table {path}", len(values["tensors"]), MAX_TABLE_TENSORS, "tensors")
            if not 0 < float(values["percentile"]) <= 100:
                raise ValueError(f"the percentile {values['percentile']}")
            return cls(
                method=Method(values["method"]),
                percentile=float(values["percentile"]),
                tensors={str(name): Observed.from_json(entry) for name, entry in values["tensors"].items()},
                graph_sha256=str(values["graph_sha256"]),
                preprocessing=str(values["preprocessing"]),
                images=tuple(str(digest) for digest in values["images_sha256"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
            raise InputError(
                f"{path} cannot be read as a calibration table", got=repr(exc), remedy="run `alexnet-deploy calibrate`"
            ) from exc

    def by_method(self, method: Method | None, percentile: float | None = None) -> Self:
        """The same observations with thresholds by another method, or another percentile."""
        percent = self.percentile if percentile is None else percentile
        tensors = self.tensors
        if percent != self.percentile:
            tensors = {name: observed(found.histogram, percent) for name, found in tensors.items()}
        return replace(self, method=method or self.method, percentile=percent, tensors=tensors)

    def range_of(self, name: str) -> Range:
        """The range of one tensor.

        Raises:
            InputError: The table does not know it: it belongs to another graph.
        """
        if name not in self.tensors:
            raise InputError(
                f"the calibration table does not know the tensor {name!r}",
                got=", ".join(list(self.tensors)[:5]),
                remedy="calibrate this graph anew",
            )
        return self.tensors[name].range_by(self.method)


def observed(histogram: Histogram, percentile: float) -> Observed:
    """A histogram with its thresholds by every method."""
    return Observed(histogram=histogram, thresholds={m: threshold(histogram, m, percentile) for m in Method})

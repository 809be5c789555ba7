"""The calibration table: the one thing that quantization reads, as JSON that a person can read too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from alexnet_deploy.artifacts import write_json
from alexnet_deploy.errors import InputError

TABLE_SCHEMA = 1
INT8_STEPS = 127
UINT8_STEPS = 255


@dataclass(frozen=True, kw_only=True)
class Range:
    """Smallest and largest value that a tensor took over all calibration images."""

    minimum: float
    maximum: float

    @property
    def symmetric_scale(self) -> float:
        """`max(|x|) / 127`: one INT8 step where zero is zero; 1 for a tensor that is always zero."""
        return max(abs(self.minimum), abs(self.maximum)) / INT8_STEPS or 1.0

    @property
    def affine(self) -> tuple[float, int]:
        """Scale and zero point of unsigned 8 bits over the range, widened to hold zero exactly."""
        low, high = min(self.minimum, 0.0), max(self.maximum, 0.0)
        scale = (high - low) / UINT8_STEPS or 1.0
        return scale, max(0, min(UINT8_STEPS, round(-low / scale)))


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """Ranges of the activations that quantization needs.

    Attributes:
        method: How a range becomes a threshold.
        tensors: By value name of the FP32 graph.
        graph_sha256: Hash of the FP32 graph.
        preprocessing: Fingerprint of the preprocessing.
        images: How many images.
        images_sha256: Hash over the sorted content hashes of the images.
    """

    method: str
    tensors: dict[str, Range]
    graph_sha256: str
    preprocessing: str
    images: int
    images_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; scales are written for the reader and derived from the ranges."""
        return {
            "schema": TABLE_SCHEMA,
            "method": self.method,
            "graph_sha256": self.graph_sha256,
            "preprocessing": self.preprocessing,
            "images": self.images,
            "images_sha256": self.images_sha256,
            "tensors": {
                name: {"min": found.minimum, "max": found.maximum, "scale": found.symmetric_scale}
                for name, found in self.tensors.items()
            },
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
            values = json.loads(path.read_text())
            if values["schema"] != TABLE_SCHEMA:
                raise ValueError(f"schema {values['schema']}")
            tensors = {
                str(name): Range(minimum=float(entry["min"]), maximum=float(entry["max"]))
                for name, entry in values["tensors"].items()
            }
            return cls(
                method=str(values["method"]),
                tensors=tensors,
                graph_sha256=str(values["graph_sha256"]),
                preprocessing=str(values["preprocessing"]),
                images=int(values["images"]),
                images_sha256=str(values["images_sha256"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise InputError(
                f"{path} cannot be read as a calibration table", got=repr(exc), remedy="run `alexnet-deploy calibrate`"
            ) from exc

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
        return self.tensors[name]

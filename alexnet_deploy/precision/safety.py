"""What weights and counted activations say of trouble that no error shows: dead channels, FP16's range, clipping.

Pure functions of an FP32 graph and its calibration table; counts are exact. `findings` has the thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.graph import WeightedNode, weighted_nodes
from alexnet_deploy.precision.calibrate import result_of
from alexnet_deploy.precision.findings import (
    CHANNEL_IMAGES,
    CLIPPED_SHARE,
    DEAD_SHARE,
    ENOUGH_VALUES,
    FEW_STEPS,
    FEW_STEPS_SHARE,
    FP16_HEADROOM,
    FP16_LOSS,
    FP16_MAX,
    FP16_SMALLEST_NORMAL,
    IDLE_SHARE,
    LOGIT_NOISE,
    SATURATED_SHARE,
    UNDERFLOW_SHARE,
    Finding,
    Kind,
    Part,
)
from alexnet_deploy.precision.histogram import BINS
from alexnet_deploy.precision.table import CalibrationTable, Observed
from alexnet_deploy.precision.weights import IntegerWeights, Rounding, by_channel

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from alexnet_deploy.precision.histogram import Histogram


def weight_findings(model: ir.Model) -> list[Finding]:
    """Idle channels, and what FP16 does to the weights."""
    return [finding for layer in weighted_nodes(model) for finding in _of_weights(layer)]


def _of_weights(layer: WeightedNode) -> Iterator[Finding]:
    if not layer.weight.size:
        return
    rows = layer.weight.reshape(layer.weight.shape[0], -1)
    # No copies: AlexNet's weights take 240 MB.
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    idle = int((largest == 0).sum())
    if idle >= IDLE_SHARE * len(rows):
        yield _finding(Kind.IDLE, layer, Part.WEIGHTS, idle, len(rows))
    beyond = sum(int((np.abs(row) > FP16_MAX).sum()) for row in rows[largest > FP16_MAX])
    if beyond:
        yield _finding(Kind.FP16_OVERFLOW, layer, Part.WEIGHTS, beyond, rows.size, float(largest.max()))
    # Subnormal numbers are 2**-24 apart: of other channels they lose less than FP16_LOSS for sure.
    doubtful = rows[(largest > 0) & (largest < math.sqrt(rows.shape[1]) * 2.0**-25 / FP16_LOSS)].astype(np.float64)
    lost = np.linalg.norm(doubtful.astype(np.float16) - doubtful, axis=1)
    small = int((lost > FP16_LOSS * np.linalg.norm(doubtful, axis=1)).sum())
    if small >= UNDERFLOW_SHARE * len(rows):
        yield _finding(Kind.FP16_UNDERFLOW, layer, Part.WEIGHTS, small, len(rows))


def _finding(
    kind: Kind, layer: WeightedNode, part: Part, count: int, total: int, largest: float | None = None
) -> Finding:
    value = {Part.WEIGHTS: layer.weight_value, Part.INPUT: layer.activation, Part.OUTPUT: result_of(layer.node)}[part]
    return Finding(
        kind=kind, layer=layer.name, part=part, tensor=str(value.name), count=count, total=total, largest=largest
    )


def logit_findings(model: ir.Model, logits: NDArray[np.floating]) -> list[Finding]:
    """Of `(N, classes)` logits: whether the network says the same whatever the image."""
    layers, rows = list(weighted_nodes(model)), logits.reshape(len(logits), -1)
    if not layers or min(rows.shape) < 2:
        return []
    # Largest less smallest of FP32 numbers may be none.
    rows = rows.astype(np.float64)
    spread = min(float(np.ptp(rows, axis=0).max()), float(np.ptp(rows, axis=1).max()))
    # The same sums in another order differ by as much.
    if spread > LOGIT_NOISE * float(np.abs(rows).max()):
        return []
    return [_finding(Kind.SAME_LOGITS, layers[-1], Part.OUTPUT, len(rows), len(rows))]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    layer: WeightedNode
    part: Part
    tensor: str
    observed: Observed

    def finding(self, kind: Kind, count: int, total: int, largest: float | None = None) -> Finding:
        return _finding(kind, self.layer, self.part, count, total, largest)


class Activations:
    """What a calibration table says of a graph's activations.

    Args:
        model: The FP32 graph.
        table: Its calibration table.
    """

    def __init__(self, model: ir.Model, table: CalibrationTable) -> None:
        self._model, self._table = model, table
        places: dict[str, _Seen] = {}
        # Taking the weights out of a graph costs a fifth of a second: once for all questions.
        layers = list(weighted_nodes(model))
        # Every tensor once: as what a layer gives, or else as what one reads.
        for part in (Part.OUTPUT, Part.INPUT):
            for layer in layers:
                value = result_of(layer.node) if part is Part.OUTPUT else layer.activation
                name = str(value.name)
                if name in table.tensors and name not in places:
                    places[name] = _Seen(layer=layer, part=part, tensor=name, observed=table.tensors[name])
        self._seen = list(places.values())

    def findings(self) -> list[Finding]:
        """All: dead channels, saturation, FP16's range, and INT8 by the table's method."""
        dead = self.dead()
        if dead and dead[-1].share == 1:
            # What comes behind a dead layer is of no image: its ranges say nothing.
            return dead
        return [*dead, *self.saturated(), *self.half(), *self.int8()]

    def dead(self) -> list[Finding]:
        """Channels with weights that gave one value on all images, and the first layer that did so as a whole, with
        weights or without: all behind it is constant too, and nothing is said of it."""
        found: list[Finding] = []
        for seen in self._seen:
            if seen.part is not Part.OUTPUT:
                continue
            histogram, weight = seen.observed.histogram, seen.layer.weight
            channels = len(weight) if histogram.channels is None else len(histogram.channels.minima)
            if histogram.minimum == histogram.maximum:
                return [*found, seen.finding(Kind.DEAD, channels, channels)]
            if histogram.channels is None or len(self._table.images) < CHANNEL_IMAGES:
                continue
            constant = histogram.channels.constant
            if constant.all():
                return [*found, seen.finding(Kind.DEAD, channels, channels)]
            if channels == len(weight) and constant.sum() >= DEAD_SHARE * channels:
                constant = constant & weight.reshape(channels, -1).any(axis=1)
            count = int(constant.sum())
            if count >= DEAD_SHARE * channels:
                found.append(seen.finding(Kind.DEAD, count, channels))
        return found

    def saturated(self) -> list[Finding]:
        """Activations that sit at a bound; of images, whose black and white are bounds, nothing is said."""
        found = []
        for seen in self._seen:
            histogram = seen.observed.histogram
            if seen.tensor == self._model.graph.inputs[0].name or histogram.total < ENOUGH_VALUES:
                continue
            count = max(
                int(side[min(int(extreme / histogram.width), BINS - 1)]) if extreme > 0 else 0
                for side, extreme in ((histogram.positive, histogram.maximum), (histogram.negative, -histogram.minimum))
            )
            if count >= SATURATED_SHARE * histogram.total:
                largest = max(-histogram.minimum, histogram.maximum)
                found.append(seen.finding(Kind.SATURATED, count, histogram.total, largest))
        return found

    def half(self) -> list[Finding]:
        """What FP16 does to the activations."""
        found = list(self._norms())
        for seen in self._seen:
            histogram = seen.observed.histogram
            largest = max(-histogram.minimum, histogram.maximum)
            if largest > FP16_MAX:
                found.append(seen.finding(Kind.FP16_OVERFLOW, histogram.beyond(FP16_MAX), histogram.total, largest))
            elif largest * FP16_HEADROOM > FP16_MAX:
                count = histogram.beyond(FP16_MAX / FP16_HEADROOM)
                found.append(seen.finding(Kind.FP16_HEADROOM, count, histogram.total, largest))
            small, nonzero = _below(histogram, FP16_SMALLEST_NORMAL)
            if small and small >= UNDERFLOW_SHARE * nonzero:
                found.append(seen.finding(Kind.FP16_UNDERFLOW, small, nonzero, largest))
        return found

    def _norms(self) -> Iterator[Finding]:
        limit = math.sqrt(FP16_MAX)
        for node in self._model.graph:
            value = node.inputs[0] if node.op_type == "LRN" else None
            # A maximum is that of what it is taken of.
            while value is not None and value.name not in self._table.tensors:
                producer = value.producer()
                value = producer.inputs[0] if producer is not None and producer.op_type == "MaxPool" else None
            if value is None:
                continue
            histogram = self._table.tensors[str(value.name)].histogram
            largest = max(-histogram.minimum, histogram.maximum)
            if largest > limit:
                yield Finding(
                    kind=Kind.FP16_LRN,
                    layer=str(node.name or node.outputs[0].name),
                    part=Part.INPUT,
                    tensor=str(value.name),
                    count=histogram.beyond(limit),
                    total=histogram.total,
                    largest=largest,
                )

    def int8(self, quantized: Collection[str] | None = None) -> list[Finding]:
        """What the thresholds of the table's method cut off, and what they leave hardly a step.

        Args:
            quantized: Names of the values that are quantized; None for all that some target quantizes.
        """
        found = []
        for seen in self._seen:
            if quantized is not None and seen.tensor not in quantized:
                continue
            histogram = seen.observed.histogram
            clipped = histogram.beyond(seen.observed.thresholds[self._table.method])
            if histogram.total >= ENOUGH_VALUES and clipped >= CLIPPED_SHARE * histogram.total:
                largest = max(-histogram.minimum, histogram.maximum)
                found.append(seen.finding(Kind.INT8_CLIPPING, clipped, histogram.total, largest))
            if histogram.channels is None or len(self._table.images) < CHANNEL_IMAGES:
                continue
            live = histogram.channels.magnitudes[~histogram.channels.constant]
            few = int((live < FEW_STEPS * seen.observed.range_by(self._table.method).symmetric_scale).sum())
            if few and few >= FEW_STEPS_SHARE * len(live):
                found.append(seen.finding(Kind.INT8_RESOLUTION, few, len(live)))
        return found


def _below(histogram: Histogram, limit: float) -> tuple[int, int]:
    """How many values of a magnitude below `limit`, a power of two, of how many; both without the first bin, which has
    the zeros too. Where bins are wider than the limit there are none."""
    counts = histogram.magnitudes[1:]
    last = min(len(counts), max(0, int(limit / histogram.width) - 1))
    return int(counts[:last].sum()), int(counts.sum())


def noting_clipped(rounding: Rounding, found: dict[str, Finding]) -> Rounding:
    """The same rounding, which notes in `found` the layers of whose weights it saturates more than the stated share."""

    def counting(layer: WeightedNode, steps: int, smallest_scale: NDArray[np.floating] | float = 0.0) -> IntegerWeights:
        made = rounding(layer, steps, smallest_scale)
        limits = by_channel(made.scale, layer.weight.ndim) * np.float32(steps + 0.5)
        clipped = int((np.abs(layer.weight) > limits).sum())
        found.pop(layer.name, None)
        if clipped >= CLIPPED_SHARE * layer.weight.size:
            found[layer.name] = _finding(Kind.INT8_CLIPPING, layer, Part.WEIGHTS, clipped, layer.weight.size)
        return made

    return counting

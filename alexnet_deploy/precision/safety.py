"""What weights and counted activations say of trouble that no error shows: dead channels, FP16's range, clipping.

Everything here is a pure function of an FP32 graph and its calibration table. Shares are of exact counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from alexnet_deploy.graph import WeightedNode, weighted_nodes
from alexnet_deploy.precision.calibrate import result_of
from alexnet_deploy.precision.table import CalibrationTable, Observed
from alexnet_deploy.precision.weights import IntegerWeights, Rounding, by_channel
from alexnet_deploy.progress import Voice

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from alexnet_deploy.precision.histogram import Histogram

# Of a layer's channels. Dropout and weight decay leave a few units idle in any trained network.
DEAD_SHARE = 0.1
# On fewer images a channel that looks for something rare is not to be told from a dead one.
DEAD_IMAGES = 100
FP16_MAX = float(np.finfo(np.float16).max)
FP16_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)
# Images in use may go this many times beyond those of calibration.
FP16_HEADROOM = 4.0
# Of a channel's weights, as a share of their norm: half of BF16's last bit, so that BF16 would have kept more.
FP16_LOSS = 2.0**-9
# Of an activation's values beyond its first bin.
UNDERFLOW_SHARE = 0.1
# Of an activation's values, zeros included.
CLIPPED_SHARE = 0.001
# A channel that stays below has two bits at most.
FEW_STEPS = 4
# Of a layer's channels that are not dead.
FEW_STEPS_SHARE = 0.1
# Of an activation's values, in the one bin of 2,048 or more that holds the extreme, which is not zero.
SATURATED_SHARE = 0.1
# Of fewer values, one bin holds a tenth by chance.
SATURATED_VALUES = 1000
# Of the largest logit.
LOGIT_NOISE = 1e-6
_LISTED = 4


class Kind(StrEnum):
    """What may be wrong."""

    IDLE = "idle-channels"
    DEAD = "dead-channels"
    SATURATED = "saturated"
    SAME_LOGITS = "same-logits"
    FP16_OVERFLOW = "fp16-overflow"
    FP16_HEADROOM = "fp16-headroom"
    FP16_LRN = "fp16-lrn"
    FP16_UNDERFLOW = "fp16-underflow"
    INT8_CLIPPING = "int8-clipping"
    INT8_RESOLUTION = "int8-resolution"


class Part(StrEnum):
    """Of a layer."""

    WEIGHTS = "weights"
    INPUT = "input"
    OUTPUT = "output"


# What is the matter, of what the share is, what it means and what to do.
_WORDS = {
    Kind.IDLE: (
        "channels without a weight that is not zero",
        "they give their bias whatever the image, and cost as much as any: check the checkpoint",
    ),
    Kind.DEAD: (
        "channels that give one value on all calibration images",
        "the network does not use them: check the weights and the preprocessing, or calibrate on images as in use",
    ),
    Kind.SATURATED: (
        "values at the largest or smallest that the layer gives",
        "they say no more than that they are there: check the weights and the preprocessing",
    ),
    Kind.SAME_LOGITS: (
        "images that get the logits of the first, or the same logit for every class",
        "the network tells nothing about them: check the weights and the preprocessing",
    ),
    Kind.FP16_OVERFLOW: (
        f"values beyond FP16's largest number, {FP16_MAX:g}",
        "they become infinite in FP16: use BF16 or FP32",
    ),
    Kind.FP16_HEADROOM: (
        f"activations within a factor {FP16_HEADROOM:g} of FP16's largest number, {FP16_MAX:g}",
        "another image may overflow: use BF16 or FP32, or calibrate on more images",
    ),
    Kind.FP16_LRN: (
        f"values whose squares go beyond FP16's largest number, {FP16_MAX:g}, inside a norm",
        "this tool's graphs keep LRN in FP32; a tool that makes all of the FP32 graph FP16 would overflow there",
    ),
    Kind.FP16_UNDERFLOW: (
        f"channels or values too small for FP16, whose precision ends at {FP16_SMALLEST_NORMAL:.2g}",
        "FP16 keeps less of them than BF16: use BF16 or FP32",
    ),
    Kind.INT8_CLIPPING: (
        "values beyond the threshold of INT8",
        "they saturate: calibrate with --method max, or hold the accuracy with --max-drop",
    ),
    Kind.INT8_RESOLUTION: (
        f"channels that stay below {FEW_STEPS} steps of INT8",
        "few large values set the scale: calibrate with --method percentile, or hold the accuracy with --max-drop",
    ),
}
# Nothing is to be done about it here.
NOTES = frozenset({Kind.FP16_LRN})
FP16_KINDS = frozenset({Kind.FP16_OVERFLOW, Kind.FP16_HEADROOM, Kind.FP16_UNDERFLOW, Kind.FP16_LRN})


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a layer shows above the stated share.

    Attributes:
        layer: Its name.
        part: Of it.
        tensor: The value's name in the FP32 graph.
        count, total: How many channels, values or images of how many, as the kind says.
        largest: Magnitude; None where it says nothing.
    """

    kind: Kind
    layer: str
    part: Part
    tensor: str
    count: int
    total: int
    largest: float | None = None

    @property
    def share(self) -> float:
        """Of all."""
        return self.count / self.total

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "kind": self.kind.value,
            "layer": self.layer,
            "part": self.part.value,
            "tensor": self.tensor,
            "count": self.count,
            "total": self.total,
            "share": self.share,
            "largest": self.largest,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: It is something else.
        """
        largest = values["largest"]
        found = cls(
            kind=Kind(values["kind"]),
            layer=str(values["layer"]),
            part=Part(values["part"]),
            tensor=str(values["tensor"]),
            count=int(values["count"]),
            total=int(values["total"]),
            largest=None if largest is None else float(largest),
        )
        if not 0 <= found.count <= found.total or not found.total:
            raise ValueError(f"{found.count} of {found.total}")
        return found

    @property
    def place(self) -> str:
        """With its share, for a person."""
        where = self.layer if self.part is Part.OUTPUT else f"the {self.part.value} of {self.layer}"
        largest = "" if self.largest is None else f", up to {self.largest:.4g}"
        return f"{where} ({self.count:,} of {self.total:,}, {_percent(self.share)}{largest})"


def _percent(share: float) -> str:
    return "100 %" if share == 1 else f"{100 * share:.2g} %"


def lines_of(findings: Sequence[Finding]) -> list[tuple[Kind, str]]:
    """One line a kind: the layers that show most of it, what it means, and what to do."""
    found = []
    for kind in Kind:
        group = sorted((each for each in findings if each.kind is kind), key=lambda each: -each.share)
        if not group:
            continue
        what, remedy = _WORDS[kind]
        places = ", ".join(each.place for each in group[:_LISTED])
        more = f" and {len(group) - _LISTED} more" if len(group) > _LISTED else ""
        found.append((kind, f"{kind.value}: {places}{more}: {what}; {remedy}"))
    return found


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
    if idle >= DEAD_SHARE * len(rows):
        yield _finding(Kind.IDLE, layer, Part.WEIGHTS, idle, len(rows))
    beyond = sum(int((np.abs(row) > FP16_MAX).sum()) for row in rows[largest > FP16_MAX])
    if beyond:
        yield _finding(Kind.FP16_OVERFLOW, layer, Part.WEIGHTS, beyond, rows.size, float(largest.max()))
    # Subnormal numbers are 2**-24 apart: of other channels they lose less than FP16_LOSS for sure.
    doubtful = rows[(largest > 0) & (largest < math.sqrt(rows.shape[1]) * 2.0**-25 / FP16_LOSS)].astype(np.float64)
    lost = np.linalg.norm(doubtful.astype(np.float16) - doubtful, axis=1)
    small = int((lost > FP16_LOSS * np.linalg.norm(doubtful, axis=1)).sum())
    if small >= DEAD_SHARE * len(rows):
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


def _seen(model: ir.Model, table: CalibrationTable) -> list[_Seen]:
    """Every calibrated tensor once: as what a layer gives, or else as what one reads."""
    places: dict[str, _Seen] = {}
    layers = list(weighted_nodes(model))
    for part in (Part.OUTPUT, Part.INPUT):
        for layer in layers:
            value = result_of(layer.node) if part is Part.OUTPUT else layer.activation
            name = str(value.name)
            if name in table.tensors and name not in places:
                places[name] = _Seen(layer=layer, part=part, tensor=name, observed=table.tensors[name])
    return list(places.values())


def activation_findings(model: ir.Model, table: CalibrationTable) -> list[Finding]:
    """All that calibration says: dead channels, saturation, FP16's range, and INT8 by the table's method."""
    return [
        *dead_findings(model, table),
        *saturated_findings(model, table),
        *half_findings(model, table),
        *int8_findings(model, table),
    ]


def dead_findings(model: ir.Model, table: CalibrationTable) -> list[Finding]:
    """Channels with weights that gave one value on all images.

    A dead layer makes all behind it constant: of those that follow it, none is named.
    """
    found = []
    for seen in _seen(model, table):
        if seen.part is not Part.OUTPUT:
            continue
        histogram = seen.observed.histogram
        if histogram.minimum == histogram.maximum:
            channels = 1 if histogram.channels is None else len(histogram.channels.minima)
            return [*found, seen.finding(Kind.DEAD, channels, channels)]
        if histogram.channels is None or len(table.images) < DEAD_IMAGES:
            continue
        constant, weight = histogram.channels.constant, seen.layer.weight
        if len(constant) == len(weight):
            constant = constant & weight.reshape(len(weight), -1).any(axis=1)
        count = int(constant.sum())
        if count >= DEAD_SHARE * len(constant):
            found.append(seen.finding(Kind.DEAD, count, len(constant)))
        if histogram.channels.constant.all():
            break
    return found


def saturated_findings(model: ir.Model, table: CalibrationTable) -> list[Finding]:
    """Activations that sit at a bound; of images, whose black and white are bounds, nothing is said."""
    found = []
    for seen in _seen(model, table):
        histogram = seen.observed.histogram
        if seen.tensor == model.graph.inputs[0].name or histogram.total < SATURATED_VALUES:
            continue
        count = max(
            int(side[int(extreme / histogram.width)]) if extreme > 0 else 0
            for side, extreme in ((histogram.positive, histogram.maximum), (histogram.negative, -histogram.minimum))
        )
        if count >= SATURATED_SHARE * histogram.total:
            largest = max(-histogram.minimum, histogram.maximum)
            found.append(seen.finding(Kind.SATURATED, count, histogram.total, largest))
    return found


def half_findings(model: ir.Model, table: CalibrationTable) -> list[Finding]:
    """What FP16 does to the activations."""
    found = list(_norm_findings(model, table))
    for seen in _seen(model, table):
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


def _norm_findings(model: ir.Model, table: CalibrationTable) -> Iterator[Finding]:
    limit = math.sqrt(FP16_MAX)
    for node in model.graph:
        value = node.inputs[0] if node.op_type == "LRN" else None
        # A maximum is that of what it is taken of.
        while value is not None and value.name not in table.tensors:
            producer = value.producer()
            value = producer.inputs[0] if producer is not None and producer.op_type == "MaxPool" else None
        if value is None:
            continue
        histogram = table.tensors[str(value.name)].histogram
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


def int8_findings(model: ir.Model, table: CalibrationTable, quantized: Collection[str] | None = None) -> list[Finding]:
    """What the thresholds of the table's method cut off, and what they leave hardly a step.

    Args:
        model: The FP32 graph.
        table: Its calibration table.
        quantized: Names of the values that are quantized; None for all that some target quantizes.
    """
    found = []
    for seen in _seen(model, table):
        if quantized is not None and seen.tensor not in quantized:
            continue
        histogram = seen.observed.histogram
        clipped = histogram.beyond(seen.observed.thresholds[table.method])
        if clipped and clipped >= CLIPPED_SHARE * histogram.total:
            largest = max(-histogram.minimum, histogram.maximum)
            found.append(seen.finding(Kind.INT8_CLIPPING, clipped, histogram.total, largest))
        if histogram.channels is None:
            continue
        live = histogram.channels.magnitudes[~histogram.channels.constant]
        few = int((live < FEW_STEPS * seen.observed.range_by(table.method).symmetric_scale).sum())
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


def lines_from_facts(facts: dict[str, Any]) -> list[str]:
    """The lines of what stands in a passport; none where it is something else, which nobody is to rely on."""
    try:
        return [line for _, line in lines_of([Finding.from_json(each) for each in facts.get("safety", [])])]
    except (ValueError, KeyError, TypeError):
        return []


def reported(findings: Sequence[Finding], voice: Voice) -> list[dict[str, Any]]:
    """Says what was found, a line a kind, and gives it for a passport."""
    for kind, line in lines_of(findings):
        (voice.say if kind in NOTES else voice.warn)(line)
    return [finding.to_json() for finding in findings]

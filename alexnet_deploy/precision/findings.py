"""What may be unsafe in a network's numbers, from which share on it is worth a line, and how a person is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np

from alexnet_deploy.progress import Voice

# Of a layer's channels: nothing but pruning or damage takes all of a channel's weights.
IDLE_SHARE = 0.1
# Of a layer's channels. In sound networks up to a third sleep on all calibration images: a seventh of conv5 in the
# model that ships, a third of which some evaluation image wakes, and more of fully connected layers before training.
DEAD_SHARE = 0.5
# On fewer images a channel that looks for something rare is not to be told from a dead one, and has no range yet.
CHANNEL_IMAGES = 100
FP16_MAX = float(np.finfo(np.float16).max)
FP16_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)
# Images in use may go this many times beyond those of calibration.
FP16_HEADROOM = 4.0
# Of a channel's weights, as a share of their norm: half of BF16's last bit, so that BF16 would have kept more.
FP16_LOSS = 2.0**-9
# Of a layer's channels, or of an activation's values beyond its first bin.
UNDERFLOW_SHARE = 0.1
# Of a layer's weights, or of an activation's values, zeros included. On the model that ships mean squared error clips
# 0.1 % at most and costs nothing; entropy clips 0.6 to 27 % of the first layers' values and costs 2 points of top-1.
CLIPPED_SHARE = 0.005
# A channel that stays below has two bits at most.
FEW_STEPS = 4
# Of a layer's channels that are not dead. In the model that ships it is a tenth, at no cost.
FEW_STEPS_SHARE = 0.5
# Of an activation's values, in the one bin of 2,048 or more that holds the extreme, which is not zero.
SATURATED_SHARE = 0.1
# Of fewer values, one bin holds a tenth, and a threshold cuts off half a hundredth, by chance.
ENOUGH_VALUES = 1000
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

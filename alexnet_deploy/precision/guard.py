"""The accuracy guard: as few layers back in float as a budget of accuracy needs, and what each layer costs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.statistics import Accuracy, Ratio, accuracy_from_logits
from alexnet_deploy.errors import AccuracyError, InputError
from alexnet_deploy.progress import SILENT, Voice

if TYPE_CHECKING:
    from numpy.typing import NDArray

Evaluate = Callable[[Collection[str]], "NDArray[np.float32]"]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """One layer in INT8 and all others in float, against all in float.

    Attributes:
        accuracy: On the guard images.
        gain: Time of the network with this layer alone in float, over that of all in INT8; None where the target
            cannot be timed.
    """

    layer: str
    accuracy: Accuracy
    gain: Ratio | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        gain = None if self.gain is None else self.gain.to_json()
        return {"layer": self.layer, "gain": gain, **self.accuracy.to_json()}


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """What came out.

    Attributes:
        keep_float: Layers that stay in float, the most sensitive first.
        drop: Top-1 that FP32 has and INT8 lost, as a fraction of the guard images.
        accuracy: Of the graph with these layers in float.
        steps: Drop after each layer that went back, beginning with none.
        sensitivities: Of every layer, the most sensitive first; empty where nothing had to go back.
    """

    max_drop: float
    images: int
    keep_float: tuple[str, ...]
    drop: float
    accuracy: Accuracy
    steps: tuple[float, ...]
    sensitivities: tuple[Sensitivity, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "max_drop": self.max_drop,
            "images": self.images,
            "keep_float": list(self.keep_float),
            "drop": self.drop,
            **self.accuracy.to_json(),
            "steps": list(self.steps),
            "sensitivities": [row.to_json() for row in self.sensitivities],
        }


def guarded(
    layers: list[str],
    evaluate: Evaluate,
    labels: NDArray[np.int64] | None,
    max_drop: float,
    *,
    gains: Callable[[], Mapping[str, Ratio]] | None = None,
    voice: Voice = SILENT,
) -> Guarded:
    """Quantizes everything; where that costs too much, returns layers to float, the most sensitive first.

    Sensitivity is the noise that a layer's quantization alone brings into the logits: on a thousand images top-1 moves
    in steps of a tenth of a point, the noise does not. One pass over the images for each layer.

    Args:
        layers: Names of the convolutions and fully connected layers.
        evaluate: Logits `(N, classes)` of the guard images with the named layers in float and all others in INT8.
        labels: Of the guard images; None takes what FP32 says for the truth.
        max_drop: Largest loss of top-1, as a fraction of the images.
        gains: What each layer in INT8 gains in time; asked for where layers have to be ranked.
        voice: Shows progress.

    Raises:
        InputError: The budget is negative.
        AccuracyError: The budget does not hold with every layer in float: the evaluation itself is off.
    """
    if not 0 <= max_drop <= 1:
        raise InputError("no such budget of accuracy", got=max_drop, expected="a fraction from 0 to 1")
    reference = evaluate(layers)
    truth = reference.argmax(axis=1) if labels is None else labels
    keep: list[str] = []
    found = accuracy_from_logits(evaluate(keep), reference, truth)
    steps = [_drop(found, len(truth))]
    ranked: list[Sensitivity] = []
    while steps[-1] > max_drop:
        if not ranked:
            times = gains() if gains is not None else {}
            ranked = _ranked(layers, evaluate, reference, truth, times, voice)
        if len(keep) == len(layers):
            raise AccuracyError(
                "the accuracy budget does not hold with every layer in float",
                got=f"{100 * steps[-1]:.2f} points lost",
                expected=f"at most {100 * max_drop:.2f}",
            )
        keep.append(ranked[len(keep)].layer)
        found = accuracy_from_logits(evaluate(keep), reference, truth)
        steps.append(_drop(found, len(truth)))
        voice.say(f"  {keep[-1]} back in float: {100 * steps[-1]:.2f} points lost")
    return Guarded(
        max_drop=max_drop,
        images=len(truth),
        keep_float=tuple(keep),
        drop=steps[-1],
        accuracy=found,
        steps=tuple(steps),
        sensitivities=tuple(ranked),
    )


def table_lines(found: Guarded) -> list[str]:
    """What each layer costs and gains, as text; nothing where no layer had to be ranked."""
    if not found.sensitivities:
        return []
    lines = ["layer       SQNR alone  lost  won    p     time if in float"]
    for row in found.sensitivities:
        sqnr = "exact" if row.accuracy.sqnr_db is None else f"{row.accuracy.sqnr_db:.1f} dB"
        time = "not timed here"
        if row.gain is not None:
            time = f"{row.gain.median:.2f}x ({row.gain.ci95[0]:.2f} to {row.gain.ci95[1]:.2f})"
        kept = "  <- float" if row.layer in found.keep_float else ""
        lines.append(
            f"{row.layer:11} {sqnr:>10}  {row.accuracy.lost:4}  {row.accuracy.won:3}  {row.accuracy.p_value:.2f}  "
            f"{time}{kept}"
        )
    return lines


def _drop(found: Accuracy, images: int) -> float:
    return (found.lost - found.won) / images


def _ranked(
    layers: list[str],
    evaluate: Evaluate,
    reference: NDArray[np.float32],
    truth: NDArray[np.int64],
    times: Mapping[str, Ratio],
    voice: Voice,
) -> list[Sensitivity]:
    rows = []
    with voice.track("sensitivity", len(layers)) as track:
        for layer in layers:
            logits = evaluate([other for other in layers if other != layer])
            accuracy = accuracy_from_logits(logits, reference, truth)
            rows.append(Sensitivity(layer=layer, accuracy=accuracy, gain=times.get(layer)))
            track.advance(1, layer)
    # No noise at all is the best SQNR there is.
    return sorted(rows, key=lambda row: np.inf if row.accuracy.sqnr_db is None else row.accuracy.sqnr_db)

"""What a difference in preprocessing does to the answers, next to what INT8 does: the bigger risk is rarely INT8."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alexnet_deploy.bench.candidate import Candidate
from alexnet_deploy.bench.evaluation import reference_of
from alexnet_deploy.bench.runner import EvaluationData, Runner
from alexnet_deploy.bench.statistics import accuracy_from_logits
from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.pipeline.evaluation import spread
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import QUANTIZED, Interpolation, Preprocessing, Resize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_IMAGES = 250
# Torchvision resizes to this and cuts out the centre: 256 for 224.
_LARGER = 256 / 224


def changes(spec: Preprocessing) -> list[tuple[str, Preprocessing]]:
    """What is easily done differently by whoever serves the model, in words and as preprocessing."""
    interpolation = Interpolation.NEAREST if spec.interpolation is not Interpolation.NEAREST else Interpolation.BILINEAR
    found = [
        (
            f"interpolation {interpolation.value} instead of {spec.interpolation.value}",
            dataclasses.replace(spec, interpolation=interpolation),
        )
    ]
    cropped = spec.resize is Resize.SHORTER_SIDE and spec.resize_size > spec.image_size
    if cropped:
        whole = dataclasses.replace(spec, resize=Resize.STRETCH, resize_size=spec.image_size)
        found.append(("the whole image stretched instead of its centre cut out", whole))
    else:
        size = round(spec.image_size * _LARGER)
        centre = dataclasses.replace(spec, resize=Resize.SHORTER_SIDE, resize_size=size)
        found.append((f"resized to {size} and the centre cut out instead of the whole image", centre))
    return found


def sensitivity(
    candidates: Sequence[Candidate],
    data: EvaluationData,
    make_runner: Callable[[SessionSpec, EvaluationData], Runner],
    labels: NDArray[np.int64] | None,
    voice: Voice,
) -> dict[str, Any] | None:
    """The entry of a bench: the fastest float session on images prepared differently, and INT8 on the same images.

    Where only quantized sessions were asked for, it is the reference.

    Returns:
        None where no float session ran.
    """
    ran = [each for each in candidates if each.status == "ok" and each.logits is not None and each.taken]
    # One with requests in flight evaluates on one of its streams.
    floats = (each for each in ran if each.spec.precision not in QUANTIZED and each.same_as is None)
    base = min(floats, key=_speed, default=reference_of(candidates))
    if base is None or base.logits is None:
        return None
    part = spread(len(data.indices), _IMAGES)
    reference, kept = base.logits[part], None if labels is None else labels[part]
    rows: list[dict[str, Any]] = []
    with voice.track("sensitivity", len(changes(data.preprocessing))) as track:
        for what, preprocessing in changes(data.preprocessing):
            other = dataclasses.replace(data, preprocessing=preprocessing, indices=data.indices[part])
            runner = make_runner(base.spec, other)
            try:
                runner.open()
                rows.append({"what": what, "kind": "preprocessing", **_row(runner.evaluate(), reference, kept)})
            except AlexnetDeployError as exc:
                # Beside the rows; they are measured, and stay.
                voice.warn(f"the sensitivity to {what} was not measured: {exc}")
            finally:
                runner.close()
            track.advance()
    for each in ran:
        if each.spec.precision in QUANTIZED and each.same_as is None and each.logits is not None:
            what = f"{each.spec.name} instead of {base.spec.name}"
            rows.append({"what": what, "kind": "quantization", **_row(each.logits[part], reference, kept)})
    return {"images": len(part), "session": base.spec.name, "rows": rows}


def _speed(candidate: Candidate) -> float:
    largest = candidate.taken[max(candidate.taken)]
    return largest.seconds / len(largest.milliseconds)


def _row(
    logits: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> dict[str, Any]:
    accuracy = accuracy_from_logits(logits, reference, labels).to_json()
    return {key: accuracy[key] for key in ("top1", "agreement", "flips")}

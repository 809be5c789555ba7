"""What a report shows beside the rows: histograms, confusion, flipped images, passports."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.bench.candidate import Candidate
from alexnet_deploy.bench.evaluation import reference_of
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.specs import QUANTIZED

if TYPE_CHECKING:
    from numpy.typing import NDArray

_POINTS = 128
_MOST_CLASSES, _MOST_FLIPPED, _MOST_SIDE = 50, 24, 96


def histograms(table_path: Path | None) -> dict[str, Any] | None:
    """The calibration table as the report draws it: magnitudes in equal bins; None without a table."""
    if table_path is None:
        return None
    table = CalibrationTable.read(table_path)
    tensors = []
    for name, entry in table.to_json()["tensors"].items():
        histogram = table.tensors[name].histogram
        counts = histogram.magnitudes.astype(np.float64)
        total = max(1.0, float(counts.sum()))
        first = float(counts[0])
        # Up to the last bin that holds anything, so that no picture is mostly empty.
        used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1
        edges = np.linspace(0, used, _POINTS + 1)
        shares = np.diff(np.interp(edges, np.arange(len(counts) + 1), np.concatenate([[0], np.cumsum(counts)]))) / total
        tensors.append(
            {
                "name": name,
                "min": entry["min"],
                "max": entry["max"],
                "zero_share": round(first / total, 6),
                "limit": float(used * histogram.width),
                "shares": [float(f"{share:.4g}") for share in shares],
                "thresholds": entry["thresholds"],
                "beyond": entry["beyond"],
            }
        )
    return {"method": table.method.value, "images": len(table.images), "tensors": tensors}


def confusion(
    candidates: Sequence[Candidate], labels: NDArray[np.int64] | None, names: Sequence[str]
) -> dict[str, Any] | None:
    """Labels against predictions of the reference and of the first INT8 session; None where there is no such pair."""
    reference, other = _pair(candidates)
    if labels is None or reference is None or other is None or len(names) > _MOST_CLASSES:
        return None

    def counts(candidate: Candidate) -> list[list[int]]:
        assert candidate.logits is not None
        table = np.zeros((len(names), len(names)), np.int64)
        np.add.at(table, (labels, candidate.logits.argmax(axis=1)), 1)
        return [[int(count) for count in row] for row in table]

    return {
        "labels": list(names),
        "session": other.spec.name,
        "counts": counts(other),
        "reference": reference.spec.name,
        "reference_counts": counts(reference),
    }


def flipped(
    candidates: Sequence[Candidate],
    source: ImageSource,
    kept: NDArray[np.int64],
    labels: NDArray[np.int64] | None,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Images to which an INT8 session gives another class than the reference, as small PNGs."""
    reference, _ = _pair(candidates)
    if reference is None or reference.logits is None:
        return []
    first = reference.logits.argmax(axis=1)
    found: list[dict[str, Any]] = []
    for candidate in candidates:
        if not _counts(candidate) or candidate.same_as is not None or candidate.logits is None:
            continue
        got = candidate.logits.argmax(axis=1)
        for position in np.flatnonzero(got != first)[: _MOST_FLIPPED - len(found)]:
            found.append(
                {
                    "session": candidate.spec.name,
                    "index": int(kept[position]),
                    "label": None if labels is None else names[labels[position]],
                    "reference": names[first[position]],
                    "predicted": names[got[position]],
                    "png": _png(source.image(int(kept[position]))),
                }
            )
    return found


def passports(candidates: Sequence[Candidate], *others: Path | None) -> list[dict[str, Any]]:
    """The passports of all artifacts that were measured, each once."""
    paths = [candidate.spec.path for candidate in candidates if candidate.spec.path.name]
    found: dict[str, dict[str, Any]] = {}
    for path in [*paths, *(other for other in others if other is not None)]:
        passport = read_passport(path)
        if passport is not None and path.name not in found:
            found[path.name] = passport.to_json()
    return [{"file": name, "passport": passport} for name, passport in found.items()]


def _counts(candidate: Candidate) -> bool:
    return candidate.status == "ok" and candidate.spec.precision in QUANTIZED and candidate.logits is not None


def _pair(candidates: Sequence[Candidate]) -> tuple[Candidate | None, Candidate | None]:
    """The reference, and the first quantized session."""
    return reference_of(candidates), next(filter(_counts, candidates), None)


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_MOST_SIDE, _MOST_SIDE))
    target = io.BytesIO()
    image.save(target, format="png", optimize=True)
    return base64.b64encode(target.getvalue()).decode()

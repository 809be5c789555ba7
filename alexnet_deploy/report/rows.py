"""Questions to a bench document that more than one part of a report asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_deploy.report.words import label_of, session_of

Row = dict[str, Any]


def batches_that_ran(document: Mapping[str, Any]) -> list[int]:
    """Batch sizes with a row that ran, ascending."""
    return sorted({row["batch"] for row in document["rows"] if row["status"] == "ok"})


def rows_that_ran(document: Mapping[str, Any], batch: int) -> list[Row]:
    """The rows of one batch size that ran, fastest first."""
    rows = [row for row in document["rows"] if row["status"] == "ok" and row["batch"] == batch]
    return sorted(rows, key=lambda row: (row["latency_ms"]["median"], label_of(row)))


def sessions_that_ran(document: Mapping[str, Any]) -> list[Row]:
    """One row of every session that ran: what does not depend on the batch can be read off it."""
    found: dict[str, Row] = {}
    for row in document["rows"]:
        if row["status"] == "ok":
            found.setdefault(session_of(row), row)
    return list(found.values())


def accuracy_of(document: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
    """Top-1, or where there are no labels the agreement with the reference."""
    value: float | None = row["top1"] if document["data"]["labelled"] else row["agreement"]
    return value


def accuracy_name(document: Mapping[str, Any]) -> str:
    """Of what `accuracy_of` returns."""
    return "top-1" if document["data"]["labelled"] else "agreement with the reference"


def front_of(document: Mapping[str, Any], batch: int) -> list[Row]:
    """The rows that no other row beats in both latency and accuracy, fastest first.

    They are the bench's own where it says so; a bench of schema 1 does not.
    """
    rows = [row for row in rows_that_ran(document, batch) if accuracy_of(document, row) is not None]
    for entry in document.get("recommendation") or []:
        if entry["batch"] == batch and entry.get("front"):
            return [row for row in rows if row["key"] in entry["front"]]
    front: list[Row] = []
    best = -1.0
    for row in rows:
        accuracy = accuracy_of(document, row) or 0.0
        if accuracy > best:
            front.append(row)
            best = accuracy
    return front


def recommended(document: Mapping[str, Any], batch: int) -> Row | None:
    """The row that the bench recommends at a batch size."""
    keys = [entry.get("key") for entry in document.get("recommendation") or [] if entry["batch"] == batch]
    return next((row for row in rows_that_ran(document, batch) if row["key"] in keys), None)


def most_images_a_second(document: Mapping[str, Any]) -> Row | None:
    """The row with the highest throughput at any batch."""
    rows = [row for row in document["rows"] if row["status"] == "ok" and row["throughput_ips"]]
    return max(rows, key=lambda row: float(row["throughput_ips"]), default=None)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, by linear interpolation, as NumPy does by default."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])

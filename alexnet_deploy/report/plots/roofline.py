"""The roofline model (S. Williams, A. Waterman and D. Patterson 2009): what the machine allows, what each row got."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_deploy.report.plots.canvas import (
    READOUT,
    WIDTH,
    Scale,
    mark,
    shape,
    spread,
    svg,
    text,
    x_axis,
    y_axis,
)
from alexnet_deploy.report.plots.labels import names_at, room_for
from alexnet_deploy.report.rows import Row
from alexnet_deploy.report.words import is_hinted, label_of, percent, session_of, with_prefix

_LEFT, _TOP, _PLOT, _BOTTOM = 52.0, READOUT + 8.0, 360.0, 48.0
_STYLED = ("fp32", "fp16", "bf16", "int8", "fp8")


def roofline(document: Mapping[str, Any]) -> str:
    """One mark a row with a limit, below the roofs of the precisions; empty without peaks or rows."""
    peaks, rows = document.get("peaks"), rows_with_limits(document)
    roofs = roofs_of(document)
    if not peaks or not rows or not roofs:
        return ""
    right = WIDTH - room_for([label_of(row) for row in rows]) - 20
    bandwidth = float(peaks["read_bytes_per_second"])
    at = [(_intensity(row), _attained(row)) for row in rows]
    ridges = [value / bandwidth for value in roofs.values()]
    x_low, x_high = spread([intensity for intensity, _ in at] + ridges, 2.5, 2.5)
    y_low, y_high = spread([value for _, value in at] + list(roofs.values()), 2.0, 1.5)
    x = Scale(low=x_low, high=x_high, start=_LEFT, stop=right, logarithmic=True)
    y = Scale(low=y_low, high=y_high, start=_TOP + _PLOT, stop=_TOP, logarithmic=True)
    parts = [
        *x_axis(x, _TOP, y.start, "multiply-adds per byte moved, logarithmic", lambda value: f"{value:g}", 9),
        *y_axis(y, _LEFT, right, "multiply-adds per second, logarithmic", lambda value: with_prefix(value).strip(), 8),
        *_roofs(bandwidth, roofs, x, y),
    ]
    places = [(x(intensity), y(attained)) for intensity, attained in at]
    for row, place, (_, attained) in zip(rows, places, at, strict=True):
        hollow = is_hinted(row)
        parts.append(mark(row["runtime"], _words(row, attained), shape(row["precision"], *place, hollow=hollow)))
    parts += _sessions(rows, places, x, y)
    return svg(WIDTH, y.start + _BOTTOM, "roofline", parts)


def _sessions(rows: Sequence[Row], places: Sequence[tuple[float, float]], x: Scale, y: Scale) -> list[str]:
    """Lines through the batch sizes of each session, and its name at the end."""
    sessions: dict[str, list[tuple[int, tuple[float, float], Row]]] = {}
    for row, place in zip(rows, places, strict=True):
        sessions.setdefault(session_of(row), []).append((row["batch"], place, row))
    parts, ends = [], []
    for found in sessions.values():
        found.sort(key=lambda entry: entry[0])
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for _, (px, py), _ in found)
        label, runtime = label_of(found[-1][2]), found[-1][2]["runtime"]
        parts.append(mark(runtime, label, f'<path class="line thin" d="{path}"/>', focus=False))
        ends.append((*found[-1][1], label))
    return parts + names_at(ends, x.stop + 18, _TOP + 4, max(y.start, _TOP + 15 * len(ends)))


def roofs_of(document: Mapping[str, Any]) -> dict[str, float]:
    """The peak of each precision that the machine has."""
    found = (document.get("peaks") or {}).get("macs_per_second") or {}
    return {str(precision): float(peak) for precision, peak in found.items() if peak}


def rows_with_limits(document: Mapping[str, Any]) -> list[Row]:
    """The rows that ran and whose work has been counted."""
    rows = [row for row in document["rows"] if row["status"] == "ok" and row.get("roofline")]
    return [row for row in rows if row["roofline"].get("macs") and row["roofline"].get("bytes")]


def _intensity(row: Row) -> float:
    return float(row["roofline"]["macs"]) / float(row["roofline"]["bytes"])


def _attained(row: Row) -> float:
    # Of the throughput, not of the latency: with several requests in flight a latency holds the waiting too.
    return float(row["roofline"]["macs"]) * float(row["throughput_ips"]) / float(row["batch"])


def _words(row: Row, attained: float) -> str:
    limit = row["roofline"]
    return (
        f"{label_of(row)}, batch {row['batch']}: {with_prefix(attained)}MAC/s, {percent(limit['fraction'])} of the "
        f"limit ({limit['bound']}, {limit['limit_ms']:.3g} ms)"
    )


def _roofs(bandwidth: float, roofs: Mapping[str, float], x: Scale, y: Scale) -> list[str]:
    top = max(roofs.values())
    # The diagonal, from where it enters the picture to the highest ridge.
    start = max(x.low, y.low / bandwidth)
    (x1, y1), (x2, y2) = ((x(at), y(at * bandwidth)) for at in (start, top / bandwidth))
    words = f"memory {with_prefix(bandwidth)}B/s"
    # Its name runs along its upper side, where no mark can be.
    angle = math.atan2(y2 - y1, x2 - x1)
    middle = ((x1 + x2) / 2 + 6 * math.sin(angle), (y1 + y2) / 2 - 6 * math.cos(angle))
    turn = f"translate({middle[0]:.1f} {middle[1]:.1f}) rotate({math.degrees(angle):.1f})"
    parts = [
        f'<path class="roof memory" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"><title>{words}</title></path>',
        f'<g transform="{turn}">{text(0, 0, words, "strong", "middle")}</g>',
    ]
    for precision, peak in roofs.items():
        kind = precision if precision in _STYLED else ""
        ridge = x(peak / bandwidth)
        words = f"{precision.upper()} {with_prefix(peak)}MAC/s"
        parts.append(f'<path class="roof {kind}" d="M{ridge:.1f} {y(peak):.1f}H{x.stop:.1f}"/>')
        parts.append(text(ridge + 8, y(peak) - 5, words, "strong"))
    return parts

"""Latency against accuracy, with the front: the rows that nothing beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_deploy.report.plots.canvas import READOUT, WIDTH, Scale, line, mark, shape, spread, svg, x_axis, y_axis
from alexnet_deploy.report.plots.labels import Box, labels_beside
from alexnet_deploy.report.rows import Row, accuracy_name, accuracy_of, front_of, rows_that_ran
from alexnet_deploy.report.words import is_hinted, label_of, milliseconds, percent

_LEFT, _RIGHT, _TOP, _PLOT, _BOTTOM = 58.0, WIDTH - 16.0, READOUT + 8.0, 300.0, 48.0

# Above 100 %, as a share of the axis: less than between two of its ticks.
_ROOM = 0.06


def pareto(document: Mapping[str, Any], batch: int) -> str:
    """One mark a row that ran with an accuracy; empty where there is none."""
    rows = [row for row in rows_that_ran(document, batch) if accuracy_of(document, row) is not None]
    if not rows:
        return ""
    x, y = _scales(document, rows)
    front = front_of(document, batch)
    at = [(x(row["latency_ms"]["median"]), y(accuracy_of(document, row) or 0.0)) for row in rows]
    parts = [
        *x_axis(x, _TOP, y.start, f"median latency in ms at batch {batch}, logarithmic", lambda value: f"{value:g}"),
        *y_axis(y, _LEFT, _RIGHT, accuracy_name(document), lambda value: f"{100 * value:.5g} %"),
    ]
    on_front = [place for place, row in zip(at, rows, strict=True) if row in front]
    parts.append(_steps(on_front, y.start))
    for (px, py), row in zip(at, rows, strict=True):
        parts.append(_row(document, row, px, py, x, on_front=row in front))
    # Those on the front have the first choice of place.
    order = sorted(range(len(rows)), key=lambda index: rows[index] not in front)
    points = [(*at[index], label_of(rows[index])) for index in order]
    # No label lies on the flat parts of the front.
    ends = [x for x, _ in on_front[1:]] + [_RIGHT]
    taken = [Box(px, py - 2, end, py + 2) for (px, py), end in zip(on_front, ends, strict=False)]
    parts += labels_beside(points, within=Box(_LEFT, _TOP, _RIGHT, y.start), taken=taken)
    title = f"latency against {accuracy_name(document)} at batch {batch}"
    return svg(WIDTH, _TOP + _PLOT + _BOTTOM, title, parts)


def _scales(document: Mapping[str, Any], rows: Sequence[Row]) -> tuple[Scale, Scale]:
    intervals = [side for row in rows for side in row["latency_ms"]["ci95"]]
    low, high = spread(intervals, 1.12, 1.25)
    values = [accuracy_of(document, row) or 0.0 for row in rows]
    # Not less than five images, so that a difference of one does not look like a cliff.
    pad = max(5 / max(1, document["data"]["images"]), 0.3 * (max(values) - min(values)))
    x = Scale(low=low, high=high, start=_LEFT, stop=_RIGHT, logarithmic=True)
    low = max(min(values) - pad, 0.0)
    # Of shares that could be wholly right no axis goes on; the marks there want room for their rings all the same.
    high = min(max(values) + pad, 1 + _ROOM * (1 - low))
    return x, Scale(low=low, high=high, start=_TOP + _PLOT, stop=_TOP)


def _steps(front: Sequence[tuple[float, float]], bottom: float) -> str:
    if not front:
        return ""
    (x, y), *others = front
    path = f"M{x:.1f} {bottom:.1f}V{y:.1f}" + "".join(f"H{px:.1f}V{py:.1f}" for px, py in others) + f"H{_RIGHT:.1f}"
    return f'<path class="front" d="{path}"/>'


def _row(document: Mapping[str, Any], row: Row, px: float, py: float, x: Scale, *, on_front: bool) -> str:
    latency = row["latency_ms"]
    low, high = latency["ci95"]
    words = (
        f"{label_of(row)}: {milliseconds(latency['median'])} ms ({milliseconds(low)} to {milliseconds(high)}), "
        f"{percent(accuracy_of(document, row))}{', on the front' if on_front else ''}"
        f"{', noisy' if latency['noisy'] else ''}"
        f"{', under load' if row.get('in_flight', 1) > 1 else ''}"
    )
    ring = f'<circle class="on-front" cx="{px:.1f}" cy="{py:.1f}" r="10"/>' if on_front else ""
    drawn = line(x(low), py, x(high), py, "whisker") + ring
    return mark(row["runtime"], words, drawn + shape(row["precision"], px, py, hollow=is_hinted(row)))

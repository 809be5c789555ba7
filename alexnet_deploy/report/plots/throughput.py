"""Images a second against the batch size, one line a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_deploy.report.plots.canvas import (
    READOUT,
    WIDTH,
    Scale,
    line,
    mark,
    shape,
    spread,
    svg,
    text,
    y_axis,
)
from alexnet_deploy.report.plots.labels import names_at, room_for
from alexnet_deploy.report.rows import Row, batches_that_ran
from alexnet_deploy.report.words import is_hinted, label_of, session_of

_LEFT, _TOP, _PLOT, _BOTTOM = 48.0, READOUT + 8.0, 340.0, 48.0
_LINE = 15.0


def throughput(document: Mapping[str, Any]) -> str:
    """One mark a row that ran; empty where fewer than two batch sizes did."""
    batches = batches_that_ran(document)
    lines = _lines(document)
    if len(batches) < 2 or not lines:
        return ""
    names = [f"{label_of(rows[-1])}: {rows[-1]['throughput_ips']:,.0f}" for rows in lines]
    right = WIDTH - room_for(names) - 20
    height = max(_PLOT, _LINE * len(lines))
    low, high = spread([float(row["throughput_ips"]) for rows in lines for row in rows], 1.2, 1.2)
    x = Scale(low=batches[0] / 1.08, high=batches[-1] * 1.08, start=_LEFT, stop=right, logarithmic=True)
    y = Scale(low=low, high=high, start=_TOP + height, stop=_TOP, logarithmic=True)
    parts = y_axis(y, _LEFT, right, "images per second, logarithmic", lambda value: f"{value:g}")
    parts.append(text((_LEFT + right) / 2, y.start + 36, "batch size, logarithmic", "axis", "middle"))
    for batch in batches:
        parts.append(line(x(batch), _TOP, x(batch), y.start, "grid-line"))
        parts.append(text(x(batch), y.start + 17, str(batch), "axis", "middle"))
    for rows in lines:
        parts.append(_line(rows, x, y))
    ends = [
        (x(rows[-1]["batch"]), y(rows[-1]["throughput_ips"]), name) for rows, name in zip(lines, names, strict=True)
    ]
    parts += names_at(ends, right + 18, _TOP + 4, y.start)
    return svg(WIDTH, y.start + _BOTTOM, "throughput against batch size", parts)


def _lines(document: Mapping[str, Any]) -> list[list[Row]]:
    sessions: dict[str, list[Row]] = {}
    for row in document["rows"]:
        if row["status"] == "ok" and row["throughput_ips"]:
            sessions.setdefault(session_of(row), []).append(row)
    return [sorted(rows, key=lambda row: int(row["batch"])) for rows in sessions.values()]


def _line(rows: Sequence[Row], x: Scale, y: Scale) -> str:
    points = [(x(row["batch"]), y(row["throughput_ips"])) for row in rows]
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    label = label_of(rows[0])
    parts = [mark(rows[0]["runtime"], label, f'<path class="line" d="{path}"/>', focus=False)]
    for row, (px, py) in zip(rows, points, strict=True):
        flight = f", {row['in_flight']} requests at once" if row.get("in_flight", 1) > 1 else ""
        words = f"{label} at batch {row['batch']}: {row['throughput_ips']:,.1f} images/s{flight}"
        hollow = is_hinted(row)
        parts.append(mark(row["runtime"], words, shape(row["precision"], px, py, hollow=hollow)))
    return "".join(parts)

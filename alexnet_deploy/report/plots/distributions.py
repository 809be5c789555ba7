"""Every sample of every row, turn by turn, with the median, its interval, p90 and p99."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.plots.canvas import (
    READOUT,
    WIDTH,
    Scale,
    above,
    line,
    mark,
    rect,
    shape,
    spread,
    svg,
    text,
    x_axis,
)
from alexnet_deploy.report.plots.labels import room_for, shortened
from alexnet_deploy.report.rows import Row, quantile, rows_that_ran
from alexnet_deploy.report.words import is_hinted, label_of, milliseconds

_RIGHT, _TOP, _ROW, _BOTTOM = WIDTH - 74.0, READOUT + 4.0, 36.0, 24.0
# The part of a row's height over which its turns are laid, the first one on top.
_DOTS = 22.0
# Beside a label: the sign of noise, and the shape of the precision.
_MARK = 40.0


def distributions(document: Mapping[str, Any], batch: int) -> str:
    """One strip a row that ran, fastest first; empty where none did."""
    rows = rows_that_ran(document, batch)
    if not rows:
        return ""
    low, high = spread([value for row in rows for value in _extent(row)], 1.04, 1.04)
    x = Scale(
        low=low, high=high, start=room_for([label_of(row) for row in rows]) + _MARK, stop=_RIGHT, logarithmic=True
    )
    bottom = _TOP + len(rows) * _ROW
    parts = [above(f"ms at batch {batch}, logarithmic"), *x_axis(x, _TOP, bottom, "", lambda value: f"{value:g}")]
    rounds = document["options"].get("rounds") or 1
    parts += [_strip(row, rounds, _TOP + index * _ROW, x) for index, row in enumerate(rows)]
    return svg(WIDTH, bottom + _BOTTOM, f"distribution of latencies at batch {batch}", parts)


def _extent(row: Row) -> tuple[float, ...]:
    latency = row["latency_ms"]
    return (latency["min"], latency["p99"], *row["samples_ms"])


def _strip(row: Row, rounds: int, top: float, x: Scale) -> str:
    latency, samples = row["latency_ms"], row["samples_ms"]
    middle = top + _ROW / 2
    median, p90, p99 = (latency[name] for name in ("median", "p90", "p99"))
    low, high = latency["ci95"]
    words = (
        f"{label_of(row)}: median {milliseconds(median)} ms ({milliseconds(low)} to {milliseconds(high)}), "
        f"p90 {milliseconds(p90)}, p99 {milliseconds(p99)}, {latency['runs']} runs"
        f"{', noisy' if latency['noisy'] else ''}"
    )
    parts = []
    if samples:
        ordered = sorted(samples)
        first, last = quantile(ordered, 0.25), quantile(ordered, 0.75)
        parts.append(rect(x(first), top + 4, x(last) - x(first), _ROW - 8, "box"))
        parts.append(f'<path class="dots" d="{_dots(samples, rounds, middle, x)}"/>')
    parts += [
        line(x(low), middle, x(high), middle, "whisker"),
        line(x(median), top + 3, x(median), top + _ROW - 3, "tick p50"),
        line(x(p90), middle - 8, x(p90), middle + 8, "whisker p90"),
        line(x(p99), middle - 5, x(p99), middle + 5, "whisker p99"),
        shape(row["precision"], x.start - 12, middle, 5, hollow=is_hinted(row)),
    ]
    noisy = "~ " if latency["noisy"] else ""
    label = text(x.start - 24, middle + 4, f"{noisy}{shortened(label_of(row))}", "label", "end")
    value = text(_RIGHT + 8, middle + 4, f"{milliseconds(median)} ms", "strong")
    return mark(row["runtime"], words, "".join(parts)) + label + value


def _dots(samples: list[float], rounds: int, middle: float, x: Scale) -> str:
    # A point without a length is drawn as a dot by its round cap: one element for all samples of a row.
    # As numpy.array_split has them: the first turns are the longer ones.
    size, longer = divmod(len(samples), rounds)
    turns = [turn for turn in range(rounds) for _ in range(size + (turn < longer))]
    step = _DOTS / max(1, rounds - 1) if rounds > 1 else 0.0
    start = middle - (_DOTS / 2 if rounds > 1 else 0.0)
    return "".join(f"M{x(value):.1f} {start + turn * step:.1f}h0" for turn, value in zip(turns, samples, strict=True))

"""Two pictures as inline SVG: latency against accuracy, and latency as bars. Colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 760, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 20, 48
_BAR_HEIGHT, _BAR_LABEL_WIDTH = 26, 190
# Two labels closer than this many pixels would lie on each other.
_LABEL_GAP = 14


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row of a bench: `x` and its interval in milliseconds, `y` a fraction or None."""

    label: str
    runtime: str
    x: float
    interval: tuple[float, float]
    y: float | None


def runtime_class(runtime: str) -> str:
    """CSS class of a runtime's colour."""
    return "rt-" + "".join(letter if letter.isalnum() else "-" for letter in runtime)


def scatter(points: Sequence[Point], *, x_title: str, y_title: str) -> str:
    """Latency on a logarithmic x axis against a fraction on y, with the interval as whiskers."""
    drawn = [(point, point.y) for point in points if point.y is not None]
    if not drawn:
        return ""
    x_low = min(point.interval[0] for point, _ in drawn) / 1.25
    x_high = max(point.interval[1] for point, _ in drawn) * 1.6
    y_values = [y for _, y in drawn]
    pad = max(0.0025, 0.25 * (max(y_values) - min(y_values)))
    y_low, y_high = max(0.0, min(y_values) - pad), min(1.0, max(y_values) + pad)

    def to_x(value: float) -> float:
        share = math.log(value / x_low) / math.log(x_high / x_low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def to_y(value: float) -> float:
        return _TOP + (1 - (value - y_low) / (y_high - y_low)) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [*_x_axis(x_low, x_high, to_x, x_title), *_y_axis(y_low, y_high, to_y, y_title)]
    labels: list[tuple[float, float]] = []
    for point, y in sorted(drawn, key=lambda pair: pair[0].x):
        px, py = to_x(point.x), to_y(y)
        label_y = py - 9
        while any(abs(label_y - other_y) < _LABEL_GAP and abs(px - other_x) < 150 for other_x, other_y in labels):
            label_y -= _LABEL_GAP
        labels.append((px, label_y))
        low, high = point.interval
        parts.append(
            f'<g class="{runtime_class(point.runtime)}"><title>{escape(point.label)}: {point.x:.2f} ms '
            f"({low:.2f} to {high:.2f}), {100 * y:.2f} %</title>"
            f'<line class="whisker" x1="{to_x(low):.1f}" x2="{to_x(high):.1f}" y1="{py:.1f}" y2="{py:.1f}"/>'
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5.5"/>'
            f'<text class="label" x="{px + 4:.1f}" y="{label_y:.1f}">{escape(point.label)}</text></g>'
        )
    return _svg(_WIDTH, _HEIGHT, f"{y_title} against {x_title}", parts)


def bars(points: Sequence[Point], *, title: str) -> str:
    """Latency as horizontal bars, fastest first, with the interval as whiskers."""
    ordered = sorted(points, key=lambda point: point.x)
    if not ordered:
        return ""
    room = _WIDTH - _BAR_LABEL_WIDTH - 90
    scale = room / max(point.interval[1] for point in ordered)
    parts = []
    for index, point in enumerate(ordered):
        y = 4 + index * _BAR_HEIGHT
        middle = y + _BAR_HEIGHT / 2 - 2
        low, high = (_BAR_LABEL_WIDTH + side * scale for side in point.interval)
        end = _BAR_LABEL_WIDTH + point.x * scale
        parts.append(
            f'<g class="{runtime_class(point.runtime)}"><title>{escape(point.label)}: {point.x:.2f} ms</title>'
            f'<text class="label" text-anchor="end" x="{_BAR_LABEL_WIDTH - 8}" y="{middle + 4:.1f}">'
            f"{escape(point.label)}</text>"
            f'<rect x="{_BAR_LABEL_WIDTH}" y="{y}" width="{point.x * scale:.1f}" height="{_BAR_HEIGHT - 8}" rx="2"/>'
            f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
            f'<text class="value" x="{max(end, high) + 7:.1f}" y="{middle + 4:.1f}">{point.x:.2f} ms</text></g>'
        )
    return _svg(_WIDTH, 8 + len(ordered) * _BAR_HEIGHT, title, parts)


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _x_axis(low: float, high: float, to_x: Callable[[float], float], title: str) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = [
        f'<text class="axis" text-anchor="middle" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 8}">'
        f"{escape(title)}</text>"
    ]
    for tick in _log_ticks(low, high):
        x = to_x(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="axis" text-anchor="middle" x="{x:.1f}" y="{bottom + 17}">{tick:g}</text>'
        )
    return parts


def _log_ticks(low: float, high: float) -> list[float]:
    ticks = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in (1, 2, 5)
    ]
    return [tick for tick in ticks if low <= tick <= high]


def _y_axis(low: float, high: float, to_y: Callable[[float], float], title: str) -> list[str]:
    parts = [
        f'<text class="axis" text-anchor="middle" transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) '
        f'rotate(-90)">{escape(title)}</text>'
    ]
    step = 10 ** math.floor(math.log10(high - low))
    step = next(s for s in (step / 5, step / 2, step, step * 2) if (high - low) / s <= 6)
    tick = math.ceil(low / step) * step
    while tick <= high:
        y = to_y(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="axis" text-anchor="end" x="{_LEFT - 7}" y="{y + 4:.1f}">{100 * tick:.5g} %</text>'
        )
        tick += step
    return parts

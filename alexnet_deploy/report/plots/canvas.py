"""What all pictures are drawn with: scales, axes, shapes, and marks that can be read by pointer and keyboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alexnet_deploy.report.markup import escape
from alexnet_deploy.report.style import runtime_class

# Of a picture as wide as the page; the style sheet never shows it narrower than 680, so that its text can be read.
WIDTH = 740
# Room above a picture in which the mark under the pointer, or with the focus, is spelt out.
READOUT = 22
# The shape says the precision, so that no mark depends on its colour: (sign for texts, path of a radius of one).
_SHAPES = {
    "fp32": ("●", "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1-1 0Z"),
    "fp16": ("■", "M-.88-.88H.88V.88H-.88Z"),
    "bf16": ("▲", "M0-1.15L1.1.8H-1.1Z"),
    "int8": ("◆", "M0-1.25L1.25 0 0 1.25-1.25 0Z"),
    "fp8": ("▼", "M0 1.15L1.1-.8H-1.1Z"),
    "int4": ("✚", "M-.4-1.15H.4V-.4H1.15V.4H.4V1.15H-.4V.4H-1.15V-.4H-.4Z"),
}
_OTHER_SHAPE = ("✖", "M-1.1-.6-.6-1.1 0-.5.6-1.1 1.1-.6.5 0 1.1.6.6 1.1 0 .5-.6 1.1-1.1.6-.5 0Z")

# A logarithmic scale over less than this factor has too few round powers to be read.
_NARROW = 4.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From values to pixels; `start` is where `low` is drawn."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Where a value is drawn."""
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, most: int = 8) -> list[float]:
        """Round values on the scale, at most so many."""
        return _log_ticks(self.low, self.high, most) if self.logarithmic else _even_ticks(self.low, self.high, most)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    if high / low < _NARROW:
        return _even_ticks(low, high, most)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = 1
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    every = math.ceil(len(ticks) / most)
    return ticks[::every]


def _even_ticks(low: float, high: float, most: int) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step, 20 * step) if (high - low) / s <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def spread(values: Sequence[float], below: float, above: float) -> tuple[float, float]:
    """The range of positive values with room at both ends, as factors; never empty."""
    return min(values) / below, max(values) * above


def svg(width: float, height: float, label: str, parts: Sequence[str], kind: str = "plot") -> str:
    """A picture with a name; its marks can be visited, so that it is a group and no image."""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="group" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    """One line of text; `anchor` is `middle` or `end`."""
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def rect(x: float, y: float, width: float, height: float, kind: str, extra: str = "") -> str:
    """A rectangle."""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}"'
        f"{extra}/>"
    )


def shape(precision: str, x: float, y: float, radius: float = 6.0, *, hollow: bool = False) -> str:
    """The mark of a precision; hollow for the row with a hint beside the one without."""
    path = _SHAPES.get(precision, _OTHER_SHAPE)[1]
    # Stroke widths are not scaled with the path.
    return (
        f'<path class="{"hollow" if hollow else "shape"}" vector-effect="non-scaling-stroke" d="{path}" '
        f'transform="translate({x:.1f} {y:.1f}) scale({radius:g})"/>'
    )


def shapes_in_words(precisions: Sequence[str]) -> str:
    """Which shape is which precision, for a caption."""
    known = [f"{_SHAPES[name][0]} {name.upper()}" for name in _SHAPES if name in precisions]
    other = [f"{_OTHER_SHAPE[0]} another precision"] if set(precisions) - set(_SHAPES) else []
    return ", ".join(known + other)


def mark(runtime: str, words: str, parts: str, *, focus: bool = True) -> str:
    """Something that stands for a figure: named for readers of screens, spelt out above the picture when visited."""
    attributes = f' tabindex="0" role="img" aria-label="{escape(words)}"' if focus else ""
    tip = f'<text class="tip" aria-hidden="true" x="4" y="14">{escape(words)}</text>' if focus else ""
    kind = f"mark {runtime_class(runtime)}" if runtime else "mark"
    return f'<g class="{kind}"{attributes}><title>{escape(words)}</title>{parts}</g>{tip}'


def above(words: str) -> str:
    """What a picture shows, where the mark that is visited takes its place."""
    return text(4, 14, words, "title")


def x_axis(
    scale: Scale, top: float, bottom: float, title: str, form: Callable[[float], str], most: int = 8
) -> list[str]:
    """Vertical grid lines, figures below them, and what they are of."""
    parts = [text((scale.start + scale.stop) / 2, bottom + 36, title, "axis", "middle")] if title else []
    for tick in scale.ticks(most):
        parts.append(line(scale(tick), top, scale(tick), bottom, "grid-line"))
        parts.append(text(scale(tick), bottom + 17, form(tick), "axis", "middle"))
    return parts


def y_axis(
    scale: Scale, left: float, right: float, title: str, form: Callable[[float], str], most: int = 6
) -> list[str]:
    """Horizontal grid lines, figures left of them, and what they are of."""
    parts = [above(title)]
    for tick in scale.ticks(most):
        parts.append(line(left, scale(tick), right, scale(tick), "grid-line"))
        parts.append(text(left - 7, scale(tick) + 4, form(tick), "axis", "end"))
    return parts

"""Which class was taken for which, as a table in colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alexnet_deploy.report.markup import escape
from alexnet_deploy.report.plots.canvas import rect, svg, text

_CELL, _LETTER, _LONGEST = 30.0, 6.4, 16
# From which share of colour on the figure is written in the colour of the paper.
_DARK = 0.55


def confusion(
    labels: Sequence[str], counts: Sequence[Sequence[int]], other: Sequence[Sequence[int]] | None, title: str
) -> str:
    """A cell for each pair with images, and an edge around those where `other` has another number."""
    names = [_short(str(label)) for label in labels]
    left = _LETTER * max(map(len, names), default=1) + 14
    # The words above the columns stand at 45 degrees.
    top = 0.72 * left + 12
    size = _CELL * len(names)
    parts = [rect(left, top, size, size, "frame")]
    for index, name in enumerate(names):
        parts.append(text(left - 6, top + (index + 0.5) * _CELL + 4, name, "axis", "end"))
        x, y = left + (index + 0.5) * _CELL, top - 6
        parts.append(f'<g transform="translate({x:.1f} {y:.1f}) rotate(-45)">{text(0, 0, name, "axis")}</g>')
    largest = max((max(row, default=0) for row in counts), default=0)
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            before = other[row][column] if other else count
            if count or before:
                where = (left + column * _CELL, top + row * _CELL)
                parts.append(_cell(where, count, before, largest, f"{labels[row]} taken for {labels[column]}"))
    width = left + size + 0.72 * left
    picture = svg(width, top + size + 6, title, parts, "matrix")
    # An attribute and no style, of which the page's policy allows the sheet alone.
    return picture.replace(' class="matrix"', f' class="matrix" width="{width:.0f}"', 1)


def _cell(where: tuple[float, float], count: int, before: int, largest: int, words: str) -> str:
    x, y = where
    # A square root, so that the few mistakes can be told from none beside the many that are right.
    share = 0.06 + 0.86 * math.sqrt(count / largest) if count and largest else 0.0
    change = f" (elsewhere {before})" if count != before else ""
    inside = rect(x, y, _CELL, _CELL, "cell", f' fill-opacity="{share:.2f}"')
    if count != before:
        inside += rect(x + 1.5, y + 1.5, _CELL - 3, _CELL - 3, "cell-edge")
    kind = "on-dark" if share > _DARK else ""
    figure = text(x + _CELL / 2, y + _CELL / 2 + 4, str(count), kind, "middle")
    return f"<g><title>{escape(words)}: {count}{change}</title>{inside}{figure}</g>"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"

"""Places labels beside marks so that they cover neither each other nor the marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_deploy.report.plots.canvas import line, text

# Of the 12 pixel type: its lines, and its letters on average and in wide words.
_LETTER, _LINE, _WIDE_LETTER = 6.6, 14, 6.8
_LONGEST = 42
_RADIUS = 8
_TRIES = 11


@dataclass(frozen=True)
class Box:
    """A rectangle that is taken."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether both share a point."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def shortened(words: str, most: int = _LONGEST) -> str:
    """A label that has room in the column of `room_for`."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def room_for(words: Sequence[str]) -> float:
    """The width of a column that holds these labels, shortened."""
    return _WIDE_LETTER * max((len(shortened(label)) for label in words), default=0)


def labels_beside(
    points: Sequence[tuple[float, float, str]], *, within: Box, kind: str = "label", taken: Sequence[Box] = ()
) -> list[str]:
    """One label for each `(x, y, words)`, with a line to its mark where it stands off; the first are placed first.

    A label for which there is no room is left out: its words are in the mark's title and in the table.
    """
    boxes = [*taken, *(Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y, _ in points)]
    parts = []
    for x, y, label in points:
        words = shortened(label)
        found = _place(x, y, _LETTER * len(words), within, boxes)
        if found is None:
            continue
        box, anchor = found
        boxes.append(box)
        edge, base = (box.left, "") if anchor == "start" else (box.right, "end")
        middle = (box.top + box.bottom) / 2
        if abs(middle - y) > _LINE:
            parts.append(line(x, y, edge, middle, "leader"))
        parts.append(text(edge, box.bottom - 3, words, kind, base))
    return parts


def _place(x: float, y: float, width: float, within: Box, boxes: Sequence[Box]) -> tuple[Box, str] | None:
    for index in range(_TRIES):
        # Beside, above, below, then ever further off.
        step = (index + 1) // 2 * (_LINE - 2) * (-1 if index % 2 else 1)
        for anchor in ("start", "end"):
            left = x + _RADIUS + 3 if anchor == "start" else x - _RADIUS - 3 - width
            box = Box(left, y + step - _LINE / 2, left + width, y + step + _LINE / 2)
            inside = within.left <= box.left and box.right <= within.right
            if inside and within.top <= box.top and box.bottom <= within.bottom and not any(map(box.meets, boxes)):
                return box, anchor
    return None


def spaced(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights as near to the wanted ones, which ascend, as a gap between them allows."""
    found: list[float] = []
    for value in wanted:
        found.append(max(value, found[-1] + gap) if found else max(value, low))
    over = high
    for index in range(len(found) - 1, -1, -1):
        found[index] = min(found[index], over)
        over = found[index] - gap
    return found


def names_at(ends: Sequence[tuple[float, float, str]], right: float, top: float, bottom: float) -> list[str]:
    """The names of lines in a column at `right`, each joined to the end of its line."""
    ordered = sorted(ends, key=lambda end: end[1])
    heights = spaced([y for _, y, _ in ordered], _LINE + 1, top, bottom)
    parts = []
    for (x, y, words), height in zip(ordered, heights, strict=True):
        parts.append(line(x + 9, y, right - 4, height, "leader"))
        parts.append(text(right, height + 4, shortened(words), "label"))
    return parts

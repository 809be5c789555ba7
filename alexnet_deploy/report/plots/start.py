"""What a session costs before its first answer, and the memory it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.plots.canvas import READOUT, WIDTH, Scale, mark, rect, svg, text
from alexnet_deploy.report.plots.labels import room_for, shortened
from alexnet_deploy.report.words import label_of

_ROW, _TOP, _BAR = 26.0, READOUT + 4.0, 15.0
# Widths: the share of time in what the labels leave, and the figures behind the bars.
_TIME_SHARE, _FIGURE = 0.64, 64.0


def start_and_memory(sessions: list[dict[str, Any]]) -> str:
    """Two bars a session that ran: time to the first answer, stacked, and peak memory; empty without sessions."""
    if not sessions:
        return ""
    longest = max((entry["cold_start_ms"] or 0.0 for entry in sessions), default=0.0) or 1.0
    most = max((entry["peak_memory_bytes"] or 0.0 for entry in sessions), default=0.0) or 1.0
    left = room_for([label_of(entry) for entry in sessions]) + 10
    room = WIDTH - left - 2 * _FIGURE
    times = Scale(low=0, high=longest, start=left, stop=left + _TIME_SHARE * room)
    memory = Scale(low=0, high=most, start=times.stop + _FIGURE, stop=WIDTH - _FIGURE)
    parts = [
        text(times.start, 14, "load, then first inference (lighter), in ms", "title"),
        text(memory.start, 14, "peak memory in MB", "title"),
    ]
    for index, entry in enumerate(sorted(sessions, key=lambda entry: entry["cold_start_ms"] or 0.0)):
        parts.append(_session(entry, _TOP + index * _ROW, times, memory))
    return svg(WIDTH, _TOP + len(sessions) * _ROW + 6, "cold start and peak memory of each session", parts)


def _session(entry: Mapping[str, Any], top: float, times: Scale, memory: Scale) -> str:
    load, first = entry.get("load_ms") or 0.0, entry.get("first_inference_ms") or 0.0
    total, peak = entry["cold_start_ms"] or load + first, entry["peak_memory_bytes"] or 0
    split = f"load {load:,.0f} ms, first inference {first:,.0f} ms" if load else f"cold start {total:,.0f} ms"
    words = f"{label_of(entry)}: {split}" + (f", peak memory {peak / 1e6:,.0f} MB" if peak else "")
    loaded = times(load if load else total)
    parts = rect(times.start, top, loaded - times.start, _BAR, "bar")
    parts += rect(loaded, top, times(total) - loaded, _BAR, "bar second")
    parts += rect(memory.start, top, memory(peak) - memory.start, _BAR, "bar")
    base = top + _BAR - 3
    outside = text(times.start - 8, base, shortened(label_of(entry)), "label", "end") + text(
        times(total) + 6, base, f"{total:,.0f}"
    )
    if peak:
        outside += text(memory(peak) + 6, base, f"{peak / 1e6:,.0f}")
    return mark(entry["runtime"], words, parts) + outside

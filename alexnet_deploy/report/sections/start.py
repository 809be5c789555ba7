"""What a session costs before its first answer, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.markup import figure, runtime_cell, table
from alexnet_deploy.report.plots.start import start_and_memory
from alexnet_deploy.report.rows import sessions_that_ran
from alexnet_deploy.report.words import fixed, label_of, megabytes

_HEAD = ("runtime", "precision", "artifact", "MB", "load ms", "first ms", "cold start ms", "peak MB")


def sessions_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sessions that ran; of a bench of schema 1 what its rows say of them."""
    sessions = [entry for entry in document.get("sessions") or [] if entry["status"] == "ok"]
    found = sessions or sessions_that_ran(document)
    return [entry for entry in found if entry["cold_start_ms"] is not None]


def starts(document: Mapping[str, Any]) -> str:
    """The bars, and the figures as a table."""
    sessions = sessions_of(document)
    caption = (
        "Each session was opened in a process of its own: loaded, then asked for a first answer. "
        "Loading holds reading the file and whatever the runtime "
        "compiles; memory is the high-water mark of the whole process at any batch size."
    )
    rows = [
        [
            runtime_cell(str(entry["runtime"])),
            label_of(entry).removeprefix(f"{entry['runtime']} "),
            str(entry.get("artifact") or ""),
            megabytes(entry["size_bytes"]),
            fixed(entry.get("load_ms"), 0),
            fixed(entry.get("first_inference_ms"), 0),
            fixed(entry["cold_start_ms"], 0),
            f"{entry['peak_memory_bytes'] / 1e6:,.0f}" if entry["peak_memory_bytes"] else "",
        ]
        for entry in sorted(sessions, key=lambda entry: float(entry["cold_start_ms"]))
    ]
    picture = figure("Cold start and memory", start_and_memory(sessions), caption)
    return picture + table("Cold start and memory in figures", _HEAD, rows, texts=3)

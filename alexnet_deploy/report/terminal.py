"""A bench as tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from alexnet_deploy.printable import printable
from alexnet_deploy.report.rows import Row, batches_that_ran, rows_that_ran
from alexnet_deploy.report.sections.start import sessions_of
from alexnet_deploy.report.words import (
    few_megabytes,
    label_of,
    milliseconds,
    percent,
    reasons,
    recommendations,
    sentences,
    warnings_of,
)

__all__ = ["label_of", "percent", "print_bench", "reasons", "sentences"]

# Columns of a terminal from which the interval and p90 have room too, and from which the roofline and a table of the
# sessions have.
_WIDE, _VERY_WIDE = 96, 110


def print_bench(document: dict[str, Any], console: Console) -> None:
    """Prints the rows that ran, fastest first within a batch, what did not run and why, and what is recommended."""
    for warning in warnings_of(document):
        _say(console, f"warning: {warning}")
    for batch in batches_that_ran(document):
        console.print(_table(batch, rows_that_ran(document, batch), console.width))
    sessions = sessions_of(document)
    if document.get("sessions") and sessions and console.width >= _VERY_WIDE:
        console.print(_sessions(sessions))
    for line in [*reasons(document["rows"]), *sentences(document), *recommendations(document)]:
        _say(console, line)


def _say(console: Console, text: str) -> None:
    console.print(printable(text), soft_wrap=True, highlight=False, markup=False)


def _columns(width: int, rows: Sequence[Row]) -> list[tuple[str, Callable[[Row], str]]]:
    """The titles and cells that have room."""
    wide = width >= _WIDE
    limits = width >= _VERY_WIDE and any(row.get("roofline") for row in rows)
    columns: list[tuple[str, Callable[[Row], str], bool]] = [
        ("median ms", _median, True),
        ("95 % interval", _interval, wide),
        ("p90", lambda row: milliseconds(row["latency_ms"]["p90"]), wide),
        ("p99", lambda row: milliseconds(row["latency_ms"]["p99"]), True),
        ("image/s", lambda row: f"{row['throughput_ips']:.0f}", True),
        ("limit %", _limit, limits),
        ("top-1 %", lambda row: percent(row["top1"]).removesuffix(" %"), True),
        ("agree %", lambda row: percent(row["agreement"]).removesuffix(" %"), True),
        ("MB", lambda row: few_megabytes(row["size_bytes"]), True),
    ]
    return [(title, cell) for title, cell, shown in columns if shown]


def _median(row: Row) -> str:
    latency = row["latency_ms"]
    # Under load a latency holds the waiting of the requests before it.
    return f"{'~' if latency['noisy'] else ''}{milliseconds(latency['median'])}{'*' if _loaded(row) else ''}"


def _interval(row: Row) -> str:
    return "-".join(milliseconds(side) for side in row["latency_ms"]["ci95"])


def _limit(row: Row) -> str:
    return f"{100 * row['roofline']['fraction']:.0f}" if row.get("roofline") else ""


def _loaded(row: Row) -> bool:
    return bool(row.get("in_flight", 1) > 1)


def _plain_table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    # A long label goes on in the next line; a figure is never cut.
    table.add_column("session", min_width=21, overflow="fold")
    return table


def _table(batch: int, rows: Sequence[Row], width: int) -> Table:
    threads = rows[0]["threads"]
    table = _plain_table(f"batch {batch}, {threads} thread{'s' if threads != 1 else ''}")
    columns = _columns(width, rows)
    for title, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(_escaped(label_of(row)), *(cell(row) for _, cell in columns))
    notes = []
    if any(row["latency_ms"]["noisy"] for row in rows):
        notes.append("~ noisy: half of the samples spread over more than a tenth of the median")
    if any(_loaded(row) for row in rows):
        notes.append("* under load: several requests at once, so that a latency holds its waiting")
    if notes:
        table.caption, table.caption_justify = "\n".join(notes), "left"
    return table


def _sessions(sessions: Sequence[dict[str, Any]]) -> Table:
    table = _plain_table("sessions")
    for title in ("load ms", "first inference ms", "cold start ms", "peak MB", "artifact"):
        table.add_column(title, justify="left" if title == "artifact" else "right", no_wrap=title != "artifact")
    for entry in sorted(sessions, key=lambda entry: float(entry["cold_start_ms"])):
        times = (entry.get("load_ms"), entry.get("first_inference_ms"), entry["cold_start_ms"])
        memory = f"{entry['peak_memory_bytes'] / 1e6:.0f}" if entry["peak_memory_bytes"] else ""
        cells = ["" if value is None else f"{value:.0f}" for value in times]
        table.add_row(_escaped(label_of(entry)), *cells, memory, _escaped(str(entry.get("artifact") or "")))
    return table


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))

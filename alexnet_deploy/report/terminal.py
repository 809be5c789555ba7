"""A bench as a table on the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

# Columns of a terminal from which the interval and p90 have room too.
_WIDE = 96


def print_bench(document: dict[str, Any], console: Console) -> None:
    """Prints the rows that ran, fastest first within a batch, then what did not run and why."""
    rows = document["rows"]
    for batch in sorted({row["batch"] for row in rows}):
        ran = [row for row in rows if row["batch"] == batch and row["status"] == "ok"]
        if ran:
            ran.sort(key=lambda row: row["latency_ms"]["median"])
            console.print(_table(batch, ran, wide=console.width >= _WIDE))
    for line in reasons(rows):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for line in sentences(document):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _table(batch: int, rows: list[dict[str, Any]], *, wide: bool) -> Table:
    threads = rows[0]["threads"]
    plural = "s" if threads != 1 else ""
    table = Table(
        title=f"batch {batch}, {threads} thread{plural}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("session", no_wrap=True, min_width=20)
    columns = [("median ms", True), ("95 % interval", wide), ("p90", wide), ("p99", True), ("image/s", True)]
    columns += [("top-1 %", True), ("agree %", True), ("MB", True)]
    for name, shown in columns:
        if shown:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        latency = row["latency_ms"]
        cells = [
            f"{'~' if latency['noisy'] else ''}{_ms(latency['median'])}",
            f"{_ms(latency['ci95'][0])}-{_ms(latency['ci95'][1])}",
            _ms(latency["p90"]),
            _ms(latency["p99"]),
            f"{row['throughput_ips']:.0f}",
            percent(row["top1"]).removesuffix(" %"),
            percent(row["agreement"]).removesuffix(" %"),
            f"{row['size_bytes'] / 1e6:.0f}" if row["size_bytes"] else "",
        ]
        shown_cells = [cell for cell, (_, shown) in zip(cells, columns, strict=True) if shown]
        table.add_row(label_of(row), *shown_cells)
    if any(row["latency_ms"]["noisy"] for row in rows):
        table.caption = "~ noisy: half of the samples spread over more than a tenth of the median"
        table.caption_justify = "left"
    return table


def label_of(row: dict[str, Any]) -> str:
    """A row's runtime, precision, and what makes it another row than the one without."""
    graph = " cuda-graph" if row["hint"] == "cuda-graph" else ""
    return f"{row['runtime']} {row['precision']}{graph}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:.1f}"


def percent(fraction: float | None) -> str:
    """`0.9135` as `91.35 %`; empty for None."""
    return "" if fraction is None else f"{100 * fraction:.2f} %"


def reasons(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each session that did not run."""
    lines: dict[str, None] = {}
    for row in rows:
        if row["status"] != "ok":
            reason = str(row["reason"]).replace("\n", "; ")
            lines[f"{label_of(row)}: {row['status']}: {reason}"] = None
    return list(lines)


def sentences(document: dict[str, Any]) -> list[str]:
    """What the figures come to, in words: INT8 against FP32 for each runtime and batch."""
    by_key = {row["key"]: row for row in document["rows"] if row["status"] == "ok"}
    lines = []
    for row in by_key.values():
        base = by_key.get(f"{row['runtime']}/fp32/{row['batch']}")
        if row["precision"] != "int8" or base is None:
            continue
        ratio = base["latency_ms"]["median"] / row["latency_ms"]["median"]
        speed = f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"
        accuracy = ""
        if row["top1"] is not None and row["batch"] == document["options"]["batches"][0]:
            points = 100 * (row["top1"] - base["top1"])
            accuracy = f", top-1 {points:+.2f} points (p = {row['flips']['p_value']:.2f})"
        lines.append(f"{row['runtime']}: INT8 is {speed} than FP32 at batch {row['batch']}{accuracy}")
    return lines

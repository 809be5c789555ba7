"""Accuracy without times as a table on the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet_deploy.printable import printable
from alexnet_deploy.report.words import few_megabytes, label_of, percent, reasons


def print_accuracy(document: dict[str, Any], console: Console) -> None:
    """Prints the rows that ran in their order, and what did not run and why."""
    data = document["data"]
    skipped = f", {data['skipped']} damaged ones skipped" if data["skipped"] else ""
    table = Table(title=f"{data['images']} images{skipped}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("session", min_width=21, overflow="fold")
    for title in ("top-1 %", "top-5 %", "agree %", "SQNR dB", "lost", "won", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    rows = [row for row in document["rows"] if row["status"] == "ok"]
    for row in rows:
        shares = (percent(row[name]).removesuffix(" %") for name in ("top1", "top5", "agreement"))
        noise = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        size = few_megabytes(row["size_bytes"])
        flips = (str(row["flips"][side]) if row["flips"] else "" for side in ("lost", "won"))
        table.add_row(escape(printable(label_of(row))), *shares, noise, *flips, size)
    if rows:
        console.print(table)
        if reference := document.get("reference"):
            console.print(printable(f"agree, SQNR, lost and won: against {reference}"), highlight=False, markup=False)
    for line in reasons(document["rows"]):
        console.print(printable(line), soft_wrap=True, highlight=False, markup=False)

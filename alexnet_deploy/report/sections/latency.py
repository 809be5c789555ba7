"""How fast: the front, the distributions, the throughput, and the figures as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.markup import figure, heading, paragraph, runtime_cell, table
from alexnet_deploy.report.plots.canvas import shapes_in_words
from alexnet_deploy.report.plots.distributions import distributions
from alexnet_deploy.report.plots.pareto import pareto
from alexnet_deploy.report.plots.throughput import throughput
from alexnet_deploy.report.rows import Row, accuracy_name, batches_that_ran, rows_that_ran
from alexnet_deploy.report.words import label_of, megabytes, milliseconds, percent

_HEAD = (
    "runtime", "precision", "median ms", "95 % interval", "p90", "p99", "images/s", "of the limit", "top-1",
    "MB", "LRN",
)  # fmt: skip


def fronts(document: Mapping[str, Any]) -> str:
    """Latency against accuracy, a picture a batch size."""
    images = document["data"]["images"]
    parts = []
    for batch in batches_that_ran(document):
        label = f"Latency against {accuracy_name(document)} at batch {batch}"
        parts.append(_under(f"Batch {batch}", figure(label, pareto(document, batch))))
    shapes = shapes_in_words([row["precision"] for row in document["rows"] if row["status"] == "ok"])
    one = f" One image is {100 / images:.2g} points." if images else ""
    how = (
        f"Left is faster, up is more accurate. {shapes}; a hollow mark is the row with a hint. Rings and the "
        "broken line mark the front: the rows that no other beats in latency, accuracy and size. Whiskers are the "
        f"95\u00a0% interval of the median.{one} Point at a mark, or reach it with Tab, to read it."
    )
    return paragraph(how, "soft") + "".join(parts) if any(parts) else ""


def strips(document: Mapping[str, Any]) -> str:
    """Every sample, a picture a batch size."""
    how = (
        "Each dot is one run; those of the first turn lie on top, so that a drift of the machine shows as a slope. The "
        "band holds the middle half, the tall line is the median, the shorter ones are p90 and p99. ~ marks a noisy "
        "row: its band is wider than a tenth of the median."
    )
    parts = [
        _under(f"Batch {batch}", figure(f"Latencies at batch {batch}", distributions(document, batch)))
        for batch in batches_that_ran(document)
    ]
    return paragraph(how, "soft") + "".join(parts) if any(parts) else ""


def lines(document: Mapping[str, Any]) -> str:
    """Throughput against the batch size; empty for one batch size."""
    caption = (
        "Where a line is flat, a larger batch gains nothing but waiting. "
        f"{shapes_in_words([row['precision'] for row in document['rows'] if row['status'] == 'ok'])}; hollow marks are "
        "rows with a hint."
    )
    return figure("Throughput against batch size", throughput(document), caption)


def figures(document: Mapping[str, Any]) -> str:
    """All figures of the rows that ran, a table a batch size."""
    return "".join(
        _under(f"Batch {batch}", table(f"Figures at batch {batch}", _HEAD, [_cells(row) for row in rows], texts=2))
        for batch in batches_that_ran(document)
        if (rows := rows_that_ran(document, batch))
    )


def _under(title: str, html: str) -> str:
    return f"{heading(title)}{html}" if html else ""


def _cells(row: Row) -> list[str]:
    latency, limit = row["latency_ms"], row.get("roofline")
    loaded = f" ({row['in_flight']} at once)" if row.get("in_flight", 1) > 1 else ""
    return [
        runtime_cell(str(row["runtime"])),
        label_of(row).removeprefix(f"{row['runtime']} ") + loaded,
        f"{'~ ' if latency['noisy'] else ''}{milliseconds(latency['median'])}",
        f"{milliseconds(latency['ci95'][0])} to {milliseconds(latency['ci95'][1])}",
        milliseconds(latency["p90"]),
        milliseconds(latency["p99"]),
        f"{row['throughput_ips']:,.0f}" if row["throughput_ips"] is not None else "",
        f"{100 * limit['fraction']:.0f} % {limit['bound']}" if limit else "",
        percent(row["top1"]),
        megabytes(row["size_bytes"]),
        str(row["lrn"] or ""),
    ]

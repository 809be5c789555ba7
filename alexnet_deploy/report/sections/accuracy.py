"""How right: accuracy of every session, and what it is sensitive to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.markup import heading, paragraph, runtime_cell, table
from alexnet_deploy.report.rows import Row, sessions_that_ran
from alexnet_deploy.report.words import (
    accuracy_cells,
    label_of,
    label_of_session,
    lost_and_won,
    p_value,
    percent,
    plural,
    reference_of,
)

_HEAD = (
    "runtime", "precision", "top-1", "top-5", "agrees", "lost / won", "p", "SQNR dB", "cosine", "ECE",
)  # fmt: skip


def accuracy(document: Mapping[str, Any]) -> str:
    """The table of sessions, then that of sensitivity."""
    rows = [
        _cells(row) for row in sessions_that_ran(document) if row["agreement"] is not None or row["top1"] is not None
    ]
    if not rows:
        return ""
    how = (
        f"Agreement, cosine, SQNR and flips are against {reference_of(document)}. Lost and "
        "won are the images that only the reference, or only this session, gets right; p is McNemar's exact test of "
        "that difference: above 0.05 it may be chance. The expected calibration error (ECE) compares confidence "
        "with accuracy."
    )
    return table("Accuracy", _HEAD, rows, texts=2) + paragraph(how, "soft") + _sensitivity(document)


def _cells(row: Row) -> list[str]:
    return [
        runtime_cell(str(row["runtime"])),
        label_of(row).removeprefix(f"{row['runtime']} "),
        *accuracy_cells(row),
    ]


def _sensitivity(document: Mapping[str, Any]) -> str:
    found = document.get("sensitivity")
    if not found or not found["rows"]:
        return ""
    rows = [
        [
            str(row["what"]),
            str(row["kind"]),
            percent(row["top1"]),
            percent(row["agreement"]),
            lost_and_won(row["flips"]),
            p_value(row["flips"]),
        ]
        for row in found["rows"]
    ]
    how = (
        f"What a mistake in the preparation of images costs, beside what INT8 costs, on the same "
        f"{plural(found['images'], 'image')} in {label_of_session(document, found['session'])}."
    )
    title = "Sensitivity: preprocessing against quantization"
    head = ("what was changed", "kind", "top-1", "agrees", "lost / won", "p")
    return heading(title) + paragraph(how) + table(title, head, rows, texts=2)

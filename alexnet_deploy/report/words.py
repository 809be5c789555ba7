"""The words and figures that every form of a report shares: labels, numbers, sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Below it a p-value is written with its power of ten.
_SMALL_P = 0.01


def label_of(row: Mapping[str, Any]) -> str:
    """A row's or a session's runtime, precision, and what makes it another one than the one without."""
    words = [str(row["runtime"]), str(row["precision"])]
    if is_hinted(row):
        words.append(str(row["hint"]))
    return " ".join(words)


def is_hinted(row: Mapping[str, Any]) -> bool:
    """Whether a hint says more than the precision: OpenVINO's bf16 is both."""
    return row["hint"] is not None and row["hint"] != row["precision"]


def label_of_session(document: Mapping[str, Any], name: str) -> str:
    """The label of the session called `name`; the name itself where there is no such session."""
    for entry in [*(document.get("sessions") or []), *document["rows"]]:
        if session_of(entry) == name:
            return label_of(entry)
    return name.replace("/", " ")


def reference_of(document: Mapping[str, Any]) -> str:
    """What agreement is with, in words; older documents do not say it."""
    if "reference" not in document:
        return "the first session that ran"
    name = document["reference"]
    return label_of_session(document, str(name)) if name else "nothing, since no FP32 session ran"


def session_of(entry: Mapping[str, Any]) -> str:
    """The name of a session, or of the session that a row belongs to."""
    return str(entry["name"]) if "name" in entry else str(entry["key"]).rpartition("/")[0]


def milliseconds(value: float | None) -> str:
    """Two digits after the point below 100 ms; empty for None."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"


def percent(fraction: float | None) -> str:
    """`0.9135` as `91.35 %`; empty for None."""
    return "" if fraction is None else f"{100 * fraction:.2f} %"


def megabytes(size_bytes: float | None) -> str:
    """`56995843` as `57.0`; empty for None and 0."""
    return f"{size_bytes / 1e6:.1f}" if size_bytes else ""


def few_megabytes(size_bytes: float | None) -> str:
    """`56995843` as `57`, and what is below ten with a digit more; empty for None and 0."""
    return f"{size_bytes / 1e6:.0f}" if size_bytes and size_bytes >= 10e6 else megabytes(size_bytes)


def moment(made: str) -> str:
    """`2026-11-24T14:12:15+00:00` as `2026-11-24 14:12 UTC`; other texts as they are."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:\+00:00|Z)", made)
    return f"{found[1]} {found[2]} UTC" if found else made


def plural(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def with_prefix(value: float) -> str:
    """`2.1e10` as `21 G`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def lost_and_won(flips: Mapping[str, Any] | None) -> str:
    """`12 / 5`; empty for None."""
    return "" if not flips else f"{flips['lost']} / {flips['won']}"


def p_value(flips: Mapping[str, Any] | None) -> str:
    """Of the flips; empty for None."""
    if not flips or flips.get("p_value") is None:
        return ""
    value = float(flips["p_value"])
    return f"{value:.2f}" if value >= _SMALL_P else f"{value:.0e}"


def decibels(value: float | None) -> str:
    """One digit; empty for None, where nothing differs."""
    return "" if value is None else f"{value:.1f}"


def accuracy_cells(row: Mapping[str, Any]) -> list[str]:
    """Top-1, top-5, agreement, lost and won, p, SQNR, cosine and ECE of a row, in the order of every table."""
    return [
        percent(row["top1"]),
        percent(row["top5"]),
        percent(row["agreement"]),
        lost_and_won(row["flips"]),
        p_value(row["flips"]),
        decibels(row["sqnr_db"]),
        fixed(row.get("cosine"), 6),
        percent(row["ece"]),
    ]


def fixed(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def reasons(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each session that did not run."""
    lines: dict[str, None] = {}
    for row in rows:
        if row["status"] != "ok":
            reason = str(row["reason"]).replace("\n", "; ")
            lines[f"{label_of(row)}: {row['status']}: {reason}"] = None
    return list(lines)


def recommendations(document: Mapping[str, Any]) -> list[str]:
    """What to deploy, a sentence a batch size, as the bench found it."""
    return [str(entry["sentence"]) for entry in document.get("recommendation") or [] if entry.get("sentence")]


def warnings_of(document: Mapping[str, Any]) -> list[str]:
    """What was wrong with the conditions of the measurement."""
    return [str(line) for line in (document.get("conditions") or {}).get("warnings") or []]


def sentences(document: Mapping[str, Any]) -> list[str]:
    """What the figures come to, in words: INT8 against FP32 for each runtime and batch."""
    by_key = {row["key"]: row for row in document["rows"] if row["status"] == "ok"}
    lines = []
    for row in by_key.values():
        base = by_key.get(f"{row['runtime']}/fp32/{row['batch']}")
        # Under load a latency holds the waiting too, so that its ratio would say nothing.
        if row["precision"] != "int8" or base is None or row.get("in_flight", 1) > 1:
            continue
        ratio = base["latency_ms"]["median"] / row["latency_ms"]["median"]
        speed = f"{ratio:.2f}x faster than" if ratio >= 1 else f"{1 / ratio:.2f}x slower than"
        speed = speed if round(max(ratio, 1 / ratio), 2) > 1 else "as fast as"
        accuracy = ""
        flips = row["flips"]
        first = row["batch"] == document["options"]["batches"][0]
        images = row.get("images") or document["data"]["images"]
        if first and row["top1"] is not None and flips and images:
            # Both are against the reference, which may be another runtime's FP32.
            points = 100 * (flips["won"] - flips["lost"]) / images
            accuracy = f", top-1 {points:+.2f} points (p = {flips['p_value']:.2f})"
        graph = f" {row['hint']}" if is_hinted(row) else ""
        lines.append(f"{row['runtime']}: INT8{graph} is {speed} FP32 at batch {row['batch']}{accuracy}")
    reference = document.get("reference")
    if reference and reference not in map(session_of, document["rows"]):
        lines.append(f"agreement is with {label_of_session(document, str(reference))}, which was not timed")
    return lines

"""A bench as Markdown, for a pull request or a wiki: the page's figures without its pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_deploy.printable import printable
from alexnet_deploy.report.rows import batches_that_ran, front_of, rows_that_ran, sessions_that_ran
from alexnet_deploy.report.sections.start import sessions_of
from alexnet_deploy.report.words import (
    accuracy_cells,
    fixed,
    label_of,
    label_of_session,
    lost_and_won,
    megabytes,
    milliseconds,
    moment,
    p_value,
    percent,
    plural,
    reasons,
    recommendations,
    sentences,
    warnings_of,
)

# What GitHub would take for markup, a link, a mention, an entity or the end of a cell.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$&@!])")
# Would begin a list or a heading, or make a bare address a link.
_START = re.compile(r"^(\s*)([-+=]|\d+[.)](?=\s|$))")
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|www)([:.])")


def markdown_from_bench(document: dict[str, Any]) -> str:
    """Renders the figures as tables that GitHub shows; every text from the document is escaped.

    Args:
        document: Of `bench --json` (docs/formats.md). A part that it lacks is left out.
    """
    parts = [
        _head(document),
        _listed("## Conditions that were not clean", warnings_of(document)),
        _listed("## Recommendation", [*recommendations(document), *sentences(document)]),
        *(_batch(document, batch) for batch in batches_that_ran(document)),
        _starts(document),
        _accuracy(document),
        _sensitivity(document),
        _layers(document),
        _listed("## What did not run, and why", reasons(document["rows"])),
        _environment(document),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """Text as GitHub's Markdown shows it unchanged, in one line."""
    one_line = printable(" ".join(str(text).split()))
    found = _ADDRESS.sub(r"\1&#8203;\2", _MARKUP.sub(r"\\\1", one_line))
    return _START.sub(lambda match: f"{match[1]}{match[2][:-1]}\\{match[2][-1]}", found)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    lines = [head, rule, *([escaped(cell) for cell in cells] for cells in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _listed(title: str, lines: Sequence[str]) -> str:
    return f"{title}\n\n" + "\n".join(f"- {escaped(line)}" for line in lines) if lines else ""


def _head(document: Mapping[str, Any]) -> str:
    environment, data = document["environment"], document["data"]
    facts = (
        f"Measured {moment(str(document['made']))} on {environment['cpu']}, {plural(environment['cpus'], 'CPU')}; "
        f"accuracy on {plural(data['images'], 'image')}: {data['name']}."
    )
    return f"# {escaped(document['model']['name'])}\n\n{escaped(facts)}"


def _batch(document: Mapping[str, Any], batch: int) -> str:
    front = front_of(document, batch)
    rows = [
        [
            label_of(row),
            f"{'~' if row['latency_ms']['noisy'] else ''}{milliseconds(row['latency_ms']['median'])}",
            " to ".join(milliseconds(side) for side in row["latency_ms"]["ci95"]),
            milliseconds(row["latency_ms"]["p90"]),
            milliseconds(row["latency_ms"]["p99"]),
            fixed(row["throughput_ips"], 0),
            f"{100 * row['roofline']['fraction']:.0f} %" if row.get("roofline") else "",
            percent(row["top1"]),
            percent(row["agreement"]),
            megabytes(row["size_bytes"]),
            "yes" if row in front else "",
        ]
        for row in rows_that_ran(document, batch)
    ]
    head = ("session", "median ms", "95 % interval", "p90", "p99", "images/s", "of the limit", "top-1", "agrees", "MB",
            "front")  # fmt: skip
    return f"## Batch {batch}\n\n{_table(head, rows)}"


def _starts(document: Mapping[str, Any]) -> str:
    rows = [
        [
            label_of(entry),
            fixed(entry.get("load_ms"), 0),
            fixed(entry.get("first_inference_ms"), 0),
            fixed(entry["cold_start_ms"], 0),
            fixed(entry["peak_memory_bytes"] / 1e6 if entry["peak_memory_bytes"] else None, 0),
        ]
        for entry in sorted(sessions_of(document), key=lambda entry: float(entry["cold_start_ms"]))
    ]
    head = ("session", "load ms", "first inference ms", "cold start ms", "peak MB")
    return f"## Start and memory\n\n{_table(head, rows)}" if rows else ""


def _accuracy(document: Mapping[str, Any]) -> str:
    rows = [
        [label_of(row), *accuracy_cells(row)]
        for row in sessions_that_ran(document)
        if row["agreement"] is not None or row["top1"] is not None
    ]
    head = ("session", "top-1", "top-5", "agrees", "lost / won", "p", "SQNR dB", "cosine", "ECE")
    return f"## Accuracy\n\n{_table(head, rows)}" if rows else ""


def _sensitivity(document: Mapping[str, Any]) -> str:
    found = document.get("sensitivity")
    if not found or not found["rows"]:
        return ""
    rows = [
        [row["what"], row["kind"], percent(row["top1"]), percent(row["agreement"]), lost_and_won(row["flips"]),
         p_value(row["flips"])]
        for row in found["rows"]
    ]  # fmt: skip
    where = escaped(f"{label_of_session(document, found['session'])}, {plural(found['images'], 'image')}")
    head = ("what was changed", "kind", "top-1", "agrees", "lost / won", "p")
    return f"## Sensitivity\n\n{where}\n\n{_table(head, rows, 2)}"


def _layers(document: Mapping[str, Any]) -> str:
    parts = []
    for profile in document.get("profiles") or []:
        rows = [
            [layer["name"], fixed(layer["ms"], 3), fixed(layer["limit_ms"], 3), layer["bound"] or ""]
            for layer in profile["layers"]
        ]
        rows.append(["other", fixed(profile["other_ms"], 3), "", ""])
        title = escaped(f"{label_of_session(document, profile['session'])}, batch {profile['batch']}")
        parts.append(f"### {title}\n\n{_table(('layer', 'ms', 'limit ms', 'bound by'), rows)}")
    return "## Time by layer\n\n" + "\n\n".join(parts) if parts else ""


def _environment(document: Mapping[str, Any]) -> str:
    found, options = document["environment"], document["options"]
    rows = [
        ["CPU", f"{found['cpu']}, {found['cpus']} usable"],
        ["system", f"{found['system']}, Python {found['python']}"],
        ["packages", ", ".join(f"{name} {version}" for name, version in found["packages"].items())],
        ["measured", ", ".join(f"{name} {value}" for name, value in options.items())],
    ]
    return f"## Environment\n\n{_table(('what', 'value'), rows, 2)}"

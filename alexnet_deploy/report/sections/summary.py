"""What comes first: whether the figures can be trusted, what to deploy, and the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.markup import bullets, escape, paragraph
from alexnet_deploy.report.rows import (
    Row,
    accuracy_name,
    accuracy_of,
    front_of,
    most_images_a_second,
    recommended,
    rows_that_ran,
)
from alexnet_deploy.report.words import (
    label_of,
    megabytes,
    milliseconds,
    moment,
    p_value,
    percent,
    plural,
    recommendations,
    sentences,
    warnings_of,
)


def header(document: Mapping[str, Any]) -> str:
    """What was measured, when, where and on which images."""
    model, data, environment = document["model"], document["data"], document["environment"]
    skipped = f" ({data['skipped']} skipped)" if data.get("skipped") else ""
    facts = (
        f"Measured {moment(str(document['made']))} on {environment['cpu']}, {plural(environment['cpus'], 'CPU')}; "
        f"accuracy on {plural(data['images'], 'image')}{skipped}: {data['name']}."
    )
    return f"<header><h1>{escape(str(model['name']))}</h1>{paragraph(facts, 'soft')}</header>"


def warnings(document: Mapping[str, Any]) -> str:
    """What was wrong with the conditions, where it cannot be overlooked."""
    lines = warnings_of(document)
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        '<div class="warnings" role="note"><strong>The conditions of this measurement were not clean</strong>'
        f"<ul>{items}</ul></div>"
    )


def recommendation(document: Mapping[str, Any]) -> str:
    """The sentences and three or four figures; says so where nothing ran."""
    said, compared = recommendations(document), sentences(document)
    if not any(row["status"] == "ok" for row in document["rows"]):
        return _said([*said, "Nothing ran on this machine: the reasons are below."])
    if not said:
        return _said(compared) + _figures(document)
    return _said(said) + _figures(document) + bullets(compared, "soft")


def _said(lines: list[str]) -> str:
    return f'<div class="said">{"".join(map(paragraph, lines))}</div>' if lines else ""


def _figures(document: Mapping[str, Any]) -> str:
    batch = next(batch for batch in _batches(document) if rows_that_ran(document, batch))
    chosen = recommended(document, batch)
    front = front_of(document, batch)
    row = chosen or (front[0] if front else rows_that_ran(document, batch)[0])
    why = "recommended" if chosen else "fastest"
    latency = row["latency_ms"]
    interval = f"{milliseconds(latency['ci95'][0])} to {milliseconds(latency['ci95'][1])}"
    cards = [
        (
            f"median latency, batch {batch}",
            f"{milliseconds(latency['median'])} ms",
            f"{label_of(row)}, {why}; {interval}; p99 {milliseconds(latency['p99'])}",
        )
    ]
    if accuracy_of(document, row) is not None:
        cards.append((accuracy_name(document), percent(accuracy_of(document, row)), _flips(row)))
    most = most_images_a_second(document)
    if most is not None:
        note = f"{label_of(most)}, batch {most['batch']}"
        cards.append(("most images per second", f"{most['throughput_ips']:,.0f}", note))
    if row["size_bytes"]:
        start = f"; {row['cold_start_ms']:,.0f} ms to its first answer" if row["cold_start_ms"] else ""
        cards.append(("artifact", f"{megabytes(row['size_bytes'])} MB", f"{label_of(row)}{start}"))
    return f'<dl class="figures">{"".join(_card(*card) for card in cards)}</dl>'


def _batches(document: Mapping[str, Any]) -> list[int]:
    asked = list(document["options"]["batches"])
    return asked + sorted({row["batch"] for row in document["rows"]} - set(asked))


def _flips(row: Row) -> str:
    flips = row["flips"]
    if not flips:
        return label_of(row)
    return f"against the reference {flips['lost']} lost, {flips['won']} won (p = {p_value(flips)})"


def _card(title: str, value: str, note: str) -> str:
    return f'<div><dt>{escape(title)}</dt><dd class="value">{escape(value)}</dd><dd>{escape(note)}</dd></div>'

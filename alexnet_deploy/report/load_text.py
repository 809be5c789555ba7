"""What MLPerf's load generator said, as a table on the terminal and in Markdown."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alexnet_deploy.printable import printable
from alexnet_deploy.report.markdown import escaped
from alexnet_deploy.report.terminal import percent
from alexnet_deploy.report.words import warnings_of

# Columns of a terminal from which all percentiles have room.
_WIDE = 112
_ALWAYS = ("p50", "p99")
_PERCENTILES = ("p50", "p90", "p95", "p97", "p99", "p99.9")


def print_load(document: dict[str, Any], console: Console) -> None:
    """Prints the rows that ran, best first, then what is INVALID or did not run and why, and the rules in force."""
    ran = _ran(document)
    if ran:
        console.print(_table(document, ran, wide=console.width >= _WIDE))
    for line in sentences(document):
        console.print(printable(line), soft_wrap=True, highlight=False, markup=False)


def markdown_from_load(document: dict[str, Any]) -> str:
    """The same as Markdown: a table with every percentile, and a line a reason."""
    lines = [f"**{_title(document)}**", ""]
    ran = _ran(document)
    if ran:
        unit = ran[0]["metric"]["unit"]
        names = ["session", f"{ran[0]['metric']['name']} ({unit})", *(f"{name} ms" for name in _PERCENTILES)]
        names += ["queries", "top-1", "LoadGen says"]
        lines += [_line(names), "|---" * len(names) + "|"]
        for row in ran:
            lines.append(_line([row["session"], _figure(row), *_latencies(row, _PERCENTILES), *_rest(row)]))
        lines += ["", f"{_answers(ran)[0].upper()}{_answers(ran)[1:]}.", ""]
    lines += [f"- {escaped(line)}" for line in sentences(document)]
    return "\n".join(lines) + "\n"


def sentences(document: dict[str, Any]) -> list[str]:
    """What was wrong with the machine, why rows are INVALID or missing, what LoadGen logged as errors, and which rules
    asked for less than MLPerf's."""
    lines = [f"warning: {warning}" for warning in warnings_of(document)]
    for row in document["rows"]:
        if row["status"] != "ok":
            reason = str(row["reason"]).replace("\n", "; ")
            lines.append(f"{row['session']}: {row['status']}: {reason}")
        elif not row["valid"]:
            lines.append(f"{row['session']}: INVALID: {'; '.join(row['invalid_because'])}")
        elif row["loadgen"]["errors"]:
            lines.append(f"{row['session']}: LoadGen logged errors: {'; '.join(row['loadgen']['errors'])}")
    return [*lines, *_rules(document)]


def _rules(document: dict[str, Any]) -> list[str]:
    rules = document["rules"]
    units = {"min_duration_s": "min duration {:g} s", "min_queries": "min queries {:g}"}
    units |= {"performance_samples": "{:g} images in memory", "target_latency_ms": "latency to keep {:g} ms"}
    relaxed = [
        f"{units[name].format(rules[name])} (MLPerf: {rules[f'mlperf_{name}']:g})"
        for name in rules["relaxed"]
        if name in units
    ]
    if not relaxed:
        return [f"rules: those of MLPerf for {rules['mlperf_model']}"]
    return [f"rules: those of MLPerf for {rules['mlperf_model']}, but {', '.join(relaxed)}"]


def _ran(document: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [row for row in document["rows"] if row["status"] == "ok"]
    # Milliseconds are better the fewer, images/s the more; what is INVALID stands last.
    return sorted(
        rows,
        key=lambda row: (not row["valid"], row["metric"]["value"] * (1 if row["metric"]["unit"] == "ms" else -1)),
    )


def _title(document: dict[str, Any]) -> str:
    options, rules = document["options"], document["rules"]
    title = f"{options['scenario']}, at least {rules['min_duration_s']:g} s"
    if rules["target_latency_ms"] is not None:
        title += f", 99 % within {rules['target_latency_ms']:g} ms"
    versions = {row["loadgen"]["version"].split()[0] for row in document["rows"] if row["status"] == "ok"}
    return f"{title}, LoadGen {', '.join(sorted(versions))}" if versions else title


def _table(document: dict[str, Any], rows: list[dict[str, Any]], *, wide: bool) -> Table:
    percentiles = _PERCENTILES if wide else _ALWAYS
    title = _title(document)
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("session", no_wrap=True, min_width=20)
    for name in (rows[0]["metric"]["unit"], *percentiles, "queries", "top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("LoadGen", no_wrap=True)
    for row in rows:
        table.add_row(Text(printable(row["session"])), _figure(row), *_latencies(row, percentiles), *_rest(row))
    table.caption = f"{rows[0]['metric']['unit']}: {rows[0]['metric']['name']}; p50 to p99.9 in ms; {_answers(rows)}"
    table.caption_justify = "left"
    return table


def _answers(rows: list[dict[str, Any]]) -> str:
    """Of how many answers top-1 is: LoadGen keeps some, and an image may be among them more than once."""
    counts = sorted({row["accuracy"]["answers"] for row in rows})
    few_to_many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"top-1 is of {few_to_many} answers that LoadGen kept"


def _figure(row: dict[str, Any]) -> str:
    value, unit = row["metric"]["value"], row["metric"]["unit"]
    return f"{value:.2f}" if unit == "ms" else f"{value:.1f}"


def _latencies(row: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    values = (row["latency_ms"][name] for name in names)
    return [f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in values]


def _rest(row: dict[str, Any]) -> list[str]:
    return [str(row["queries"]), percent(row["accuracy"]["top1"]), "VALID" if row["valid"] else "INVALID"]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"

"""A comparison of two benches as a table, on the terminal and in Markdown, from the same cells."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alexnet_deploy.printable import printable
from alexnet_deploy.report.markdown import escaped

_HEAD = ("row", "verdict", "new / old", "interval", "raw", "accuracy")


def print_comparison(document: dict[str, Any], console: Console) -> None:
    """Prints the rows that ran in one of the benches, then the regressions."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for index, name in enumerate(_HEAD):
        table.add_column(name, justify="left" if index < 2 else "right", no_wrap=index > 0, overflow="fold")
    for row in document["rows"]:
        if row["verdict"] is not None:
            table.add_row(*(Text(printable(cell)) for cell in _cells(row)))
    console.print(table)
    for line in lines(document):
        console.print(printable(line), soft_wrap=True, highlight=False, markup=False)


def markdown_from_comparison(document: dict[str, Any]) -> str:
    """The same table and lines in Markdown."""
    rows = [_cells(row) for row in document["rows"] if row["verdict"] is not None]
    head, *body = (f"| {' | '.join(escaped(cell) for cell in cells)} |" for cells in (_HEAD, *rows))
    text = "\n".join([head, "|---" * len(_HEAD) + "|", *body])
    return "\n".join([text, "", *(f"- {escaped(line)}" for line in lines(document))]) + "\n"


def lines(document: dict[str, Any]) -> list[str]:
    """What the table comes to, in sentences."""
    bounds = document["bounds"]
    found = [
        f"{row['key']}: {'; '.join(row['reasons'])}".replace("\n", " ") for row in document["rows"] if row["regression"]
    ]
    compared = [row for row in document["rows"] if row["ratio"] is not None]
    if document["different"]:
        found.append(f"not measured alike, compared all the same: {'; '.join(document['different'])}")
    found += [
        f"the {which} bench was not clean: {'; '.join(doubts)}"
        for which, doubts in (document.get("doubts") or {}).items()
        if doubts
    ]
    left = sum(row["verdict"] == "not asked for" for row in document["rows"])
    if left:
        found.append(f"{left} rows of the old bench were not asked for in the new one, and are not judged")
    raw = [row["key"] for row in compared if not row["anchored"]]
    if raw:
        found.append(f"without an anchor, so that a slower machine reads as a slower row: {', '.join(raw)}")
    unsure = sum(row["verdict"] == "unsure" for row in compared)
    count = len(document["regressions"])
    verdict = "no regression" if count == 0 else f"{count} regression{'s' if count != 1 else ''}"
    slower, drop = 100 * bounds["slower"], 100 * bounds["drop"]
    return [
        *found,
        f"{verdict} in {len(compared)} rows that ran in both (bounds: {slower:g} % slower at "
        f"{100 * bounds['confidence']:g} % confidence, {drop:g} points of accuracy)"
        + (f"; {unsure} too noisy to be called the same: measure again, or with more --runs" if unsure else ""),
    ]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    verdict = f"{row['verdict']}{' (regression)' if row['regression'] else ''}"
    if row["ratio"] is None:
        return row["key"], verdict, "", "", "", ""
    accuracy = row["accuracy"]
    interval = "" if row["ci"] is None else f"{row['ci'][0]:.3f} to {row['ci'][1]:.3f}"
    change = "" if accuracy["change"] is None else f"{100 * accuracy['change']:+.2f}"
    return row["key"], verdict, f"{row['ratio']:.3f}", interval, f"{row['raw_ratio']:.3f}", change

"""Writes what every implementation does into docs/lrn.md.

usage: python -m tests.lrn.table
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from alexnet_deploy.optional import is_installed
from benchmarks.blocks import DOCS, replace_block
from tests.lrn.cases import QUESTIONS, Case, Outcome, outcome_of
from tests.lrn.implementations import IMPLEMENTATIONS, Implementation, versions

BEGIN, END = "<!-- lrn-table -->", "<!-- /lrn-table -->"
COLUMNS = (
    "implementation",
    "odd windows",
    "even windows",
    "wide window, one channel",
    "FP16 to 65,504",
    "NaN reaches",
    "notes",
)
_KINDS = {"vanishes": "zeros for numbers", "not finite": "NaN or infinity for numbers", "wrong": "wrong numbers"}
_NAN = {"onwards": "every channel behind"}


def markdown() -> str:
    """The table, its legend and the versions."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_row(implementation) for implementation in IMPLEMENTATIONS)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    legend = f"""
Numbers are the worst error of an element against the float64 oracle: a share of the oracle's value in FP32, units in
the last place in FP16. In even windows `ONNX's` and `torch's` say whose definition it meets. Taken with
{packages}; written by `make lrn-table`."""
    return "\n".join(lines) + "\n" + legend


def _row(implementation: Implementation) -> tuple[str, ...]:
    asked: dict[str, list[tuple[Case, Outcome]]] = {}
    for one, case in QUESTIONS:
        if one is implementation:
            asked.setdefault(case.group, []).append((case, outcome_of(implementation, case)))
    even = _numbers(asked["even"], "")
    if even[0].isdigit():
        even = f"{'torch' if implementation.window == 'torch' else 'ONNX'}'s, {even}"
    return (
        implementation.name,
        _numbers(asked["odd"], ""),
        even,
        _numbers(asked["edge"], ""),
        _numbers(asked["half"], " ulp"),
        _spread(asked["nan"]),
        implementation.note,
    )


def _numbers(answers: Sequence[tuple[Case, Outcome]], unit: str) -> str:
    """The worst error where the bound holds, and what happens elsewhere."""
    outcomes = [outcome for _, outcome in answers]
    met = [outcome.error for outcome in outcomes if outcome.kind == "conforms"]
    # Among many wrong answers the right ones are chance.
    parts = [_number(max(met), unit)] if 2 * len(met) > len(outcomes) else []
    refused = sum(outcome.kind == "refused" for outcome in outcomes)
    if refused:
        parts.append("refused" if refused == len(outcomes) else f"{refused} of {len(outcomes)} cases refused")
    off = [outcome for outcome in outcomes if outcome.kind not in ("conforms", "refused")]
    if off:
        inexact = [outcome.error for outcome in off if outcome.kind == "inexact"]
        what = [f"up to {_number(max(inexact), unit)}"] if inexact else []
        what += [text for kind, text in _KINDS.items() if any(outcome.kind == kind for outcome in off)]
        parts.append(f"in {len(off)} of {len(outcomes)} cases " + ", ".join(what))
    return "; ".join(parts)


def _number(error: float, unit: str) -> str:
    return f"{error:.1f}{unit}" if unit else f"{error:.1e}"


def _spread(answers: Sequence[tuple[Case, Outcome]]) -> str:
    """Where it gets to; cases that differ from the first are named."""
    groups: dict[str, list[str]] = {}
    for case, outcome in answers:
        # The columns before say so.
        if outcome.kind == "refused":
            continue
        groups.setdefault(_NAN.get(outcome.kind, outcome.kind), []).append(case.name.removeprefix("NaN, "))
    if not groups:
        return "refused"
    (first, _), *others = groups.items()
    return "; ".join([first, *(f"{kind}: {', '.join(names)}" for kind, names in others)])


def main() -> int:
    """Rewrites the block between the markers; the rest of the page stays."""
    missing = sorted({one.needs for one in IMPLEMENTATIONS if one.needs and not is_installed(one.needs)})
    if missing:
        print(f"the table needs {', '.join(missing)} too", file=sys.stderr)
        return 1
    torch.set_num_threads(2)
    replace_block(DOCS / "lrn.md", "lrn-table", markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())

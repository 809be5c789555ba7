"""Two benches of the same thing, row by row: faster, slower or the same, with confidence, and is the accuracy kept.

Every turn of a row is divided by what the anchor took around it, so that a machine that is slower today does not read
as a regression: by a geometric mean of the compute and the memory anchor, weighted by how much of the row's roofline is
memory. The ratio of two benches is estimated over their anchored turns, with the exact interval of a rank test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.candidate import BENCH_SCHEMA
from alexnet_deploy.bench.statistics import of_rounds
from alexnet_deploy.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPARE_SCHEMA = 1
FASTER, SLOWER, SAME, UNSURE, GONE, NEW = "faster", "slower", "same", "unsure", "gone", "new"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What counts as a regression.

    Attributes:
        slower: A row may take this share longer. Beyond it by estimate, and slower at all beyond doubt, is a regression.
        drop: Top-1, or agreement where there are no labels, may fall by this fraction.
        confidence: Of the intervals.
    """

    slower: float = 0.1
    drop: float = 0.0025
    confidence: float = 0.99

    def __post_init__(self) -> None:
        if not (0 <= self.slower <= 10 and 0 <= self.drop <= 1 and 0.5 <= self.confidence < 1):
            raise InputError(
                "no such bounds",
                got=f"slower {self.slower}, drop {self.drop}, confidence {self.confidence}",
                expected="slower 0 to 10, drop 0 to 1, confidence 0.5 to below 1",
            )


def comparison(old: dict[str, Any], new: dict[str, Any], bounds: Bounds, *, anyway: bool = False) -> dict[str, Any]:
    """The document of `compare`.

    Args:
        old, new: Documents of `bench --json`.
        bounds: What counts as a regression.
        anyway: Compare even where they did not measure the same thing; the document says what differs.

    Raises:
        InputError: They did not measure the same thing.
    """
    different = list(differences(old, new))
    if different and not anyway:
        raise InputError(
            "these two benches did not measure the same thing",
            got="; ".join(different),
            expected="the same machine, threads, scope, images and anchor",
            remedy="measure both on one machine with the same options, or compare them all the same with --anyway",
        )
    by_key = {row["key"]: row for row in old["rows"]}
    rows = [_compared(by_key.pop(row["key"], None), row, bounds, (old, new)) for row in new["rows"]]
    rows += [_compared(row, None, bounds, (old, new)) for row in by_key.values()]
    regressions = [row["key"] for row in rows if row["regression"]]
    return {
        "schema": COMPARE_SCHEMA,
        "kind": "compare",
        "old": {"made": old["made"], "model": old["model"].get("sha256")},
        "new": {"made": new["made"], "model": new["model"].get("sha256")},
        "bounds": {"slower": bounds.slower, "drop": bounds.drop, "confidence": bounds.confidence},
        "different": different,
        "anchored": any(row["anchored"] for row in rows),
        "rows": rows,
        "regressions": regressions,
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What must be the same in both and is not, in words. Another model or other packages may be what is compared."""
    for what, path in (
        ("CPU", ("environment", "cpu")),
        ("CPUs", ("environment", "cpus")),
        ("GPU", ("environment", "gpu")),
        ("threads", ("options", "threads")),
        ("scope", ("options", "scope")),
        ("images", ("data", "name")),
        ("number of images", ("data", "images")),
        ("anchor", ("anchor",)),
    ):
        before, after = (_at(document, path) for document in (old, new))
        if before != after:
            yield f"{what}: {before} and {after}"


def _at(document: dict[str, Any], path: Sequence[str]) -> Any:
    value: Any = document
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _compared(
    old: dict[str, Any] | None, new: dict[str, Any] | None, bounds: Bounds, documents: tuple[dict[str, Any], ...]
) -> dict[str, Any]:
    known = new or old
    assert known is not None
    row: dict[str, Any] = {
        "key": known["key"],
        "verdict": None,
        "ratio": None,
        "ci": None,
        "raw_ratio": None,
        "anchored": False,
        "accuracy": None,
        "regression": False,
        "reasons": [],
    }
    ran = [side is not None and side["status"] == "ok" for side in (old, new)]
    if not all(ran):
        return row | _missing(old, new, ran)
    assert old is not None and new is not None
    share = _memory_share(new, old)
    before, after = (_anchored(side, document, share) for side, document in zip((old, new), documents, strict=True))
    anchored = before is not None and after is not None
    if before is None or after is None:
        before, after = (
            of_rounds(np.asarray(side["samples_ms"]), _rounds(document, side))
            for side, document in zip((old, new), documents, strict=True)
        )
    ratio, interval = ratio_of_turns(before, after, bounds.confidence)
    verdict = _verdict(ratio, interval, bounds)
    accuracy = _accuracy(old, new)
    reasons = []
    if verdict == SLOWER and interval is not None:
        low, high = (100 * (side - 1) for side in interval)
        reasons.append(f"{100 * (ratio - 1):.0f} % slower ({low:.0f} to {high:.0f} %)")
    if accuracy["change"] is not None and accuracy["change"] < -bounds.drop:
        reasons.append(f"{accuracy['measure']} fell by {-100 * accuracy['change']:.2f} points")
    return row | {
        "verdict": verdict,
        "ratio": round(ratio, 4),
        "ci": None if interval is None else [round(side, 4) for side in interval],
        "raw_ratio": round(new["latency_ms"]["median"] / old["latency_ms"]["median"], 4),
        "anchored": anchored,
        "accuracy": accuracy,
        "regression": bool(reasons),
        "reasons": reasons,
    }


def _missing(old: dict[str, Any] | None, new: dict[str, Any] | None, ran: Sequence[bool]) -> dict[str, Any]:
    """A row that ran and does not any more is a regression: what a gate lets pass must have been measured."""
    if ran[0]:
        why = f"{new['status']}: {new['reason']}" if new is not None else "the row is not in the new bench"
        return {"verdict": GONE, "regression": True, "reasons": [f"it does not run any more ({why})"]}
    return {"verdict": NEW if ran[1] else None}


def _rounds(document: dict[str, Any], row: dict[str, Any]) -> int:
    return min(int(document["options"]["rounds"]), len(row["samples_ms"]))


def _memory_share(*rows: dict[str, Any]) -> float:
    """How much of the rows' limit is memory: of the first that says it, so that both are divided by the same."""
    known = [row["roofline"]["memory_share"] for row in rows if row.get("roofline")]
    return float(known[0]) if known else 0.5


def _anchored(row: dict[str, Any], document: dict[str, Any], share: float) -> NDArray[np.float64] | None:
    """The median of each turn over the anchor's time; None where no anchor was measured."""
    anchor = row.get("anchor_ms")
    turns = of_rounds(np.asarray(row["samples_ms"]), _rounds(document, row))
    if not anchor or len(anchor["compute"]) != len(turns):
        return None
    compute, memory = (np.asarray(anchor[piece], np.float64) for piece in ("compute", "memory"))
    return np.asarray(turns / (compute ** (1 - share) * memory**share), np.float64)


def ratio_of_turns(
    before: NDArray[np.float64], after: NDArray[np.float64], confidence: float
) -> tuple[float, tuple[float, float] | None]:
    """New over old, above 1 is slower: the Hodges-Lehmann estimate on logarithms, with its exact interval.

    The interval is that of the rank test of Mann and Whitney (D. Bauer, 1972): it supposes nothing of how the turns are
    distributed, and holds for a few of them, where a bootstrap of medians is too narrow.

    Returns:
        The ratio, and its interval; None where the turns are too few for the confidence.
    """
    pairs = np.sort(np.subtract.outer(np.log(after), np.log(before)).ravel())
    ratio = float(np.exp(np.median(pairs)))
    rank = _critical_rank(len(before), len(after), (1 - confidence) / 2)
    return ratio, (float(np.exp(pairs[rank - 1])), float(np.exp(pairs[-rank]))) if rank else None


def _critical_rank(first: int, second: int, tail: float) -> int:
    """The largest c with P(U <= c - 1) <= tail, where U is the statistic of Mann and Whitney; 0 where there is none."""
    # Ways to reach each U: coefficients of the Gaussian binomial.
    ways = np.zeros(first * second + 1)
    ways[0] = 1
    for k in range(1, second + 1):
        for u in range(len(ways) - 1, first + k - 1, -1):
            ways[u] -= ways[u - first - k]
        for u in range(k, len(ways)):
            ways[u] += ways[u - k]
    below = np.cumsum(ways) / ways.sum()
    return int(np.searchsorted(below, tail, side="right"))


def _verdict(ratio: float, interval: tuple[float, float] | None, bounds: Bounds) -> str:
    """Slower or faster: by more than the bound by estimate, and at all beyond doubt; the same: within it beyond doubt."""
    if interval is None:
        return UNSURE
    low, high = interval
    most, least = 1 + bounds.slower, 1 / (1 + bounds.slower)
    if ratio > most and low > 1:
        return SLOWER
    if ratio < least and high < 1:
        return FASTER
    return SAME if low >= least and high <= most else UNSURE


def _accuracy(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    measure = "top1" if new["top1"] is not None and old["top1"] is not None else "agreement"
    before, after = old[measure], new[measure]
    change = None if before is None or after is None else round(after - before, 6)
    return {"measure": measure, "old": before, "new": after, "change": change}


def read_bench(path: Path) -> dict[str, Any]:
    """A document that `bench` wrote.

    Raises:
        InputError: The file is none, or of an older schema.
    """
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise InputError(f"{path} is no bench", got=str(exc), expected="the JSON that `bench` writes") from exc
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != BENCH_SCHEMA or not isinstance(document.get("rows"), list):
        raise InputError(
            f"{path} is no bench that can be compared",
            got=f"schema {schema}",
            expected=f"schema {BENCH_SCHEMA}, with rows",
            remedy="measure it again with `alexnet-deploy bench`",
        )
    found: dict[str, Any] = document
    return found

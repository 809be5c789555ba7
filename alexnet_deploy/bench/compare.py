"""Two benches of the same thing, row by row: faster, slower or the same, with confidence, and is the accuracy kept.

Every turn of a row is divided by what the anchor took around it, so that a machine that is slower today does not read
as a regression: by a geometric mean of the compute and the memory anchor, weighted by how much of the row's roofline is
memory, and neither by less than a fifth. The ratio of two benches is estimated over their anchored turns, with the
exact interval of a rank test. Rows of a device are compared without the anchor, which is work for the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPARE_SCHEMA = 1
# Differences by which the anchors of two benches are not of the same work on the same machine.
_ANCHORED = {"CPU", "CPU family", "CPU flags", "CPUs", "threads", "anchor"}
_SCOPE = "scope"
# Of either anchor. Without it, rows of batch 16 were divided by one short measurement of arithmetic alone: of rows that
# were slowed by a fifth 79 % were caught in all pairs of eleven benches, with it 88 %, at no more false alarms
# (benchmarks/results/compare-trials.json). More would read a machine that lost a third of its memory's speed alone as
# beyond the default bound.
_LEAST_WEIGHT = 0.2
_EMPTY = ("verdict", "ratio", "ci", "raw_ratio", "accuracy")
FASTER, SLOWER, SAME, UNSURE, GONE, NEW = "faster", "slower", "same", "unsure", "gone", "new"
NOT_ASKED = "not asked for"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What counts as a regression.

    Attributes:
        slower: A row may take this share longer. By estimate more, and an interval above 1, is a regression.
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
        anyway: Compare even where they did not measure the same thing; the document says what differs. Another scope
            is never compared.

    Raises:
        InputError: They did not measure the same thing, or there is nothing to compare, or too little.
    """
    different = dict(differences(old, new))
    if different and (not anyway or _SCOPE in different):
        raise InputError(
            "these two benches did not measure the same thing",
            got="; ".join(different.values()),
            expected="the same machine, threads, scope, images and anchor",
            remedy="measure both on one machine with the same options"
            + ("" if _SCOPE in different else ", or compare them all the same with --anyway"),
        )
    pair = _Pair(old, new, bounds, use_anchors=not _ANCHORED & set(different))
    by_key = {row["key"]: row for row in old["rows"]}
    rows = [pair.row(by_key.pop(row["key"], None), row) for row in new["rows"]]
    rows += [pair.row(row, None) for row in by_key.values()]
    _require_an_answer(rows, pair)
    return {
        "schema": COMPARE_SCHEMA,
        "kind": "compare",
        "old": {"made": old["made"], "model": old["model"].get("sha256")},
        "new": {"made": new["made"], "model": new["model"].get("sha256")},
        "bounds": {"slower": bounds.slower, "drop": bounds.drop, "confidence": bounds.confidence},
        "different": list(different.values()),
        "doubts": {"old": _doubts(old), "new": _doubts(new)},
        "rows": rows,
        "regressions": [row["key"] for row in rows if row["regression"]],
    }


def _doubts(bench: dict[str, Any]) -> list[str]:
    """What was wrong with the conditions of a bench."""
    warnings = _at(bench, ("conditions", "warnings"))
    return [str(warning) for warning in warnings] if isinstance(warnings, list) else []


def _require_an_answer(rows: Sequence[dict[str, Any]], pair: _Pair) -> None:
    """A gate that could not fail is none.

    Raises:
        InputError: No row ran in both, or the turns are too few for the confidence.
    """
    compared = [row for row in rows if row["ratio"] is not None]
    if not compared and not any(row["regression"] for row in rows):
        raise InputError("there is nothing to compare", got="no row that ran in both benches")
    if any(row["ci"] is None for row in compared):
        raise InputError(
            "these benches have too few turns for that confidence",
            got=f"{pair.rounds[0]} and {pair.rounds[1]} turns",
            expected=f"{_least_turns(pair.bounds.confidence)} or more in each",
            remedy="measure more --runs, or ask for less --confidence",
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What must be the same in both and is not, by name and in words; another model may be what is compared."""
    for what, path in (
        ("CPU", ("environment", "cpu")),
        ("CPU family", ("environment", "cpu_family")),
        ("CPU flags", ("environment", "cpu_flags")),
        ("CPUs", ("environment", "cpus")),
        ("GPU", ("environment", "gpu")),
        ("GPUs", ("environment", "gpus")),
        ("threads", ("options", "threads")),
        (_SCOPE, ("options", "scope")),
        ("images", ("data", "name")),
        ("number of images", ("data", "images")),
        ("labels", ("data", "labelled")),
        ("anchor", ("anchor",)),
    ):
        before, after = (_at(document, path) for document in (old, new))
        if before != after:
            yield what, f"{what}: {before} and {after}"
    before, after = (
        {row["key"]: row.get("evaluated") for row in document["rows"] if row["status"] == "ok"}
        for document in (old, new)
    )
    other = [key for key in before if key in after and before[key] != after[key]]
    if other:
        yield "samples", f"samples: {', '.join(other)} were taken while evaluating in one, and in a loop in the other"


def _at(document: dict[str, Any], path: Sequence[str]) -> Any:
    value: Any = document
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


@dataclass(frozen=True)
class _Pair:
    """Two benches, and how their rows are compared."""

    old: dict[str, Any]
    new: dict[str, Any]
    bounds: Bounds
    use_anchors: bool

    @property
    def rounds(self) -> tuple[int, int]:
        return int(self.old["options"]["rounds"]), int(self.new["options"]["rounds"])

    def row(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
        """One row of the document."""
        known = new or old
        assert known is not None
        empty = {"key": known["key"], **dict.fromkeys(_EMPTY), "anchored": False, "regression": False, "reasons": []}
        ran = [side is not None and side["status"] == "ok" for side in (old, new)]
        if old is None or new is None or not all(ran):
            asked = new is not None or old is None or _is_asked(old, self.new)
            return empty | (_missing(new, ran) if asked else {"verdict": NOT_ASKED if ran[0] else None})
        before, after, anchored = self._turns(old, new)
        ratio, interval = ratio_of_turns(before, after, self.bounds.confidence)
        verdict, accuracy = _verdict(ratio, interval, self.bounds), self._accuracy(old, new)
        reasons = []
        if verdict == SLOWER and interval is not None:
            low, high = (100 * (side - 1) for side in interval)
            reasons.append(f"{100 * (ratio - 1):.0f} % slower ({low:.0f} to {high:.0f} %)")
        if accuracy["change"] is not None and accuracy["change"] < -self.bounds.drop:
            reasons.append(f"{accuracy['measure']} fell by {-100 * accuracy['change']:.2f} points")
        return empty | {
            "verdict": verdict,
            "ratio": round(ratio, 4),
            "ci": None if interval is None else [round(side, 4) for side in interval],
            "raw_ratio": round(new["latency_ms"]["median"] / old["latency_ms"]["median"], 4),
            "anchored": anchored,
            "accuracy": accuracy,
            "regression": bool(reasons),
            "reasons": reasons,
        }

    def _accuracy(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        """Top-1, or where there are no labels the agreement, which is comparable only with one and the same session."""
        labelled = new["top1"] is not None and old["top1"] is not None
        measure = "top1" if labelled else "agreement"
        before, after = old[measure], new[measure]
        references = {str(bench["reference"]) for bench in (self.old, self.new) if bench.get("reference")}
        unknown = before is None or after is None or (not labelled and len(references) > 1)
        change = None if unknown else round(after - before, 6)
        return {"measure": measure, "old": before, "new": after, "change": change}

    def _turns(self, old: dict[str, Any], new: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
        """The turns of both, over their anchors where both have them and these are of the same work."""
        turns = [turns_of(side, rounds) for side, rounds in zip((old, new), self.rounds, strict=True)]
        share = _memory_share(new, old)
        anchors = [_anchor(side, share) for side in (old, new)] if self.use_anchors else [None, None]
        over = [
            times / anchor
            for times, anchor in zip(turns, anchors, strict=True)
            if anchor is not None and len(anchor) == len(times)
        ]
        before, after = over if len(over) == len(turns) else turns
        return before, after, len(over) == len(turns)


def _is_asked(row: dict[str, Any], bench: dict[str, Any]) -> bool:
    """Whether a bench was asked for such a row; one of an earlier version does not say, and counts as asked for all."""
    asked = bench.get("asked")
    asked = asked if isinstance(asked, dict) else {}
    among = (
        (row.get("runtime"), asked.get("runtimes")),
        (row.get("precision"), asked.get("precisions")),
        (f"{row.get('runtime')}/{row.get('precision')}", asked.get("rows")),
        (row.get("batch"), bench["options"].get("batches")),
    )
    return all(not isinstance(names, list) or not names or value in names for value, names in among)


def _missing(new: dict[str, Any] | None, ran: Sequence[bool]) -> dict[str, Any]:
    """A row that ran and does not any more is a regression: what a gate lets pass must have been measured."""
    if ran[0]:
        why = f"{new['status']}: {new.get('reason')}" if new is not None else "the row is not in the new bench"
        return {"verdict": GONE, "regression": True, "reasons": [f"it does not run any more ({why})"]}
    return {"verdict": NEW if ran[1] else None}


def turns_of(row: dict[str, Any], rounds: int) -> NDArray[np.float64]:
    """The median of each turn; of requests in flight the mean, which is what their throughput goes by."""
    typical = np.mean if row.get("in_flight", 1) > 1 else np.median
    samples = np.asarray(row["samples_ms"], np.float64)
    return np.asarray([typical(turn) for turn in np.array_split(samples, min(rounds, len(samples)))])


def _memory_share(*rows: dict[str, Any]) -> float:
    """Weight of the memory anchor: how much of the rows' limit is memory, of the first that says it, so that both are
    divided by the same; kept within a fifth and four, since two anchors together are steadier than one of them."""
    known = [row["roofline"]["memory_share"] for row in rows if row.get("roofline")]
    return _LEAST_WEIGHT + (1 - 2 * _LEAST_WEIGHT) * (float(known[0]) if known else 0.5)


def _anchor(row: dict[str, Any], share: float) -> NDArray[np.float64] | None:
    """What the anchor took around each turn, its two pieces weighted; None where it was not measured."""
    anchor = row.get("anchor_ms")
    if not anchor or len(anchor["compute"]) != len(anchor["memory"]):
        return None
    compute, memory = (np.asarray(anchor[piece], np.float64) for piece in ("compute", "memory"))
    return np.asarray(compute ** (1 - share) * memory**share, np.float64)


def ratio_of_turns(
    before: NDArray[np.float64], after: NDArray[np.float64], confidence: float
) -> tuple[float, tuple[float, float] | None]:
    """New over old, above 1 is slower: the Hodges-Lehmann estimate on logarithms, with its exact interval.

    The interval is that of the rank test of Mann and Whitney (D. Bauer, 1972). It holds for any distribution of the
    turns, and for a few of them too, as long as they are drawn alike and apart from each other; what two processes of
    one session have in common with themselves alone is not in it.

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


def _least_turns(confidence: float) -> int:
    """Turns a side with which the interval exists."""
    return next(turns for turns in range(1, 100) if _critical_rank(turns, turns, (1 - confidence) / 2))


def _verdict(ratio: float, interval: tuple[float, float] | None, bounds: Bounds) -> str:
    """Slower or faster: by estimate beyond the bound, the interval on that side of 1. The same: all of it within."""
    if interval is None:
        return UNSURE
    low, high = interval
    most, least = 1 + bounds.slower, 1 / (1 + bounds.slower)
    if ratio > most and low > 1:
        return SLOWER
    if ratio < least and high < 1:
        return FASTER
    return SAME if low >= least and high <= most else UNSURE

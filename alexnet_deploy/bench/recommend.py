"""Which row to deploy: the Pareto front of latency, accuracy and size, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Top-1 that a row may lose against the reference without being passed over, as a fraction. Whether the loss is beyond
# chance does not count: of few images any loss is chance.
MAX_DROP = 0.005
# Below it another row's throughput is not worth a sentence.
_MORE = 1.05
# Medians further apart are not as low, however wide the interval of a noisy row is.
_AS_LOW = 1.05


def recommendations(rows: Sequence[dict[str, Any]], batches: Sequence[int], machine: str) -> list[dict[str, Any]]:
    """One entry for each batch: the key of the row to deploy, the Pareto front, and the sentence that says why.

    Args:
        rows: Of a bench.
        batches: Of the same bench.
        machine: What the sentence calls it.
    """
    found = []
    for batch in batches:
        ran = [row for row in rows if row["batch"] == batch and row["status"] == "ok"]
        single = [row for row in ran if row["in_flight"] == 1]
        front = pareto_front(single)
        chosen = _chosen(single)
        found.append(
            {
                "batch": batch,
                "key": chosen["key"] if chosen else None,
                "front": [row["key"] for row in front],
                "sentence": _sentence(machine, batch, chosen, ran),
            }
        )
    return found


def pareto_front(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that no other beats: none is as fast, as accurate and as small, and better in one of these.

    A row is as fast as another where the intervals of their medians overlap and the medians are within 5 %, and as
    accurate within `MAX_DROP`. The fastest is first.
    """
    front = [row for row in rows if not any(_beats(other, row) for other in rows if other is not row)]
    return sorted(front, key=lambda row: float(row["latency_ms"]["median"]))


def _is_slower(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether one row takes longer than another, beyond the intervals or by more than 5 %."""
    latency, rival = one["latency_ms"], other["latency_ms"]
    apart = latency["ci95"][0] > rival["ci95"][1]
    return bool(apart or latency["median"] > _AS_LOW * rival["median"])


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    slower, faster = _is_slower(one, other), _is_slower(other, one)
    accuracy, other_accuracy = quality_of(one), quality_of(other)
    size, other_size = _size(one), _size(other)
    if slower or accuracy < other_accuracy - MAX_DROP or size > other_size:
        return False
    return faster or accuracy > other_accuracy + MAX_DROP or size < other_size


def quality_of(row: dict[str, Any]) -> float:
    """Top-1, or where there are no labels the agreement with the reference; 0 where neither was measured."""
    return float(row["top1"] if row["top1"] is not None else row["agreement"] or 0.0)


def _size(row: dict[str, Any]) -> float:
    return float(row["size_bytes"] or 0)


def _chosen(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The fastest of those that keep the accuracy; of several that are as fast, the smallest."""
    sound = [row for row in rows if keeps_accuracy(row)]
    if not sound:
        return None
    best = min(sound, key=lambda row: float(row["latency_ms"]["median"]))
    tied = [row for row in sound if not _is_slower(row, best)]
    return min(tied, key=lambda row: (_size(row), float(row["latency_ms"]["median"])))


def keeps_accuracy(row: dict[str, Any]) -> bool:
    """Whether a row loses nothing that matters against the reference."""
    if row["agreement"] is None:
        return False
    flips = row["flips"]
    if row["top1"] is None:
        return bool(row["agreement"] >= 1 - MAX_DROP)
    return bool((flips["lost"] - flips["won"]) / max(1, row["images"]) <= MAX_DROP)


def _sentence(machine: str, batch: int, chosen: dict[str, Any] | None, ran: Sequence[dict[str, Any]]) -> str:
    if chosen is None:
        compared = any(row["agreement"] is not None for row in ran)
        why = "no row ran that keeps the accuracy" if compared else "no FP32 session ran to compare with"
        why = why if ran else "no row ran"
        return f"For {machine} and batch {batch} nothing can be recommended: {why}."
    latency = chosen["latency_ms"]
    parts = [f"its median of {latency['median']:.2f} ms is {_rival(chosen, ran)}", _loss(chosen)]
    if chosen["size_bytes"]:
        size = chosen["size_bytes"] / 1e6
        parts.append(f"its file is {size:.{0 if size >= 10 else 1}f} MB")
    best = max(filter(keeps_accuracy, ran), key=lambda row: float(row["throughput_ips"]))
    more = ""
    if best["throughput_ips"] > _MORE * chosen["throughput_ips"]:
        more = f" Where only images per second count, {_name(best)} gives {best['throughput_ips']:.0f}"
        more += f" against {chosen['throughput_ips']:.0f}."
    why = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"For {machine} and batch {batch}, deploy {_name(chosen)}, because {why}.{more}"


def _rival(chosen: dict[str, Any], ran: Sequence[dict[str, Any]]) -> str:
    """How the chosen row stands to the best of another runtime among those that keep the accuracy."""
    others = [
        row for row in ran if row["runtime"] != chosen["runtime"] and row["in_flight"] == 1 and keeps_accuracy(row)
    ]
    if not others:
        return "the lowest of those that keep the accuracy"
    rival = min(others, key=lambda row: float(row["latency_ms"]["median"]))
    ratio = rival["latency_ms"]["median"] / chosen["latency_ms"]["median"]
    if not _is_slower(rival, chosen):
        return f"as low as that of {_name(rival)}"
    return f"{ratio:.2f}x lower than that of {_name(rival)}, the best of another runtime"


def _loss(chosen: dict[str, Any]) -> str:
    if chosen["top1"] is None:
        return f"it agrees with the reference on {100 * chosen['agreement']:.2f} % of the images"
    flips = chosen["flips"]
    if flips["lost"] == flips["won"] == 0:
        return "it gets the same images right as the reference"
    points = 100 * (flips["won"] - flips["lost"]) / max(1, chosen["images"])
    return f"top-1 moves by {points:+.2f} points (p = {flips['p_value']:.2f})"


def _name(row: dict[str, Any]) -> str:
    hint = f" with the {row['hint']} hint" if row["hint"] else ""
    return f"{row['runtime']} {row['precision'].upper()}{hint}"

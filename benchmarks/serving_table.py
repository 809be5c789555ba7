"""What docs/serving.md shows of the records of `benchmarks.serving`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_NAMES = {"image": "an image of 28x28 (PNG)", "photo": "an image of 500x375 (JPEG)", "tensor": "a tensor (602 kB)"}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Each CPU's record, the latest first."""
    return "\n\n".join(
        "\n".join([_head(one), "", *_latencies(one), "", *_loads(one), "", _overload(one)]) for one in records
    )


def _head(record: dict[str, Any]) -> str:
    environment = record["environment"]
    family = environment["cpu_family"]
    note = f" It was {record['note']}." if "note" in record else ""
    vnni = "with" if any("vnni" in flag for flag in environment["cpu_flags"]) else "without"
    return (
        f"Medians over {record['rounds']} rounds on {record['threads']} CPUs ({environment['cpu']}, family {family}, "
        f"{vnni} VNNI), with the least and the most in brackets; [the record](../benchmarks/results/serving.json)."
        f"{note}"
    )


def _latencies(record: dict[str, Any]) -> list[str]:
    lines = [
        "| session | what is sent | in process p50 | served p50, p99 | ratio at p50 |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        for name, found in row["latency"].items():
            local, remote = found["in_process_ms"], found["served_ms"]
            lines.append(
                f"| {row['session']} | {_NAMES[name]} | {local['p50']:.1f} ms | {remote['p50']:.1f}, "
                f"{remote['p99']:.1f} ms | {words_of(found['p50_ratio'])} |"
            )
    return lines


def _loads(record: dict[str, Any]) -> list[str]:
    lines = [
        f"| session | clients | images/s served (offline, batch {record['batch']}; of images with decoding) | p99 "
        "| raw | replica's share of the CPUs | corrected | per CPU second | beside |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        for name, found in row["throughput"].items():
            served, offline = found["images_per_second"], row["offline_images_per_second"][found["offline"]]
            share = found["replica_share"]["median"]
            beside = words_of(found["beside"]) if "beside" in found else "not measured"
            lines.append(
                f"| {row['session']} | {name} | {served['median']:.0f} ({offline['median']:.0f}) "
                f"| {found['latency_ms']['p99']:.0f} ms | {words_of(found['raw'])} | {share:.2f} "
                f"| {words_of(found['corrected'])} | {words_of(found['per_cpu_second'])} | {beside} |"
            )
    return lines


def _overload(record: dict[str, Any]) -> str:
    found = [row["overload"] for row in record["rows"]]
    statuses: dict[str, int] = {}
    for one in found:
        for status, count in one["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    counts = ", ".join(f"{count} with {status}" for status, count in sorted(statuses.items()))
    lost, sent = (sum(one[name] for one in found) for name in ("lost", "sent"))
    return f"Of {sent} requests by 200 clients at once, {lost} were lost: {counts}."


def words_of(values: dict[str, float]) -> str:
    """The median, and the spread where it was kept."""
    if "min" not in values:
        return f"{values['median']:.2f}"
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"

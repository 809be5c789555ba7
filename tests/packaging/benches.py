"""Bench documents, cut down to what a package is tuned by."""

from __future__ import annotations

from typing import Any

from alexnet_deploy.bench.candidate import BENCH_SCHEMA


def bench_of(
    times: dict[str, float], digest: str, *, scope: str = "compute+copies", in_flight: int = 4, threads: int = 2
) -> dict[str, Any]:
    """A bench of one session.

    Args:
        times: Median milliseconds by key, as `onnxruntime-cpu/int8/16` or `openvino/fp32+throughput/1`. With the hint
            it is what passes from one finished request to the next.
        digest: Of the artifact that was measured.
        scope: What the times hold.
        in_flight: Requests at once of rows with the hint.
        threads: Of every row.
    """
    rows = []
    for key, milliseconds in times.items():
        runtime, named, batch = key.split("/")
        precision, _, hint = named.partition("+")
        flying = in_flight if hint else 1
        rows.append(
            {
                "key": key,
                "runtime": runtime,
                "precision": precision,
                "hint": hint or None,
                "batch": int(batch),
                "status": "ok",
                "reason": None,
                "in_flight": flying,
                "latency_ms": {"median": milliseconds * flying},
                "samples_ms": [milliseconds * flying] * 8,
                "anchor_ms": None,
                "throughput_ips": 1e3 * int(batch) / milliseconds,
                "top1": None,
                "agreement": None,
            }
        )
    names = {f"{row['runtime']}/{row['precision']}" for row in rows}
    return {
        "schema": BENCH_SCHEMA,
        "made": "2026-11-25T02:00:00+00:00",
        "environment": {"cpu": "a CPU"},
        "model": {},
        "data": {},
        "anchor": {},
        "options": {"rounds": 8, "scope": scope, "threads": threads, "batches": [1, 16]},
        "sessions": [{"name": name, "artifact": "graph.onnx"} for name in sorted(names)],
        "rows": rows,
        "passports": [{"file": "graph.onnx", "passport": {"sha256": digest}}],
    }

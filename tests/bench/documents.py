"""Benches with numbers that a seed gives: machines that drift, rows that are slowed on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np

# As `bench` measures by default.
ROUNDS, RUNS = 8, 32


def bench_of(
    rows: dict[str, float],
    *,
    seed: int,
    machine: float = 1.0,
    memory: float = 1.0,
    noise: float = 0.02,
    shares: dict[str, float] | None = None,
    top1: dict[str, float] | None = None,
) -> dict[str, Any]:
    """A bench whose rows take the given milliseconds.

    Args:
        rows: Milliseconds by key.
        seed: Of the noise.
        machine: How many times slower the machine's arithmetic is today.
        memory: And its memory.
        noise: Standard deviation of a sample, as a share.
        shares: How much of a row's time is memory; none by default.
        top1: By key; 0.9 by default.
    """
    random = np.random.default_rng(seed)
    found = []
    for key, milliseconds in rows.items():
        runtime, precision, batch = key.split("/")
        share = (shares or {}).get(key, 0.0)
        time = milliseconds * machine ** (1 - share) * memory**share
        samples = time * (1 + noise * random.standard_normal(RUNS))
        accuracy = (top1 or {}).get(key, 0.9)
        found.append(
            {
                "key": key,
                "runtime": runtime,
                "precision": precision,
                "batch": int(batch),
                "hint": None,
                "status": "ok",
                "reason": None,
                "in_flight": 1,
                "latency_ms": {"median": float(np.median(samples)), "ci95": [time * 0.99, time * 1.01]},
                "samples_ms": [float(sample) for sample in samples],
                "anchor_ms": {
                    "compute": [float(t) for t in 5 * machine * (1 + 0.5 * noise * random.standard_normal(ROUNDS))],
                    "memory": [float(t) for t in 4 * memory * (1 + 0.5 * noise * random.standard_normal(ROUNDS))],
                },
                "roofline": {"memory_share": share},
                "throughput_ips": 1e3 * int(batch) / time,
                "size_bytes": 57_000_000,
                "images": 2000,
                "top1": accuracy,
                "agreement": 0.99,
                "flips": {"lost": 0, "won": 0, "p_value": 1.0},
            }
        )
    return {
        "schema": 2,
        "made": "2026-11-24T12:00:00+00:00",
        "environment": {"cpu": "A processor", "cpus": 2},
        "anchor": {"version": 1, "torch": "2.14.1"},
        "model": {"sha256": "abc"},
        "data": {"name": "shipped evaluation", "images": 2000},
        "options": {"batches": [1, 16], "runs": RUNS, "rounds": ROUNDS, "threads": 2, "scope": "compute+copies"},
        "rows": found,
    }

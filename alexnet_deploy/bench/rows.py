"""What a bench writes down of a session: one entry for the session, one row for each batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.peaks import Peaks
from alexnet_deploy.bench.roofline import network_limit
from alexnet_deploy.bench.statistics import latency_from_samples
from alexnet_deploy.specs import Scope

_ACCURACY_KEYS = ("images", "top1", "top5", "agreement", "cosine", "sqnr_db", "ece", "flips")


def session_entry(candidate: Candidate) -> dict[str, Any]:
    """One entry of `sessions`: what starting it takes, and its memory."""
    spec, ok = candidate.spec, candidate.status == "ok"
    opened = candidate.opened if ok else None
    load = round(opened.load_ms, 1) if opened else None
    first = round(opened.first_inference_ms, 2) if opened else None
    return {
        "name": spec.name,
        "runtime": spec.runtime,
        "precision": spec.precision.value,
        "hint": spec.hint,
        "lrn": spec.lrn,
        "status": candidate.status,
        "reason": candidate.reason,
        "artifact": candidate.spec.path.name or None,
        "size_bytes": candidate.size_bytes,
        "load_ms": load,
        "first_inference_ms": first,
        "cold_start_ms": None if load is None or first is None else round(load + first, 1),
        "peak_memory_bytes": candidate.peak_memory_bytes if ok else None,
    }


def row_of(candidate: Candidate, batch: int, options: BenchOptions, peaks: Peaks | None) -> dict[str, Any]:
    """One row of `bench --json`."""
    spec, taken = candidate.spec, candidate.taken.get(batch)
    session = session_entry(candidate)
    ok = candidate.status == "ok" and taken is not None and bool(taken.milliseconds)
    row = {
        "key": f"{spec.name}/{batch}",
        **{name: session[name] for name in ("runtime", "precision", "hint", "lrn", "status", "reason")},
        "batch": batch,
        "threads": (candidate.opened.threads if candidate.opened else None) or options.threads,
        "scope": options.scope.value,
        "latency_ms": None,
        "samples_ms": [],
        "anchor_ms": None,
        "warm_up": None,
        "evaluated": False,
        "in_flight": candidate.opened.in_flight if candidate.opened else 1,
        "throughput_ips": None,
        **{name: session[name] for name in ("cold_start_ms", "peak_memory_bytes", "size_bytes")},
        **dict.fromkeys(_ACCURACY_KEYS),
        "roofline": None,
    }
    if not ok or taken is None:
        return row
    latency = latency_from_samples(np.asarray(taken.milliseconds))
    overlaps = row["in_flight"] > 1
    # Counted, since for requests that overlap time passes at once; but where samples leave copies out, so do images.
    apart = options.scope is Scope.COMPUTE and candidate.opened is not None and candidate.opened.copies
    rate = 1e3 / latency.median if apart else len(taken.milliseconds) / taken.seconds
    # Of an end-to-end time most is decoding, which the network's limit does not bound.
    bounded = bool(candidate.costs) and options.scope is not Scope.END_TO_END
    limit = network_limit(candidate.costs, batch, peaks) if bounded and peaks is not None else None
    per_batch_ms = 1e3 / rate if overlaps else latency.median
    return row | {
        "latency_ms": latency.to_json(),
        "samples_ms": [round(sample, 4) for sample in taken.milliseconds],
        "anchor_ms": taken.anchor_json(),
        "warm_up": {"runs": taken.warm_up, "stable": taken.stable},
        "evaluated": taken.evaluated,
        "throughput_ips": round(batch * rate, 2),
        **(candidate.accuracy.to_json() if candidate.accuracy else {}),
        "roofline": limit.to_json(per_batch_ms) if limit else None,
    }

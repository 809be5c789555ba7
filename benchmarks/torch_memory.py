"""What keeping freed memory does to inference by torch: processes with and without it, in turns.

Every process runs the shipped model in FP32 on one batch; page faults of its last run are counted beside the times.

usage: python -m benchmarks.torch_memory [TURNS]
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment, keep_freed_memory, usable_cpus
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision
from alexnet_deploy.weights import shipped_checkpoint

RESULT = Path(__file__).parent / "results" / "torch-memory.json"
BATCH, RUNS, WARM_UP = 16, 14, 3
WAYS = ("default", "kept")


def one_process(way: str) -> dict[str, Any]:
    """In a process of its own: the median of its runs, and page faults of the last one."""
    if way == "kept" and not keep_freed_memory():
        raise SystemExit("this C library does not keep freed memory")
    spec = SessionSpec(runtime="torch", precision=Precision.FP32, path=shipped_checkpoint(), threads=usable_cpus())
    images = np.random.default_rng(0).normal(size=(BATCH, 3, 224, 224)).astype(np.float32)
    times, faults = [], 0
    with open_session(spec) as session:
        for _ in range(WARM_UP + RUNS):
            before, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
            session.run(images)
            times.append(1e3 * (time.perf_counter() - started))
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {"median_ms": round(statistics.median(times[WARM_UP:]), 2), "page_faults": faults}


def main(turns: int) -> None:
    """Runs both ways in turns and writes medians and ratios."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(turns):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.torch_memory", "--process", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[way].append(json.loads(done.stdout))
            print(way, found[way][-1], flush=True)
    ratios = [a["median_ms"] / b["median_ms"] for a, b in zip(found["default"], found["kept"], strict=True)]
    document = {
        "schema": 1,
        "what": f"torch FP32, batch {BATCH}, {turns} processes each way in turns; default over kept",
        "environment": environment(),
        "processes": found,
        "ratio": {
            "median": round(statistics.median(ratios), 3),
            "min_max": [round(min(ratios), 3), round(max(ratios), 3)],
        },
    }
    write_json(RESULT, document)
    print(document["ratio"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        print(json.dumps(one_process(sys.argv[2])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)

"""A plain loop around `InferenceSession.run`, without anything of this project: what onnxruntime_perf_test does.

usage: python -m benchmarks.peer_loop GRAPH.onnx BATCH THREADS RUNS
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime

from benchmarks.peer_worker import report


def main(graph: str, batch: str, threads: str, runs: str) -> None:
    """Reports the median in milliseconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    values = np.random.default_rng(0).random((int(batch), *image.shape[1:]), np.float32)
    samples = []
    for _ in range(int(runs) + 1):
        started = time.perf_counter()
        session.run(None, {image.name: values})
        samples.append((time.perf_counter() - started) * 1e3)
    report({"median_ms": round(float(np.median(samples[1:])), 3)})


if __name__ == "__main__":
    main(*sys.argv[1:5])

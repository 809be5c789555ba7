"""How a row is run, in the words of the vendors' own tools, and what those tools measure."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import SessionError
from benchmarks.peer_jobs import OURS, RULE
from benchmarks.peer_rows import Way
from benchmarks.peer_worker import facts_of, last_lines

# benchmark_app comes with OpenVINO as a script, and as this; the script may not be on the path.
_BENCHMARK_APP = "from openvino.tools.benchmark.main import main; main()"
_SECONDS = 5
_LOOP_RUNS = 40
_NO_PERF_TEST = "onnxruntime_perf_test is not in ONNX Runtime's wheels; a plain loop of its calls stands in for it"


def settings(threads: int, runs: int, side: int) -> dict[str, Any]:
    """For the document: what each runtime is told, how to say the same to its own tool, and what each peer was told."""
    return {
        "rule": RULE,
        "onnxruntime-cpu": {
            "session": {"intra_op_num_threads": threads, "session.force_spinning_stop": "1"},
            "onnxruntime_perf_test": " ".join(_perf_test(threads, runs)),
            "notes": "-e cpu is the CPU provider alone; -x the threads of an operator; -y, left out, does nothing, as "
            "operators run one after another (no -P); -Z threads stop spinning when a run ends and spin within it, as "
            "ours do (-D would stop that too); -I makes the input, -f sets its free dimension, -S fills it; -r that "
            "many runs, where -t would be seconds; -c 1 and -o 99 are its defaults and ours",
        },
        "openvino": {
            "properties": {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "f32, or bf16 in rows with that hint",
            },
            "benchmark_app": " ".join(_benchmark_app("GRAPH", threads, "f32", "BATCH", side)),
            "notes": "-hint none, because benchmark_app takes -nstreams and -nthreads with no other; it prints "
            "PERFORMANCE_HINT LATENCY all the same; -infer_precision f32, or bf16, which OpenVINO takes by itself "
            "where the CPU has it; -api sync is one request at a time; -data_shape leaves the graph's batch dynamic, "
            "where -b or -shape would compile it for one; -inference_only true, as our input is not copied; -t seconds",
        },
        "quantize_static": "after quant_pre_process, QDQ, per_channel=True, weights int8; calibrate_method and "
        "activation_type as the row says, their options at their defaults (entropy 128 bins, percentile 99.999)",
        "nncf": "nncf.quantize of the OpenVINO model, preset and target_device at their defaults (performance, any)",
        "modelopt": "modelopt.onnx.quantization.quantize, int8, calibration_eps cpu, high_precision_dtype fp32",
        "ours": "alexnet-deploy export --precision int8 --target RUNTIME",
    }


def _perf_test(threads: int, runs: int) -> list[str]:
    return [
        "onnxruntime_perf_test", "-e", "cpu", "-I", "-S", "0", "-f", "batch:BATCH", "-m", "times", "-r", str(runs),
        "-x", str(threads), "-Z", "GRAPH",
    ]  # fmt: skip


def _benchmark_app(graph: str, threads: int, precision: str, batch: str, side: int) -> list[str]:
    return [
        "benchmark_app", "-m", graph, "-d", "CPU", "-hint", "none", "-nstreams", "1", "-nthreads", str(threads),
        "-infer_precision", precision, "-api", "sync", "-data_shape", f"[{batch},3,{side},{side}]",
        "-inference_only", "true", "-t", str(_SECONDS),
    ]  # fmt: skip


def cross_check(ways: Sequence[Way], rows: Sequence[dict[str, Any]], side: int) -> Iterator[dict[str, Any]]:
    """Our own artifacts once more, by the vendors' tools; after the run, so that machine and moment are others.

    Yields:
        Tool, its median, that of the row, and the one over the other; or the reason why there is none.
    """
    for way in ways:
        if way.tool != OURS:
            continue
        tool = "benchmark_app" if way.spec.runtime == "openvino" else "plain loop"
        what = {"tool": tool, "runtime": way.spec.runtime, "precision": way.spec.precision.value, "hint": way.spec.hint}
        for batch in sorted({int(row["batch"]) for row in rows}):
            row = next(row for row in rows if row["tool"] == OURS and _is(row, {**what, "batch": batch}))
            ours = float(row["latency_ms"]["median"])
            try:
                median = _app_median(way, batch, side) if tool == "benchmark_app" else _loop_median(way, batch)
            except SessionError as exc:
                yield {**what, "batch": batch, "reason": str(exc)}
                continue
            facts = {"median_ms": median, "ours_ms": ours, "ratio": round(median / ours, 3)}
            yield {**what, "batch": batch, **facts, **({"notes": _NO_PERF_TEST} if tool == "plain loop" else {})}


def _is(row: dict[str, Any], what: dict[str, Any]) -> bool:
    return all(row[key] == value for key, value in what.items() if key != "tool")


def _loop_median(way: Way, batch: int) -> float:
    facts = facts_of(sys.executable, "peer_loop", way.spec.path.resolve(), batch, way.spec.threads, _LOOP_RUNS)
    return float(facts["median_ms"])


def _app_median(way: Way, batch: int, side: int) -> float:
    arguments = _benchmark_app(str(way.spec.path.resolve()), way.spec.threads, way.spec.hint or "f32", str(batch), side)
    with tempfile.TemporaryDirectory() as folder:
        report = ["-report_type", "no_counters", "-json_stats", "true", "-report_folder", folder]
        command = [sys.executable, "-c", _BENCHMARK_APP, *arguments[1:], *report]
        run = subprocess.run(command, capture_output=True, text=True)
        written = Path(folder) / "benchmark_report.json"
        if run.returncode or not written.is_file():
            raise SessionError(
                "benchmark_app failed", got="; ".join(last_lines(run.stderr)), remedy=f"run it: {' '.join(arguments)}"
            )
        return float(json.loads(written.read_text())["execution_results"]["latency (ms)"])

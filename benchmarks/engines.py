"""What building an engine costs, in a process of its own as a user pays for it: time, memory, and finding it again.

usage: python -m benchmarks.engines [RUNS]   (writes results/engine-builds.json)

The graph of the precision is there already: exporting and calibrating are measured elsewhere.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment, peak_memory_bytes
from alexnet_deploy.network import AlexNet
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import PLAIN_ROUNDING, GraphOptions, Precision, Preprocessing, Target
from alexnet_deploy.variants import NetworkSpec
from alexnet_deploy.weights import ModelInfo, save_checkpoint

RESULTS = Path(__file__).parent / "results"
RUNS = 10
CLASSES = 1000
PRECISIONS = (Precision.FP32, Precision.FP16, Precision.INT8)
_POLL_SECONDS = 0.002


def main() -> None:
    """Writes the result."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = untrained(folder)
        deployment = Deployment(Workspace(folder=folder / "work", voice=Voice()), model=str(checkpoint))
        deployment.calibration(data="shipped", images=64)
        rows = [row_of(deployment, precision, runs) for precision in PRECISIONS]
    write_json(
        RESULTS / "engine-builds.json",
        {
            "schema": 1,
            "environment": environment(),
            "what": f"build-engine as a command, paper variant at {CLASSES} classes, untrained, for sm86, sm89, sm120; "
            "the graph is there. seconds of the whole process, interpreter included; peak is VmHWM",
            "runs": runs,
            "rows": rows,
        },
    )
    for row in rows:
        print(
            row["precision"], row["size_bytes"], row["build"]["median_s"], row["peak_bytes"], row["reuse"]["median_s"]
        )


def untrained(folder: Path) -> Path:
    """The full-size network: an engine's size and build do not depend on what its weights are."""
    torch.manual_seed(0)
    spec = NetworkSpec(variant="paper", classes=CLASSES)
    path = folder / "untrained.safetensors"
    save_checkpoint(
        AlexNet(spec).eval(), ModelInfo(name="untrained", network=spec, preprocessing=Preprocessing()), path
    )
    return path


def row_of(deployment: Deployment, precision: Precision, runs: int) -> dict[str, Any]:
    """Builds and finds an engine again in turns."""
    folder = deployment.workspace.folder
    deployment.graph(precision, Target.TENSORRT_RTX, options=GraphOptions(rounding=PLAIN_ROUNDING))
    command = [
        sys.executable, "-m", "alexnet_deploy", "build-engine", f"--{precision.value}", "--backend", "tensorrt-rtx",
        "--model", str(deployment.source), "--workdir", str(folder), "--quiet",
    ]  # fmt: skip
    if precision is Precision.INT8:
        command += ["--rounding", "nearest"]
    builds, reuses, peaks, inside = [], [], [], []
    facts: dict[str, Any] = {}
    for _ in range(runs):
        for path in folder.glob("*.engine*"):
            path.unlink()
        seconds, peak, output = timed(command)
        builds.append(seconds)
        peaks.append(peak)
        engine = Path(output)
        passport = read_passport(engine)
        assert passport is not None
        facts = passport.facts
        inside.append(facts["build_seconds"])
        reuses.append(timed(command)[0])
    return {
        "precision": precision.value,
        "size_bytes": engine.stat().st_size,
        "plan": facts["plan"],
        "build": spread(builds),
        "builder_alone": spread(inside),
        "peak_bytes": max(peaks),
        "reuse": spread(reuses),
    }


def timed(command: list[str]) -> tuple[float, int, str]:
    """Seconds, the most memory, and standard output of a process."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, peak_memory_bytes(process.pid) or 0)
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - started
        assert process.stdout is not None and process.returncode == 0
        return seconds, peak, process.stdout.read().strip()


def spread(seconds: list[float]) -> dict[str, Any]:
    """Median, extremes and samples."""
    return {
        "median_s": round(statistics.median(seconds), 3),
        "min_s": round(min(seconds), 3),
        "max_s": round(max(seconds), 3),
        "samples_s": [round(value, 3) for value in seconds],
    }


if __name__ == "__main__":
    main()

"""Measures the main job on this machine and keeps it: `bench` on the shipped model, and the engines' own plans.

usage: python -m benchmarks.record   (or: make bench)
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.bench.candidate import BenchOptions
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment, usable_cpus
from alexnet_deploy.pipeline.bench import bench_document
from alexnet_deploy.pipeline.candidates import candidates_of
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.report.terminal import reasons, sentences
from alexnet_deploy.specs import Precision

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Writes `results/main-job.json` and `results/engines.json`."""
    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(Workspace(folder=Path(folder), voice=Voice()))
        document = _measured(deployment)
        write_json(RESULTS / "main-job.json", document)
        write_json(
            RESULTS / "engines.json", {"schema": 1, "environment": environment(), "engines": _engines(deployment)}
        )
    for line in [*sentences(document), *reasons(document["rows"])]:
        print(line)


def _measured(deployment: Deployment) -> dict[str, Any]:
    """By the default settings, once the artifacts are there."""
    options = BenchOptions(threads=usable_cpus(), details=True)
    deployment.workspace.voice.say("making the artifacts")
    candidates_of(deployment, options)
    return bench_document(deployment, options)


def _engines(deployment: Deployment) -> list[dict[str, Any]]:
    rows = []
    for precision in (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8):
        artifact = deployment.engine(EngineOptions(precision=precision, backend="tensorrt-rtx"))
        passport = read_passport(artifact.path)
        assert passport is not None
        plan = passport.facts["plan"]
        rows.append(
            {
                "name": artifact.path.name,
                "size_bytes": artifact.path.stat().st_size,
                "build_seconds": passport.facts["build_seconds"],
                "tools": passport.tools,
                "plan": plan,
            }
        )
    return rows


if __name__ == "__main__":
    main()

"""The whole way on one model: graphs, calibration, engines, bench, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alexnet_deploy.artifacts import write_artifact
from alexnet_deploy.bench.candidate import BenchOptions
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.files import json_bytes, write_bytes
from alexnet_deploy.locks import locked
from alexnet_deploy.pipeline.bench import bench_document
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.report.html import page_from_bench
from alexnet_deploy.report.markdown import markdown_from_bench
from alexnet_deploy.specs import Precision

BENCH_NAME, REPORT_NAME = "bench.json", "report.html"
NOTHING_RAN_NAME = "bench.nothing-ran.json"


def write_bench(document: dict[str, Any], folder: Path, output: Path | None = None) -> tuple[Path, Path]:
    """Writes the bench as JSON with its passport, and as a page and in Markdown beside it.

    One in which no row ran takes a name of its own where none was given: it is no successor of the last one.
    """
    ran = any(row["status"] == "ok" for row in document["rows"])
    output = output or (None if ran else folder / NOTHING_RAN_NAME)
    path = output or folder / BENCH_NAME
    report = path.with_suffix(".html") if output else folder / REPORT_NAME
    facts = {"model": document["model"]["name"], "rows": len(document["rows"])}
    with locked(path):
        write_artifact(path, json_bytes(document), kind="bench", facts=facts)
    write_bytes(report, page_from_bench(document).encode())
    write_bytes(report.with_suffix(".md"), markdown_from_bench(document).encode())
    return path, report


def demo(deployment: Deployment, options: BenchOptions) -> tuple[dict[str, Any], Path]:
    """Takes the model the whole way and returns the bench and the path of the report."""
    say = deployment.workspace.voice.say
    say("1/4 export: ONNX with standard LRN nodes, compared with torch on real images")
    deployment.fp32_graph()
    say("2/4 calibrate: ranges of the activations")
    deployment.calibration()
    say("3/4 build: engines, and the proof of their precision")
    for precision in (Precision.FP16, Precision.INT8):
        deployment.engine(EngineOptions(precision=precision, backend="tensorrt-rtx"))
    say("4/4 bench: every runtime that is here, on the same images")
    document = bench_document(deployment, options)
    _, report = write_bench(document, deployment.workspace.folder)
    return document, report

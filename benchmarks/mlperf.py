"""Records what MLPerf's load generator says of the CPU runtimes: every scenario in the short setting, and tests of
valid length where they are asked for, which take ten minutes each.

usage: python -m benchmarks.mlperf [--workdir DIR] [--scenario S ...] [--valid-length RUNTIME/PRECISION/SCENARIO ...]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from alexnet_deploy.bench.loadgen_options import LoadOptions, Scenario
from alexnet_deploy.files import write_json
from alexnet_deploy.machine import machine_in_words, usable_cpus
from alexnet_deploy.pipeline.load import scenario_document
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Precision
from benchmarks.blocks import DOCS, replace_block

RESULT = Path(__file__).parent / "results" / "mlperf.json"
RUNTIMES, PRECISIONS = ("onnxruntime-cpu", "openvino"), (Precision.FP32, Precision.INT8)


@click.command()
@click.option("--workdir", type=click.Path(path_type=Path, file_okay=False), default=Path("artifacts"))
@click.option("--scenario", "scenarios", multiple=True, type=click.Choice([each.value for each in Scenario]))
@click.option("--valid-length", "long", multiple=True, metavar="RUNTIME/PRECISION/SCENARIO", help="For 600 s too.")
def main(workdir: Path, scenarios: Sequence[str], long: Sequence[str]) -> None:
    """Runs the tests, one after another, and keeps those of other scenarios that are recorded already."""
    deployment = Deployment(Workspace(folder=workdir, voice=Voice()))
    documents: dict[str, Any] = json.loads(RESULT.read_text())["tests"] if RESULT.exists() else {}
    every = [each.value for each in Scenario]
    for scenario in scenarios or ([] if long else every):
        documents[scenario] = _document(deployment, LoadOptions(scenario=Scenario(scenario)), RUNTIMES, PRECISIONS)
        _keep(documents)
    for test in long:
        runtime, precision, scenario = test.split("/")
        options = LoadOptions(scenario=Scenario(scenario), valid_length=True)
        documents[f"{test}, valid length"] = _document(deployment, options, [runtime], [Precision(precision)])
        _keep(documents)


def _document(
    deployment: Deployment, options: LoadOptions, runtimes: Sequence[str], precisions: Sequence[Precision]
) -> dict[str, Any]:
    return scenario_document(deployment, options, threads=usable_cpus(), runtimes=runtimes, precisions=precisions)


def _keep(documents: dict[str, Any]) -> None:
    write_json(RESULT, {"schema": 1, "what": "MLPerf's load generator over the shipped model", "tests": documents})
    replace_block(DOCS / "bench.md", "mlperf", _table(documents))


def _table(documents: dict[str, Any]) -> str:
    lines = [
        "| scenario | session | at least | LoadGen says | its metric | median, p99 | images |",
        "|---|---|---|---|---|---|---|",
    ]
    for document in documents.values():
        least = f"{document['rules']['min_duration_s']:g} s"
        for row in document["rows"]:
            if row["status"] != "ok":
                continue
            metric, latency = row["metric"], row["latency_ms"]
            # Offline is one query of all images: their times are places in it.
            times = "" if row["scenario"] == Scenario.OFFLINE else f"{latency['p50']:.4g}, {latency['p99']:.4g} ms"
            lines.append(
                f"| {row['scenario']} | {row['session']} | {least} | {'VALID' if row['valid'] else 'INVALID'} "
                f"| {metric['name']} {metric['value']:.4g} {metric['unit']} "
                f"| {times} | {row['samples']} |"
            )
    machines = ", ".join(sorted({machine_in_words(each["environment"]) for each in documents.values()}))
    return "\n".join([f"On {machines}; [the record](../benchmarks/results/mlperf.json).", "", *lines])


if __name__ == "__main__":
    main()

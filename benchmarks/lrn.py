"""What LRN costs: the whole network with every lowering, in every runtime that is here, interleaved.

Each group has one runtime and one precision; every way of a group runs in every turn, each in a process of its own.
Ratios are to the group's first way.

usage: python -m benchmarks.lrn [--json FILE|-] [--runs N] [--rounds N]
       (writes benchmarks/results/lrn.json and the table in docs/lrn.md unless --json names another file; - is standard
       output)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir

from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.runner import EvaluationData, RemoteRunner, evaluation_source
from alexnet_deploy.bench.statistics import ratio_from_samples
from alexnet_deploy.export import exported_by_torch, lowered
from alexnet_deploy.files import write_json
from alexnet_deploy.graph import read_graph, write_graph
from alexnet_deploy.lrn.roofline import BANDWIDTHS, traffic
from alexnet_deploy.machine import environment, usable_cpus
from alexnet_deploy.normalise import DEFAULT_OPSET
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Lowering, Precision, Target
from alexnet_deploy.variants import NetworkSpec
from alexnet_deploy.weights import load_model
from benchmarks import lrn_tried
from benchmarks.blocks import DOCS, replace_block

RESULT = Path(__file__).parent / "results" / "lrn.json"
IMAGES = 200
Way = Callable[[ir.Model], ir.Model]
NATIVE: dict[str, Way] = {"LRN node": lambda model: model}
LEFT_OUT: dict[str, Way] = {"LRN left out": lrn_tried.left_out}
BANDED: dict[str, Way] = {"banded, in groups": lambda model: lowered(model, Lowering.BANDED)}
# What the product writes comes after the node; what was tried besides, and the bound, come last.
FP32_ONNXRUNTIME = (
    NATIVE
    | {"torch's default export": lambda model: model}
    | BANDED
    | {
        "banded, NaN contained": lambda model: lowered(model, Lowering.BANDED, contain_nan=True),
        "plugin node, function body": lambda model: lowered(model, Lowering.PLUGIN),
        "tried: banded, dense": lrn_tried.dense,
        "tried: MatMul over NCHW": lrn_tried.matmul,
        "tried: a product last": lrn_tried.multiplied,
        "tried: Gemm over NHWC rows": lambda model: lowered(model, Lowering.BANDED, channels_last=True),
    }
    | LEFT_OUT
)
INT8_ONNXRUNTIME = (
    NATIVE
    | {"banded, NHWC rows": lambda model: lowered(model, Lowering.BANDED, channels_last=True)}
    | {
        "tried: banded, in groups": BANDED["banded, in groups"],
        "tried: banded, dense": lrn_tried.dense,
        "tried: MatMul over NCHW": lrn_tried.matmul,
        "tried: rows, input not scaled": lrn_tried.unscaled_rows,
    }
    | LEFT_OUT
)
GROUPS: dict[tuple[str, Precision], dict[str, Way]] = {
    ("onnxruntime-cpu", Precision.FP32): FP32_ONNXRUNTIME,
    ("onnxruntime-cpu", Precision.INT8): INT8_ONNXRUNTIME,
    ("openvino", Precision.FP32): NATIVE | BANDED | LEFT_OUT,
    ("openvino", Precision.INT8): NATIVE | BANDED | LEFT_OUT,
}


@click.command()
@click.option("--json", "target", default=str(RESULT), help="Where the document goes; - is standard output.")
@click.option("--runs", default=48, show_default=True, help="Samples a row.")
@click.option("--rounds", default=12, show_default=True, help="In how many turns.")
def main(target: str, runs: int, rounds: int) -> None:
    """Measures and writes the document."""
    options = BenchOptions(runs=runs, rounds=rounds, threads=usable_cpus())
    voice = Voice()
    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(Workspace(folder=Path(folder), voice=voice))
        rows = [
            row
            for (runtime, precision), ways in GROUPS.items()
            for row in _measured(deployment, runtime, precision, ways, options, voice)
        ]
    document = {
        "schema": 1,
        "what": f"paper variant, 10 classes; ratios to the first way of each group, {rounds} interleaved turns",
        "environment": environment(),
        "rows": rows,
    }
    if target == "-":
        click.echo(json.dumps(document, indent=1))
    else:
        write_json(Path(target), document)
    if target == str(RESULT):
        replace_block(DOCS / "lrn.md", "lrn-cost", _markdown(document))
        replace_block(DOCS / "lrn.md", "lrn-traffic", _traffic())
    for row in rows:
        ratio = row["ratio_to_first"]
        click.echo(
            f"{row['runtime']:16} {row['precision']:5} batch {row['batch']:2}  {row['latency_ms']['median']:8.2f} ms  "
            f"{ratio['median']:.3f}x [{ratio['ci95'][0]:.3f}, {ratio['ci95'][1]:.3f}]  {row['way']}",
            err=True,
        )


def _markdown(document: dict[str, Any]) -> str:
    """One row a way; columns are batches, as ratio to the group's first way and median milliseconds."""
    environment_, rows = document["environment"], document["rows"]
    batches = sorted({row["batch"] for row in rows})
    lines = ["| runtime | precision | LRN as | " + " | ".join(f"batch {batch}" for batch in batches) + " |"]
    lines.append("| --- | --- | --- |" + " --- |" * len(batches))
    for row in rows:
        if row["batch"] != batches[0]:
            continue
        same = [r for r in rows if all(r[key] == row[key] for key in ("runtime", "precision", "way"))]
        cells = [
            f"{r['ratio_to_first']['median']:.2f}x ({r['ratio_to_first']['ci95'][0]:.2f} to "
            f"{r['ratio_to_first']['ci95'][1]:.2f}), {r['latency_ms']['median']:.1f} ms"
            for r in sorted(same, key=lambda r: int(r["batch"]))
        ]
        lines.append(f"| {row['runtime']} | {row['precision'].upper()} | {row['way']} | " + " | ".join(cells) + " |")
    flags = ", ".join(environment_["cpu_flags"])
    lines += [
        "",
        f"Medians over {rows[0]['ratio_to_first']['rounds']} interleaved turns with the bootstrap 95 % interval, on "
        f"{environment_['cpus']} cores of an",
        f"{environment_['cpu']} ({flags}); [lrn.json](../benchmarks/results/lrn.json).",
    ]
    return "\n".join(lines)


def _traffic() -> str:
    """Both norms together, batch 16, FP16: computed, not measured."""
    ways: dict[str, int] = {}
    passes: dict[str, str] = {}
    for row in traffic(NetworkSpec(), Precision.FP16, 16):
        ways[row.way] = ways.get(row.way, 0) + row.size_bytes
        passes[row.way] = row.passes
    lines = ["| way | passes | MB | " + " | ".join(f"µs, {gpu}" for gpu in BANDWIDTHS) + " |"]
    lines.append("| --- | --- | --- |" + " --- |" * len(BANDWIDTHS))
    for way, size in ways.items():
        times = " | ".join(f"{size / bandwidth * 1e6:.1f}" for bandwidth in BANDWIDTHS.values())
        lines.append(f"| {way} | {passes[way]} | {size / 1e6:.1f} | {times} |")
    return "\n".join(lines)


def _measured(
    deployment: Deployment,
    runtime: str,
    precision: Precision,
    ways: dict[str, Way],
    options: BenchOptions,
    voice: Voice,
) -> list[dict[str, Any]]:
    folder = deployment.workspace.folder
    fp32 = read_graph(deployment.fp32_graph().path)
    base = fp32
    if precision is Precision.INT8:
        base = int8_from_fp32(fp32, CalibrationTable.read(deployment.calibration().path), Target(runtime))
    candidates = []
    for index, (name, way) in enumerate(ways.items()):
        path = folder / f"{runtime}-{precision.value}-{index}.onnx"
        graph = _as_torch_exports(deployment) if name == "torch's default export" else way(base)
        write_graph(graph, path)
        spec = SessionSpec(runtime=runtime, precision=precision, path=path, threads=options.threads)
        candidates.append(Candidate(spec=spec, size_bytes=path.stat().st_size))
    source = evaluation_source("shipped")
    data = EvaluationData(data="shipped", preprocessing=deployment.info.preprocessing, indices=np.arange(IMAGES))
    rows = rows_from_candidates(
        candidates, options, lambda spec: RemoteRunner(spec, data), source.labels[:IMAGES], voice=voice
    )
    names = [name for name in ways for _ in options.batches]
    first = {row["batch"]: row["samples_ms"] for row in rows[: len(options.batches)]}
    return [
        {
            "way": name,
            **{
                key: row[key]
                for key in ("runtime", "precision", "batch", "threads", "latency_ms", "top1", "samples_ms")
            },
            "ratio_to_first": ratio_from_samples(
                np.asarray(first[row["batch"]]), np.asarray(row["samples_ms"]), options.rounds
            ).to_json(),
        }
        for name, row in zip(names, rows, strict=True)
    ]


def _as_torch_exports(deployment: Deployment) -> ir.Model:
    network, _ = load_model(str(deployment.source))
    return exported_by_torch(network, DEFAULT_OPSET)


if __name__ == "__main__":
    main()

"""INT8 against the vendors' own tools: ONNX Runtime's quantize_static, NNCF and modelopt, each at its documented best.

Every peer gets the graph its user has, torch's default export and the graph with LRN nodes, and 300 images; the better
of the two counts. NNCF and modelopt do not share an environment with this project: name their interpreters, or they are
left out and the document says so.

usage: python -m benchmarks.peers [--nncf-python P] [--modelopt-python P] [--data shipped] [--json FILE|-]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from alexnet_deploy.artifacts import sha256_of, write_json
from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.runner import EvaluationData, RemoteRunner, evaluation_source
from alexnet_deploy.bench.statistics import ratio_from_samples
from alexnet_deploy.data.batches import load_batch
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ArraySource
from alexnet_deploy.export import exported_by_torch
from alexnet_deploy.graph import read_graph, write_graph
from alexnet_deploy.machine import environment, peak_memory_bytes, usable_cpus
from alexnet_deploy.normalise import DEFAULT_OPSET
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.precision.calibrate import table_from_images
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision, Target
from alexnet_deploy.weights import load_model
from benchmarks.side_by_side import accuracies

RESULT = Path(__file__).parent / "results" / "peers.json"
PEER_IMAGES = 300
HERE = Path(__file__).parent


@click.command()
@click.option("--nncf-python", help="Interpreter of an environment with nncf and openvino.")
@click.option("--modelopt-python", help="Interpreter of an environment with nvidia-modelopt[onnx].")
@click.option("--data", default="shipped", show_default=True, help="Evaluation images.")
@click.option("--json", "target", default=str(RESULT), help="Where the document goes; - is standard output.")
@click.option("--runs", default=48, show_default=True)
@click.option("--rounds", default=12, show_default=True)
@click.option("--calibration-only", is_flag=True, help="Measure calibration anew in a document that is there.")
@click.option("--worker", hidden=True)
@click.option("--graph", hidden=True)
@click.option("--count", default=512, hidden=True)
def main(
    nncf_python: str | None, modelopt_python: str | None, data: str, target: str, runs: int, rounds: int,
    calibration_only: bool, worker: str | None, graph: str | None, count: int,
) -> None:  # fmt: skip
    """Quantizes with every tool, measures all results in turns, and writes the document."""
    if worker is not None:
        click.echo(json.dumps(_calibrate_once(worker, str(graph), count)))
        return
    if calibration_only:
        with tempfile.TemporaryDirectory() as name:
            document = json.loads(Path(target).read_text())
            document["calibration"] = _calibration_costs(Deployment(Workspace(folder=Path(name))).fp32_graph().path)
            write_json(Path(target), document)
        return
    options = BenchOptions(runs=runs, rounds=rounds, threads=usable_cpus())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        deployment = Deployment(Workspace(folder=folder, voice=Voice()))
        graphs = {"LRN node": folder / "lrn.onnx", "torch's export": folder / "torch.onnx"}
        write_graph(read_graph(deployment.fp32_graph().path), graphs["LRN node"])
        write_graph(exported_by_torch(load_model(str(deployment.source))[0], DEFAULT_OPSET), graphs["torch's export"])
        images = folder / "images.npy"
        source = shipped_images(Split.CALIBRATION)
        np.save(images, load_batch(source, np.arange(PEER_IMAGES), deployment.info.preprocessing).images)
        made = _quantized(folder, graphs, images, nncf_python, modelopt_python)
        calibration = _calibration_costs(graphs["LRN node"])
        rows, ways = _measured(deployment, made, options)
        click.echo("latencies are measured; accuracy does not mind company", err=True)
        _add_accuracy(deployment, ways, rows, data)
    document = {
        "schema": 1,
        "what": f"the shipped model in INT8; ratios to ours in the same runtime and batch, {rounds} interleaved turns",
        "environment": environment(),
        "peers": {name: facts for name, (_, facts) in made.items()},
        "left_out": [n for n, python in (("nncf", nncf_python), ("modelopt", modelopt_python)) if python is None],
        "calibration": calibration,
        "rows": rows,
    }
    if target == "-":
        click.echo(json.dumps(document, indent=1))
    else:
        write_json(Path(target), document)
    for row in rows:
        ratio, top1 = row["ours_faster"], f"{100 * row['top1']:.2f}"
        click.echo(
            f"{row['runtime']:16} {row['hint'] or '':4} batch {row['batch']:2} {row['latency_ms']['median']:8.2f} ms  "
            f"ours {ratio['median']:.2f}x [{ratio['ci95'][0]:.2f}, {ratio['ci95'][1]:.2f}]  top-1 {top1} "
            f"drop {100 * row['drop']:+.2f} agreement {100 * row['agreement']:.2f}  {row['way']}",
            err=True,
        )
    click.echo(json.dumps(calibration, indent=1), err=True)


def _quantized(
    folder: Path, graphs: dict[str, Path], images: Path, nncf_python: str | None, modelopt_python: str | None
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """File and facts of every peer's result."""
    made: dict[str, tuple[Path, dict[str, Any]]] = {}
    for kind, graph in graphs.items():
        for activations in ("u8", "s8"):
            path = folder / f"static-{activations}-{graph.name}"
            made[f"quantize_static {activations}s8, {kind}"] = (
                path,
                _quantize_static(graph, images, path, activations),
            )
        if nncf_python is not None:
            path = folder / f"nncf-{graph.stem}.xml"
            made[f"nncf, {kind}"] = (path, _elsewhere(nncf_python, "peer_nncf.py", graph, images, path))
        if modelopt_python is not None:
            path = folder / f"modelopt-{graph.name}"
            made[f"modelopt, {kind}"] = (
                path,
                _elsewhere(modelopt_python, "peer_modelopt.py", graph, images, path, "entropy"),
            )
    return made


def _quantize_static(graph: Path, images: Path, path: Path, activations: str) -> dict[str, Any]:
    """Per channel, MinMax, after its own pre-processing, as its documentation recommends for CNNs."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    started = time.perf_counter()
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(graph), str(prepared))
    quantize_static(
        str(prepared),
        str(path),
        _reader(np.load(images)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8 if activations == "u8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return {"seconds": round(time.perf_counter() - started, 2)}


def _reader(images: Any) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(range(len(images)))

        def get_next(self) -> dict[str, Any] | None:
            index = next(self._left, None)
            return None if index is None else {"input": images[index : index + 1]}

    return Reader()


def _elsewhere(python: str, script: str, graph: Path, images: Path, path: Path, *arguments: str) -> dict[str, Any]:
    """Runs a peer on a copy: some write beside their input."""
    copy = path.parent / f"for-{script.removesuffix('.py')}-{graph.name}"
    copy.write_bytes(graph.read_bytes())
    command = [python, str(HERE / script), str(copy), str(images), str(path), *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode or not path.exists():
        raise click.ClickException(f"{script} failed:\n{run.stderr[-2000:]}")
    version, seconds, peak = run.stdout.strip().splitlines()[-1].split()
    return {"version": version, "seconds": float(seconds), "peak_memory_bytes": int(peak)}


def _ways(
    deployment: Deployment, made: dict[str, tuple[Path, dict[str, Any]]], threads: int
) -> list[tuple[str, SessionSpec]]:
    """Every file in its runtime, at each precision hint."""
    ways = []
    for runtime, hints in (("onnxruntime-cpu", (None,)), ("openvino", (None, "bf16"))):
        others = "nncf" if runtime == "onnxruntime-cpu" else "quantize_static"
        files = {
            "FP32": deployment.graph(Precision.FP32, Target(runtime)).path,
            "ours": deployment.graph(Precision.INT8, Target(runtime)).path,
            **{name: path for name, (path, _) in made.items() if not name.startswith(others)},
        }
        for hint in hints:
            for name, path in files.items():
                precision = Precision.FP32 if name == "FP32" else Precision.INT8
                spec = SessionSpec(runtime=runtime, precision=precision, path=path, threads=threads, hint=hint)
                ways.append((name, spec))
    return ways


def _measured(
    deployment: Deployment, made: dict[str, tuple[Path, dict[str, Any]]], options: BenchOptions
) -> tuple[list[dict[str, Any]], list[tuple[str, SessionSpec]]]:
    """Latencies of all ways of a runtime in turns, against the faster of ours."""
    images = EvaluationData(data="shipped", preprocessing=deployment.info.preprocessing, indices=np.arange(16))
    ways, rows = _ways(deployment, made, options.threads), []
    for runtime in ("onnxruntime-cpu", "openvino"):
        here = [(name, spec) for name, spec in ways if spec.runtime == runtime]
        candidates = [Candidate(spec=spec, size_bytes=spec.path.stat().st_size) for _, spec in here]
        found = rows_from_candidates(candidates, options, lambda spec: RemoteRunner(spec, images), None, voice=Voice())
        labels = [(name, spec.hint) for name, spec in here for _ in options.batches]
        best = {
            batch: min(
                (row for row, (name, _) in zip(found, labels, strict=True) if (name, row["batch"]) == ("ours", batch)),
                key=lambda row: float(row["latency_ms"]["median"]),
            )["samples_ms"]
            for batch in options.batches
        }
        for (name, hint), row in zip(labels, found, strict=True):
            ratio = ratio_from_samples(np.asarray(row["samples_ms"]), np.asarray(best[row["batch"]]), options.rounds)
            kept = ("runtime", "precision", "batch", "latency_ms", "size_bytes", "samples_ms")
            rows.append({"way": name, "hint": hint, **{key: row[key] for key in kept}, "ours_faster": ratio.to_json()})
    return rows, ways


def _add_accuracy(
    deployment: Deployment, ways: list[tuple[str, SessionSpec]], rows: list[dict[str, Any]], data: str
) -> None:
    """One pass of the test set through all sessions, against FP32 of ONNX Runtime."""
    source = evaluation_source(data)
    with ExitStack() as stack:
        runs = [stack.enter_context(open_session(spec)).run for _, spec in ways]
        found = accuracies(runs, source, deployment.info.preprocessing)
    for (name, spec), facts in zip(ways, found, strict=True):
        for row in rows:
            if (row["way"], row["runtime"], row["hint"]) == (name, spec.runtime, spec.hint):
                row |= facts


def _calibration_costs(graph: Path) -> list[dict[str, Any]]:
    """Seconds and peak memory, each in a process of its own, in turns."""
    requests = [("ours", 512), ("onnxruntime entropy", 512)] * 2 + [("ours", 256), ("ours", 2048)]
    rows = []
    for worker, count in requests:
        command = [sys.executable, "-m", "benchmarks.peers", "--worker", worker, "--graph", str(graph)]
        run = subprocess.run([*command, "--count", str(count)], check=True, capture_output=True, text=True)
        rows.append(json.loads(run.stdout.strip().splitlines()[-1]))
        click.echo(rows[-1], err=True)
    return rows


def _calibrate_once(worker: str, path: str, count: int) -> dict[str, Any]:
    """In a fresh process: what calibration alone takes, images preprocessed included."""
    graph = Path(path)
    preprocessing = Deployment(Workspace(folder=graph.parent)).info.preprocessing
    everything = [shipped_images(split) for split in (Split.CALIBRATION, Split.EVALUATION)]
    pixels = np.concatenate([source.images for source in everything])[:count]
    source = ArraySource(pixels, np.zeros(len(pixels), np.int64), ("any",), "any")
    # Neither side pays for loading libraries.
    import onnx_ir  # noqa: F401
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    started = time.perf_counter()
    if worker == "ours":
        table_from_images(read_graph(graph), source, preprocessing, sha256_of(graph))
    else:
        images = load_batch(source, np.arange(count), preprocessing).images
        started = time.perf_counter()
        calibrator = create_calibrator(
            str(graph),
            augmented_model_path=str(graph.with_suffix(".augmented")),
            calibrate_method=CalibrationMethod.Entropy,
        )
        calibrator.collect_data(_reader(images))
        calibrator.compute_data()
    seconds = time.perf_counter() - started
    peak = peak_memory_bytes() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"tool": worker, "images": count, "seconds": round(seconds, 2), "peak_memory_bytes": peak}


if __name__ == "__main__":
    main()

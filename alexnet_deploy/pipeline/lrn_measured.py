"""The lowering that is fastest on this machine, measured once and kept as an artifact."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy import export, graph
from alexnet_deploy.bench.bench import BenchOptions, Candidate, rows_from_candidates
from alexnet_deploy.bench.runner import EvaluationData, RemoteRunner
from alexnet_deploy.bench.statistics import ratio_from_samples
from alexnet_deploy.errors import InputError, SessionError
from alexnet_deploy.machine import environment, usable_cpus
from alexnet_deploy.pipeline.lrn_choice import MEASURED_TARGETS, LrnChoice
from alexnet_deploy.pipeline.workspace import Made, Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Lowering, Precision, Preprocessing, Target

if TYPE_CHECKING:
    import onnx_ir as ir

BATCH, RUNS, ROUNDS = 16, 24, 8
_CANDIDATES = (Lowering.NATIVE, Lowering.BANDED)


def measured_choice(
    workspace: Workspace, path: Path, model: ir.Model, parent: Path, preprocessing: Preprocessing, target: Target
) -> LrnChoice:
    """Times the whole FP32 network with each lowering in turns, and takes the faster one.

    The standard node stays where the banded form is not faster beyond doubt (the 95 % interval of their ratio).

    Args:
        workspace: Where the measurement is kept; the same machine and versions reuse it.
        path: The measurement's file.
        model: The FP32 graph.
        parent: Its file.
        preprocessing: Of the images that a session is warmed up with.
        target: `onnxruntime-cpu` or `openvino`.

    Raises:
        InputError: The target's runtime is not one that a CPU can be timed with.
        SessionError: A lowering does not run here.
    """
    if target not in MEASURED_TARGETS:
        raise InputError("no lowering can be timed for this target here", got=target.value, expected=MEASURED_TARGETS)
    machine = environment()

    def stage() -> Made:
        document = _measured(model, preprocessing, target, workspace.voice)
        return Made(data=(json.dumps(document, indent=1) + "\n").encode(), facts={"environment": machine})

    request = {"target": target.value, "environment": machine, "batch": BATCH, "runs": RUNS}
    workspace.make(path, "lrn-measurement", request, [parent], stage)
    found = json.loads(path.read_text())
    times = ", ".join(f"{name} {value:.4g} ms" for name, value in found["median_ms"].items())
    return LrnChoice(
        lowering=Lowering(found["chosen"]), reason=f"measured on this machine at batch {BATCH} in FP32: {times}"
    )


def _measured(model: ir.Model, preprocessing: Preprocessing, target: Target, voice: Voice) -> dict[str, Any]:
    threads = usable_cpus()
    with tempfile.TemporaryDirectory() as folder:
        candidates = []
        for lowering in _CANDIDATES:
            path = Path(folder) / f"{lowering.value}.onnx"
            graph.write_graph(export.lowered(model, lowering), path)
            spec = SessionSpec(runtime=target.value, precision=Precision.FP32, path=path, threads=threads)
            candidates.append(Candidate(spec=spec))
        data = EvaluationData(data="shipped", preprocessing=preprocessing, indices=np.arange(BATCH))
        options = BenchOptions(batches=(BATCH,), runs=RUNS, rounds=ROUNDS, threads=threads)
        rows = rows_from_candidates(candidates, options, lambda spec: RemoteRunner(spec, data), None, voice=voice)
    wrong = [row for row in rows if row["status"] != "ok"]
    if wrong:
        raise SessionError(f"LRN cannot be timed on {target.value}", got=wrong[0]["reason"])
    native, banded = (np.asarray(row["samples_ms"]) for row in rows)
    ratio = ratio_from_samples(native, banded, ROUNDS)
    return {
        "chosen": (Lowering.BANDED if ratio.ci95[0] > 1 else Lowering.NATIVE).value,
        "median_ms": {
            lowering.value: row["latency_ms"]["median"] for lowering, row in zip(_CANDIDATES, rows, strict=True)
        },
        "native_over_banded": ratio.to_json(),
        "samples_ms": {lowering.value: row["samples_ms"] for lowering, row in zip(_CANDIDATES, rows, strict=True)},
    }

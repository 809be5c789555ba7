"""The lowering that is fastest on this machine, measured once and kept as an artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy import export
from alexnet_deploy.bench.statistics import ratio_from_samples
from alexnet_deploy.errors import InputError
from alexnet_deploy.machine import environment
from alexnet_deploy.pipeline.lrn_choice import LrnChoice
from alexnet_deploy.pipeline.timed import BATCH, ROUNDS, RUNS, timed
from alexnet_deploy.pipeline.workspace import Made, Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import CPU_TARGETS, Lowering, Precision, Preprocessing, Target

if TYPE_CHECKING:
    import onnx_ir as ir

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
    if target not in CPU_TARGETS:
        raise InputError("no lowering can be timed for this target here", got=target.value, expected=CPU_TARGETS)
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
    variants = {f"LRN {lowering.value}": export.lowered(model, lowering) for lowering in _CANDIDATES}
    samples = timed(variants, target, Precision.FP32, preprocessing, voice)
    native, banded = samples.values()
    ratio = ratio_from_samples(native, banded, ROUNDS)
    by_lowering = dict(zip([lowering.value for lowering in _CANDIDATES], samples.values(), strict=True))
    return {
        "chosen": (Lowering.BANDED if ratio.ci95[0] > 1 else Lowering.NATIVE).value,
        "median_ms": {name: float(np.median(found)) for name, found in by_lowering.items()},
        "native_over_banded": ratio.to_json(),
        "samples_ms": {name: found.tolist() for name, found in by_lowering.items()},
    }

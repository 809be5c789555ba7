"""Where an int8 graph quantizes, found by timing: the few placements that matter, within a budget of accuracy."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.statistics import ratio_from_samples
from alexnet_deploy.errors import InputError
from alexnet_deploy.machine import environment
from alexnet_deploy.pipeline.timed import BATCH, ROUNDS, RUNS, timed
from alexnet_deploy.pipeline.workspace import Made, Workspace
from alexnet_deploy.precision.qdq import Placement
from alexnet_deploy.specs import CPU_TARGETS, Precision, Preprocessing, Target

if TYPE_CHECKING:
    import onnx_ir as ir

# Top-1 that a placement may lose on the guard images where no budget was named.
DEFAULT_DROP = 0.002


@dataclass(frozen=True, kw_only=True)
class PlacementSearch:
    """What a search needs of its caller.

    Attributes:
        build: The graph of a placement, as the target gets it.
        drop: Top-1 that this graph loses on the guard images.
        max_drop: How much it may lose.
    """

    build: Callable[[Placement], ir.Model]
    drop: Callable[[ir.Model], float]
    max_drop: float = DEFAULT_DROP


def placements(target: Target) -> list[Placement]:
    """Those that can differ in speed; the default is the first.

    ONNX Runtime's integer convolutions write integers in any case, so that before a norm there is nothing to choose.
    """
    norms = (False, True) if target is Target.OPENVINO else (False,)
    return [
        Placement(first_float=first, before_pool=pool, before_norm=norm)
        for first, pool, norm in itertools.product((False, True), (False, True), norms)
    ]


def measured_placement(
    workspace: Workspace,
    path: Path,
    parents: Iterable[Path],
    request: dict[str, Any],
    search: PlacementSearch,
    target: Target,
    preprocessing: Preprocessing,
) -> dict[str, Any]:
    """Times all placements in turns, and takes the fastest that keeps the budget of accuracy.

    The default stays unless another is faster beyond doubt (the 95 % interval of their ratio). Accuracy is evaluated
    from the fastest on, until one keeps the budget.

    Args:
        workspace: Where the measurement is kept; the same machine, versions and request reuse it.
        path: The measurement's file.
        parents: The FP32 graph and the calibration table.
        request: What the graphs depend on besides.
        search: How to build and judge a placement.
        target: `onnxruntime-cpu` or `openvino`.
        preprocessing: Of the images that a session is warmed up with.

    Returns:
        The document of the search; `chosen` holds the fields of a `Placement`.

    Raises:
        InputError: The target cannot be timed here.
        SessionError: A placement does not run.
    """
    if target not in CPU_TARGETS:
        raise InputError(
            "no placement can be timed for this target here", got=target.value, expected=", ".join(CPU_TARGETS)
        )
    machine = environment()

    def stage() -> Made:
        document = _searched(search, target, preprocessing, workspace)
        return Made(data=(json.dumps(document, indent=1) + "\n").encode(), facts={"environment": machine})

    asked = {"target": target.value, "environment": machine, "batch": BATCH, "runs": RUNS, "max_drop": search.max_drop}
    workspace.make(path, "placement-measurement", {**asked, **request}, list(parents), stage)
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _searched(
    search: PlacementSearch, target: Target, preprocessing: Preprocessing, workspace: Workspace
) -> dict[str, Any]:
    graphs = {placement: search.build(placement) for placement in placements(target)}
    default, *_ = graphs
    samples = timed(
        {placement.label: graph for placement, graph in graphs.items()},
        target,
        Precision.INT8,
        preprocessing,
        workspace.voice,
    )
    ratios = {
        placement: ratio_from_samples(samples[default.label], samples[placement.label], ROUNDS) for placement in graphs
    }
    faster = [placement for placement in graphs if placement != default and ratios[placement].ci95[0] > 1]
    chosen, drops = default, {default: search.drop(graphs[default])}
    for placement in sorted(faster, key=lambda found: -ratios[found].median):
        drops[placement] = search.drop(graphs[placement])
        if drops[placement] <= search.max_drop:
            chosen = placement
            break
    return {
        "chosen": asdict(chosen),
        "batch": BATCH,
        "max_drop": search.max_drop,
        "rows": [
            {
                **asdict(placement),
                "median_ms": float(np.median(samples[placement.label])),
                "faster": ratios[placement].to_json(),
                "drop": drops.get(placement),
            }
            for placement in graphs
        ],
    }

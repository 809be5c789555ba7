"""Variants of a graph timed in turns on this machine, for the choices that are made by measuring."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy import graph
from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.runner import EvaluationData, RemoteRunner
from alexnet_deploy.errors import SessionError
from alexnet_deploy.machine import usable_cpus
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision, Preprocessing, Target

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

BATCH, RUNS, ROUNDS = 16, 24, 8


def timed(
    variants: Mapping[str, ir.Model], target: Target, precision: Precision, preprocessing: Preprocessing, voice: Voice
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each run of each variant at batch 16, in the order of the turns.

    Args:
        variants: Graphs as the target gets them, by name.
        target: One of `CPU_TARGETS`.
        precision: Of the graphs.
        preprocessing: Of the images that a session is warmed up with.
        voice: Shows progress.

    Raises:
        SessionError: A variant does not run here.
    """
    threads = usable_cpus()
    with tempfile.TemporaryDirectory() as folder:
        candidates = []
        for index, variant in enumerate(variants.values()):
            path = Path(folder) / f"variant{index}.onnx"
            graph.write_graph(variant, path)
            spec = SessionSpec(runtime=target.value, precision=precision, path=path, threads=threads)
            candidates.append(Candidate(spec=spec))
        data = EvaluationData(data="shipped", preprocessing=preprocessing, indices=np.arange(BATCH))
        options = BenchOptions(batches=(BATCH,), runs=RUNS, rounds=ROUNDS, turn_seconds=0, threads=threads)
        rows = rows_from_candidates(candidates, options, lambda spec: RemoteRunner(spec, data), None, voice=voice)
    for name, row in zip(variants, rows, strict=True):
        if row["status"] != "ok":
            raise SessionError(f"{name} cannot be timed on {target.value}", got=row["reason"])
    return {name: np.asarray(row["samples_ms"]) for name, row in zip(variants, rows, strict=True)}

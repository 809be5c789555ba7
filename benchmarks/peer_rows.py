"""Latency and accuracy of every file in every runtime that takes it, and the ratios between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.runner import EvaluationData, RemoteRunner
from alexnet_deploy.bench.statistics import ratio_from_samples
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.files import sha256_of
from alexnet_deploy.machine import CPU_BF16_FLAGS, cpu_flags
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Lowering, Precision, Preprocessing, Target
from benchmarks.peer_jobs import LRN_NODE, MODELOPT, NNCF, OURS, STATIC, TORCH, Job, size_of
from benchmarks.side_by_side import accuracies

RUNTIMES = ("onnxruntime-cpu", "openvino")
BANDED = "banded"
# Of the row that the bench gives: what this document says in another way, or leaves empty.
_NOT_KEPT = ("key", "roofline", "lrn")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A file in a runtime.

    Attributes:
        label: As the tables say it.
        tool: Who made the file: `ours`, `torch`, `onnx` for the plain LRN node, or a peer.
        graph: How LRN stands in it.
        job: What the peer was asked.
    """

    label: str
    tool: str
    graph: str
    spec: SessionSpec
    job: Job | None = None

    @property
    def key(self) -> tuple[str | None, ...]:
        """What tells it from all others."""
        return (self.label, self.spec.runtime, self.spec.precision.value, self.spec.hint)

    def facts(self) -> dict[str, Any]:
        """The keys of a row that say what it is."""
        return {
            "way": self.label,
            "tool": self.tool,
            "graph": self.graph,
            "method": self.job and self.job.method,
            "types": self.job and self.job.types,
        }


def ways_in(
    runtime: str, deployment: Deployment, graphs: Mapping[str, Path], files: Mapping[Job, Path], threads: int
) -> list[Way]:
    """Every file that this runtime takes, at each of its precision hints; ours in FP32 first."""
    fp32, int8 = (deployment.graph(precision, Target(runtime)) for precision in (Precision.FP32, Precision.INT8))
    native = fp32.facts["lrn"] == Lowering.NATIVE.value
    hints = ("bf16",) if runtime == "openvino" and cpu_flags() & CPU_BF16_FLAGS else ()

    def way(label: str, tool: str, graph: str, path: Path, precision: Precision, job: Job | None = None) -> list[Way]:
        return [
            Way(
                label=label,
                tool=tool,
                graph=graph,
                job=job,
                spec=SessionSpec(runtime=runtime, precision=precision, path=path, threads=threads, hint=hint),
            )
            for hint in (None, *hints)
        ]

    def every() -> Iterator[list[Way]]:
        yield way(OURS, OURS, LRN_NODE if native else BANDED, fp32.path, Precision.FP32)
        if not native:
            yield way(LRN_NODE, "onnx", LRN_NODE, graphs[LRN_NODE], Precision.FP32)
        yield way(TORCH, "torch", TORCH, graphs[TORCH], Precision.FP32)
        graph = LRN_NODE if int8.facts["lrn"] == Lowering.NATIVE.value else BANDED
        yield way(OURS, OURS, graph, int8.path, Precision.INT8)
        for job, path in files.items():
            if takes(runtime, job):
                yield way(job.label, job.tool, job.graph, path, Precision.INT8, job)

    return [one for several in every() for one in several]


def takes(runtime: str, job: Job) -> bool:
    """NNCF writes OpenVINO's own format; of quantize_static OpenVINO gets what fits it, unsigned activations."""
    if runtime == "openvino":
        return job.tool in (NNCF, MODELOPT) or (job.method, job.types) == ("MinMax", "u8s8")
    return job.tool != NNCF


def timed(
    ways: Sequence[Way], options: BenchOptions, preprocessing: Preprocessing, voice: Voice
) -> list[dict[str, Any]]:
    """A row a way and batch, all measured in turns. The one place where the bench is called."""
    images = EvaluationData(data="shipped", preprocessing=preprocessing, indices=np.arange(max(options.batches)))
    candidates = [Candidate(spec=way.spec, size_bytes=size_of(way.spec.path)) for way in ways]
    rows = rows_from_candidates(candidates, options, lambda spec: RemoteRunner(spec, images), None, voice=voice)
    labels = [way for way in ways for _ in options.batches]
    return [
        {**way.facts(), **{key: value for key, value in row.items() if key not in _NOT_KEPT}}
        for way, row in zip(labels, rows, strict=True)
    ]


def _files_of(path: Path) -> list[Path]:
    """The file, and the weights that OpenVINO's format keeps beside it."""
    weights = path.with_suffix(".bin")
    return [path, weights] if path.suffix == ".xml" and weights.is_file() else [path]


def fingerprint_of(ways: Sequence[Way]) -> list[Any]:
    """What a measurement of these ways depends on."""
    return [
        [way.label, way.spec.runtime, way.spec.hint, way.spec.threads, *map(sha256_of, _files_of(way.spec.path))]
        for way in ways
    ]  # fmt: skip


def accuracy_of(ways: Sequence[Way], source: ImageSource, preprocessing: Preprocessing) -> list[dict[str, Any]]:
    """One pass of the test set through all sessions, against the first, which is FP32 in ONNX Runtime."""
    with ExitStack() as stack:
        runs = [stack.enter_context(open_session(way.spec)).run for way in ways]
        return accuracies(runs, source, preprocessing)


def with_ratios(rows: Sequence[dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
    """Adds `ours_faster`: against ours in the same precision with the same hint."""
    return [{**row, "ours_faster": _ratio(row, _ours(rows, row), rounds)} for row in rows]


def _ours(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    return _fastest(rows, tool=OURS, **{key: row[key] for key in ("runtime", "precision", "batch", "hint")})


def _fastest(rows: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return min(found, key=lambda row: float(row["latency_ms"]["median"]))


def _ratio(row: dict[str, Any], ours: dict[str, Any], rounds: int) -> dict[str, Any]:
    return ratio_from_samples(np.asarray(row["samples_ms"]), np.asarray(ours["samples_ms"]), rounds).to_json()


def headlines(rows: Sequence[dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
    """The ratios that the documents speak of: how many times faster ours is than what a user would take otherwise."""
    found = []
    for runtime, batch in dict.fromkeys((row["runtime"], row["batch"]) for row in rows):
        here = [row for row in rows if (row["runtime"], row["batch"]) == (runtime, batch)]
        ours32 = _fastest(here, tool=OURS, precision="fp32", hint=None)
        ours8 = _fastest(here, tool=OURS, precision="int8")
        hints = dict.fromkeys(row["hint"] for row in here if row["tool"] == OURS)
        for tool in ("torch", "onnx"):
            if any(row["tool"] == tool for row in here):
                other = _fastest(here, tool=tool, precision="fp32", hint=None)
                found.append(_headline("lrn", f"FP32 against {other['way']}", other, ours32, rounds))
        for hint in hints:
            # Each beside its own: with the bf16 hint what is FP32 is bf16, on both sides.
            pair = [_fastest(here, tool=OURS, precision=precision, hint=hint) for precision in ("fp32", "int8")]
            name = "BF16" if hint else "FP32"
            found.append(_headline("int8", f"against ours in {name}", pair[0], pair[1], rounds))
        for tool in (STATIC, NNCF, MODELOPT):
            if any(row["tool"] == tool for row in here):
                other = _fastest(here, tool=tool)
                found.append(_headline("int8", f"against {tool}", other, ours8, rounds))
    return found


def _headline(subject: str, what: str, other: dict[str, Any], ours: dict[str, Any], rounds: int) -> dict[str, Any]:
    return {
        "subject": subject,
        "what": what,
        "runtime": ours["runtime"],
        "batch": ours["batch"],
        "other": {"way": other["way"], "hint": other["hint"], "drop": other.get("drop")},
        "ours": {"hint": ours["hint"], "drop": ours.get("drop")},
        "ours_faster": _ratio(other, ours, rounds),
    }

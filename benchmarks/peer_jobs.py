"""What the peers quantize, by which rule, and what that costs."""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alexnet_deploy.artifacts import passport_path
from alexnet_deploy.errors import AlexnetDeployError, SessionError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.machine import environment
from alexnet_deploy.progress import Voice
from benchmarks.engines import spread
from benchmarks.peer_environments import Environment
from benchmarks.peer_work import Work
from benchmarks.peer_worker import facts_of

LRN_NODE, TORCH = "LRN node", "torch's export"
STATIC, NNCF, MODELOPT, OURS = "quantize_static", "nncf", "modelopt", "ours"
_WORKERS = {STATIC: "peer_static", NNCF: "peer_nncf", MODELOPT: "peer_modelopt"}
_OURS_WORKER = "peer_ours"
RULE = (
    "quantize_static runs with MinMax on both graphs and with both types of activations. Entropy and Percentile, which "
    "change the thresholds and not the graph, run on the one of these four with the smallest geometric mean of its "
    "medians over the batches, in a short interleaved timing in ONNX Runtime before the run. NNCF and modelopt's "
    "entropy, its default, run on both graphs, modelopt's max on the LRN node. A tool without further words in the "
    "ratios is its fastest row in that runtime and batch, whatever its graph, method or precision hint."
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One graph quantized by one tool.

    Attributes:
        tool: `quantize_static`, `nncf` or `modelopt`.
        graph: `LRN node` or `torch's export`.
        method: Of its thresholds, as the tool calls it.
        types: Of activations and weights, where the tool offers several.
    """

    tool: str
    graph: str
    method: str | None = None
    types: str | None = None

    @property
    def label(self) -> str:
        """As the tables say it."""
        return f"{' '.join(filter(None, (self.tool, self.method, self.types)))}, {self.graph}"

    @property
    def file(self) -> str:
        """Name of the result."""
        kind = "torch" if self.graph == TORCH else "lrn"
        suffix = ".xml" if self.tool == NNCF else ".onnx"
        return "-".join(filter(None, (self.tool, self.method, self.types, kind))) + suffix


MINMAX = [
    Job(tool=STATIC, graph=graph, method="MinMax", types=types)
    for graph in (LRN_NODE, TORCH)
    for types in ("u8s8", "s8s8")
]
NNCF_JOBS = [Job(tool=NNCF, graph=graph) for graph in (LRN_NODE, TORCH)]
MODELOPT_JOBS = [
    Job(tool=MODELOPT, graph=LRN_NODE, method="entropy"),
    Job(tool=MODELOPT, graph=TORCH, method="entropy"),
    Job(tool=MODELOPT, graph=LRN_NODE, method="max"),
]


def chosen(medians_ms: Mapping[Job, Sequence[float]]) -> Job:
    """The fastest over all batches, by the geometric mean: no batch counts more because it is larger."""
    return min(medians_ms, key=lambda job: math.prod(medians_ms[job]))


def other_methods(best: Job) -> list[Job]:
    """Entropy and Percentile on the graph and types of `best`."""
    return [Job(tool=STATIC, graph=best.graph, types=best.types, method=name) for name in ("Entropy", "Percentile")]


def costed(best: Job | None, tools: Sequence[str]) -> list[Job]:
    """Whose calibration is measured: each tool and method once."""
    static = [best, *other_methods(best)] if best is not None else []
    others = [job for job in (*NNCF_JOBS, *MODELOPT_JOBS) if job.graph == LRN_NODE and job.tool in tools]
    return [*static, *others]


@dataclass(kw_only=True)
class Quantizer:
    """Runs jobs in processes of their own and keeps their files.

    Attributes:
        work: Keeps files and facts.
        fp32: The FP32 graph with its passport, where this project starts.
        graphs: What each peer gets, by the name of the graph.
        images: The preprocessed calibration images, and how many.
        environments: Of the tools that have one of their own.
        left_out: Gets what failed, with the reason.
    """

    work: Work
    fp32: Path
    graphs: Mapping[str, Path]
    images: tuple[Path, int]
    environments: Mapping[str, Environment]
    left_out: list[dict[str, str]]
    voice: Voice = field(default_factory=Voice)

    def files(self, jobs: Sequence[Job]) -> dict[Job, Path]:
        """The results of those jobs that did not fail."""
        return {job: self._path(job) for job in jobs if self._made(job)}

    def costs(self, jobs: Sequence[Job], turns: int) -> list[dict[str, Any]]:
        """Seconds and memory of ours and of every job, in turns; a job's file is that of its last turn."""
        found: dict[Job | None, list[dict[str, Any]]] = {}
        for turn in range(turns):
            for job in (None, *jobs):
                if self._is_left_out(job):
                    continue
                name = f"calibration {turn + 1}/{turns}: {OURS if job is None else job.label}"
                facts = self._tried(job, partial(self._costs_of, job, turn))
                if facts is not None:
                    self.voice.say(f"{name}: {facts['seconds']:.1f} s, {facts['peak_memory_bytes'] / 1e9:.2f} GB")
                    found.setdefault(job, []).append(facts)
        return [cost_row(job, self.images[1], facts) for job, facts in found.items() if not self._is_left_out(job)]

    def _made(self, job: Job) -> bool:
        if self._is_left_out(job):
            return False

        def make() -> dict[str, Any]:
            self.voice.say(f"quantizing: {job.label}")
            return self._run(job)

        name, path = self._path(job).stem, self._path(job)
        return self._tried(job, lambda: self.work.made(name, self.request_of(job), path, make)) is not None

    def _costs_of(self, job: Job | None, turn: int) -> dict[str, Any]:
        name = OURS if job is None else self._path(job).stem
        run = self._run_ours if job is None else lambda: self._run(job)
        request = [self.request_of(job), environment()]
        facts: dict[str, Any] = self.work.measured(f"calibration-{turn}-{name}", request, run)
        if job is not None:
            self.work.made(name, self.request_of(job), self._path(job), lambda: facts)
        return facts

    def _tried(self, job: Job | None, make: Callable[[], Any]) -> dict[str, Any] | None:
        """A tool that fails is named; what the others have done is not lost for it."""
        try:
            facts: dict[str, Any] = make()
            return facts
        except AlexnetDeployError as exc:
            if job is None:
                raise
            self.voice.warn(f"{job.label}: {exc}")
            self.left_out.append({"peer": job.label, "reason": str(exc)})
            return None

    def _is_left_out(self, job: Job | None) -> bool:
        return job is not None and any(entry["peer"] in (job.label, job.tool) for entry in self.left_out)

    def request_of(self, job: Job | None) -> Any:
        """What the result of a job depends on; of ours where there is none."""
        tool = self.environments.get(job.tool) if job is not None else None
        versions = tool.facts["packages"] if tool is not None else environment()["packages"]
        graph = self.fp32 if job is None else self.graphs[job.graph]
        script = Path(__file__).with_name(f"{_WORKERS[job.tool] if job is not None else _OURS_WORKER}.py")
        return [job and asdict(job), sha256_of(graph), sha256_of(script), self.images[1], versions]

    def _path(self, job: Job) -> Path:
        return self.work.folder / job.file

    def _run(self, job: Job) -> dict[str, Any]:
        """On a copy, in a folder of its own: some write beside their input, and some where they run."""
        python = self.environments[job.tool].python if job.tool in self.environments else sys.executable
        settings = [setting for setting in (job.method, job.types) if setting is not None]
        with tempfile.TemporaryDirectory(dir=self.work.folder) as name:
            folder = Path(name)
            graph, out = folder / "graph.onnx", folder / self._path(job).name
            graph.write_bytes(self.graphs[job.graph].read_bytes())
            facts = facts_of(python, _WORKERS[job.tool], graph, self.images[0], out, *settings, folder=folder)
            if not out.is_file():
                raise SessionError(f"{job.tool} ended well and wrote nothing", expected=out.name)
            for part in _parts(out):
                os.replace(part, self.work.folder / part.name)
        return facts

    def _run_ours(self) -> dict[str, Any]:
        """From the FP32 graph on, as the peers; a link, so that its passport holds."""
        with tempfile.TemporaryDirectory(dir=self.work.folder) as name:
            for path in (self.fp32, passport_path(self.fp32)):
                os.link(path, Path(name) / path.name)
            return facts_of(sys.executable, _OURS_WORKER, name, self.images[1], "onnxruntime-cpu")


def _parts(out: Path) -> Iterator[Path]:
    """Weights beside the file first, so that what is seen is whole."""
    yield from (path for path in sorted(out.parent.glob(f"{out.stem}.*")) if path.suffix in (".bin", ".data"))
    yield out


def size_of(path: Path) -> int:
    """Bytes of a graph; OpenVINO's has its weights in a second file."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)


def cost_row(job: Job | None, images: int, turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians and extremes of the turns; `calibration` is null where the tool does not tell it from the rest."""
    calibrations = [facts["calibration"] for facts in turns if "calibration" in facts]
    return {
        "way": OURS if job is None else job.label,
        "images": images,
        "turns": len(turns),
        "calibration": _cost(calibrations) if calibrations else None,
        "whole": _cost(turns),
    }


def _cost(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    peaks = [int(facts["peak_memory_bytes"]) for facts in turns]
    return {**spread([float(facts["seconds"]) for facts in turns]), "peak_memory_bytes": int(statistics.median(peaks))}

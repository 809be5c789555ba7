"""One run over everything: environments, graphs, calibration, latency, accuracy, and the document of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.bench.candidate import BenchOptions
from alexnet_deploy.bench.runner import evaluation_source
from alexnet_deploy.data.batches import load_batch
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import RuntimeUnavailableError, SessionError
from alexnet_deploy.export import exported_by_torch
from alexnet_deploy.graph import write_graph
from alexnet_deploy.machine import environment
from alexnet_deploy.normalise import DEFAULT_OPSET
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.weights import load_model
from benchmarks import peer_jobs as jobs
from benchmarks.peer_environments import RECIPES, Environment, made_environment, named_environment
from benchmarks.peer_jobs import Job, Quantizer
from benchmarks.peer_rows import RUNTIMES, Way, accuracy_of, fingerprint_of, headlines, timed, ways_in, with_ratios
from benchmarks.peer_settings import cross_check, settings
from benchmarks.peer_tables import SCHEMA
from benchmarks.peer_work import Work

TOOLS = (jobs.STATIC, *RECIPES)
# The short timing by which one of four graphs is chosen.
_CHOICE_RUNS, _CHOICE_ROUNDS = 9, 3
_ON_PURPOSE = "--without on the command line"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says.

    Attributes:
        bench: Of the rows.
        turns: Of calibration.
        images: To calibrate on.
        data: To evaluate on.
        limit: Evaluation images at most; all where None.
        without: Tools that are left out on purpose.
        pythons: Interpreters that were named, by tool.
        environments: Where environments are made.
        workdir: Where graphs and measurements are kept.
    """

    bench: BenchOptions
    turns: int
    images: int
    data: str
    limit: int | None
    without: tuple[str, ...]
    pythons: dict[str, str]
    environments: Path
    workdir: Path


@dataclass
class Run:
    """What one run makes and finds.

    Attributes:
        asked: By the command line.
        voice: Hears what is done.
        left_out: What is missing in the document, and why.
    """

    asked: Asked
    voice: Voice = field(default_factory=Voice)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.work = Work(self.asked.workdir.resolve())
        self.deployment = Deployment(Workspace(folder=self.work.folder, voice=self.voice))

    def document(self) -> dict[str, Any]:
        """Makes what is missing and measures everything; who has written it forgets what `work` keeps of it.

        Raises:
            SessionError: One of ours does not run.
        """
        best = self.best_static()
        calibration = self.quantizer.costs(jobs.costed(best, list(self.tools)), self.asked.turns)
        ways = self._ways(best)
        rows = self._rows(ways)
        checks = self._cross_check(ways, rows)
        # Last: accuracy does not mind company, and takes the longest.
        rows = with_ratios(self._with_accuracy(ways, rows), self.asked.bench.rounds)
        document = {**self._circumstances(rows), "left_out": self.left_out}
        document["ratios"] = headlines(rows, self.asked.bench.rounds)
        document["calibration"] = [{**cost, "accuracy": accuracy_in(rows, cost["way"])} for cost in calibration]
        return document | {"cross_check": checks, "rows": rows}

    def _circumstances(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        bench = self.asked.bench
        return {
            "schema": SCHEMA,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "what": f"the shipped model; ratios to ours in the same runtime, precision and batch, medians over "
            f"{bench.rounds} interleaved turns with the bootstrap 95 % interval; above 1 ours is faster",
            "environment": environment(),
            "environments": {name: tool.facts for name, tool in self.tools.items()},
            "options": {**asdict(bench), "turns": self.asked.turns},
            "images": {
                "calibration": self.asked.images,
                "evaluation": rows[0]["images"],
                "data": self.asked.data,
            },
            "settings": settings(bench.threads, bench.runs, self._side),
        }

    @property
    def _side(self) -> int:
        return self.deployment.info.preprocessing.image_size

    @cached_property
    def tools(self) -> dict[str, Environment]:
        """NNCF's and modelopt's environments: named, found, or made; one that cannot be made is left out."""
        found = {}
        self.left_out += [{"peer": tool, "reason": _ON_PURPOSE} for tool in self.asked.without]
        for tool in RECIPES:
            if tool in self.asked.without:
                continue
            try:
                named = self.asked.pythons.get(tool)
                found[tool] = (
                    named_environment(tool, named)
                    if named
                    else made_environment(tool, self.asked.environments, self.voice)
                )
            except RuntimeUnavailableError as exc:
                self.voice.warn(str(exc))
                self.left_out.append({"peer": tool, "reason": str(exc)})
        return found

    @cached_property
    def quantizer(self) -> Quantizer:
        """With the graphs and images that every peer gets."""
        tools = self.tools
        fp32 = self.deployment.fp32_graph()
        torch, count = self.work.folder / "torch.onnx", self.asked.images
        images = self.work.folder / f"images-{count}.npy"
        # Ours is calibrated on the same images.
        self.deployment.calibration(data="shipped", images=count)
        versions = environment()["packages"]
        self.work.made("torch", [fp32.facts["model"], versions], torch, partial(self._export, torch))
        preprocessing = self.deployment.info.preprocessing.to_json()
        self.work.made(images.stem, [count, preprocessing], images, partial(self._prepare, images))
        return Quantizer(
            work=self.work,
            fp32=fp32.path,
            graphs={jobs.LRN_NODE: fp32.path, jobs.TORCH: torch},
            images=(images, count),
            environments=tools,
            left_out=self.left_out,
            voice=self.voice,
        )

    def _export(self, path: Path) -> None:
        write_graph(exported_by_torch(load_model(str(self.deployment.source))[0], DEFAULT_OPSET), path)

    def _prepare(self, path: Path) -> None:
        source, preprocessing = shipped_images(Split.CALIBRATION), self.deployment.info.preprocessing
        np.save(path, load_batch(source, np.arange(self.asked.images), preprocessing).images)

    def best_static(self) -> Job | None:
        """On which quantize_static's other methods are run; None where it is left out, or does not run."""
        files = self.quantizer.files(jobs.MINMAX)
        if not files:
            return None
        options = BenchOptions(
            batches=self.asked.bench.batches,
            runs=_CHOICE_RUNS,
            rounds=_CHOICE_ROUNDS,
            threads=self.asked.bench.threads,
        )
        everything = ways_in(RUNTIMES[0], self.deployment, self.quantizer.graphs, files, options.threads)
        ways = [way for way in everything if way.job is not None]
        request = [[self.quantizer.request_of(job) for job in files], asdict(options), environment()]
        rows = self.work.measured("choice", request, partial(self._timed, ways, options))
        medians: dict[Job, list[float]] = {}
        for row in rows:
            job = next(way.job for way in ways if way.label == row["way"])
            if job is not None and row["status"] == "ok":
                medians.setdefault(job, []).append(float(row["latency_ms"]["median"]))
        if not medians:
            return None
        best = jobs.chosen(medians)
        self.voice.say(f"chosen for Entropy and Percentile: {best.label}")
        return best

    def _timed(self, ways: Sequence[Way], options: BenchOptions) -> list[dict[str, Any]]:
        self.voice.say(f"{ways[0].spec.runtime}: {len(ways)} ways in {options.rounds} turns")
        return timed(ways, options, self.deployment.info.preprocessing, self.voice)

    def _ways(self, best: Job | None) -> list[Way]:
        static = [*jobs.MINMAX, *(jobs.other_methods(best) if best is not None else [])]
        wanted = [*static, *jobs.NNCF_JOBS, *jobs.MODELOPT_JOBS]
        files = self.quantizer.files(wanted)
        threads = self.asked.bench.threads
        return [
            way for name in RUNTIMES for way in ways_in(name, self.deployment, self.quantizer.graphs, files, threads)
        ]

    def _rows(self, ways: Sequence[Way]) -> list[dict[str, Any]]:
        """Those that ran; the others are left out with the reason."""
        found: list[dict[str, Any]] = []
        for runtime in RUNTIMES:
            here = [way for way in ways if way.spec.runtime == runtime]
            request = [fingerprint_of(here), asdict(self.asked.bench), environment()]
            found += self.work.measured(f"rows-{runtime}", request, partial(self._timed, here, self.asked.bench))
        for way, runtime, reason in dict.fromkeys((row["way"], row["runtime"], row["reason"]) for row in found):
            if reason is None:
                continue
            if way == jobs.OURS:
                raise SessionError(f"ours does not run in {runtime}", got=reason)
            self.left_out.append({"peer": f"{way} in {runtime}", "reason": reason})
        return [row for row in found if row["status"] == "ok"]

    def _cross_check(self, ways: Sequence[Way], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        def check() -> list[dict[str, Any]]:
            self.voice.say("the same by the runtimes' own tools")
            return list(cross_check(ways, rows, self._side))

        found: list[dict[str, Any]] = self.work.measured("cross-check", [fingerprint_of(ways), rows], check)
        return found

    def _with_accuracy(self, ways: Sequence[Way], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        ran = {_key_of(row) for row in rows}
        kept = [way for way in ways if way.key in ran]
        request = [fingerprint_of(kept), self.asked.data, self.asked.limit, environment()["packages"]]
        preprocessing = self.deployment.info.preprocessing
        found = self.work.found("accuracy", request, lambda: accuracy_of(kept, self._evaluation(), preprocessing))
        facts = {way.key: accuracy for way, accuracy in zip(kept, found, strict=True)}
        return [{**row, **facts[_key_of(row)]} for row in rows]

    def _evaluation(self) -> ImageSource:
        source = evaluation_source(self.asked.data)
        return source.subset(range(min(self.asked.limit or len(source), len(source))), source.name)


def _key_of(row: dict[str, Any]) -> tuple[str | None, ...]:
    return (row["way"], row["runtime"], row["precision"], row["hint"])


def accuracy_in(rows: Sequence[dict[str, Any]], way: str) -> dict[str, Any] | None:
    """Of an INT8 result in the first runtime that takes it; none where nothing took it."""
    kept = ("runtime", "top1", "drop", "agreement", "flips")
    found = (row for row in rows if row["way"] == way and row["precision"] == "int8")
    return next(({key: row[key] for key in kept} for row in found), None)

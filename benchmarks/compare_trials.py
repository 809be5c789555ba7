"""How often `compare` is right: benches of the same artifacts one after the other, with rows slowed on purpose in each.

Every bench is compared with the one before it. What `compare` then calls a regression, though nothing changed, is a
false alarm; a row that took a fifth longer in the new one, and is not called one, is a miss.

usage: python -m benchmarks.compare_trials [--workdir artifacts] [--benches 11] [--json FILE]
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alexnet_deploy.bench.anchor import ANCHOR_VERSION, RemoteAnchor
from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BENCH_SCHEMA, BenchOptions, Candidate
from alexnet_deploy.bench.compare import Bounds, comparison, turns_of
from alexnet_deploy.bench.conditions import Conditions
from alexnet_deploy.bench.runner import EvaluationData, LocalRunner, RemoteRunner, Runner
from alexnet_deploy.bench.worker import Worker
from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment, usable_cpus, version_of
from alexnet_deploy.pipeline.candidates import candidates_of
from alexnet_deploy.pipeline.costs import peaks_in_workspace
from alexnet_deploy.pipeline.evaluation import EvaluationImages
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import Session, SessionSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESULT = Path(__file__).parent / "results" / "compare-trials.json"
SLOWED, FACTOR = "slowed", 1.2
# Sessions that have a slowed twin.
TWINS = ("onnxruntime-cpu/int8", "openvino/fp32")
# Enough for the evaluation to be the measurement of its batch.
IMAGES = 1280


class SlowedSession(Session):
    """Another session that takes a fifth longer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.image_shape = session.image_shape

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        started = time.perf_counter()
        outputs = self._session.run(images)
        end = started + FACTOR * (time.perf_counter() - started)
        while time.perf_counter() < end:
            pass
        return outputs

    def close(self) -> None:
        self._session.close()


@dataclasses.dataclass(frozen=True)
class _MakeSlowed:
    spec: SessionSpec
    data: EvaluationData

    def __call__(self) -> LocalRunner:
        return LocalRunner(opener=lambda: SlowedSession(open_session(self.spec)), images=self.data.open())


class SlowedRunner(RemoteRunner):
    """Runs a slowed session in a process of its own."""

    def __init__(self, spec: SessionSpec, data: EvaluationData) -> None:
        self._worker = Worker(_MakeSlowed(dataclasses.replace(spec, hint=None), data), spec.name)


@click.command()
@click.option("--workdir", type=click.Path(path_type=Path, file_okay=False), default=Path("artifacts"))
@click.option("--benches", default=11, show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path), default=RESULT, help="Where the document goes.")
def main(workdir: Path, benches: int, target: Path) -> None:
    """Measures, compares, counts, and writes the document."""
    deployment = Deployment(Workspace(folder=workdir, voice=Voice()))
    options = BenchOptions(threads=usable_cpus(), images=IMAGES)
    documents, trials = [], list[dict[str, Any]]()
    for number in range(benches):
        documents.append(_bench(deployment, options))
        if number:
            trials.append(_trial(*documents[-2:]))
            click.echo(f"{number}: {trials[-1]['false_alarms'] or 'no false alarm'}, missed {trials[-1]['missed']}")
    quiet = sum(not trial["false_alarms"] for trial in trials)
    slowed = [key for key in _keys(documents[0]) if SLOWED in key]
    caught = {key: sum(key not in trial["missed"] for trial in trials) for key in slowed}
    write_json(
        target,
        {
            "schema": 1,
            "what": f"{benches} benches in a row, each compared with the one before; twins {FACTOR}x slower on purpose",
            "environment": environment(),
            "options": {"runs": options.runs, "rounds": options.rounds, "images": IMAGES, "threads": options.threads},
            "bounds": dataclasses.asdict(Bounds()),
            "tries": len(trials),
            "tries_without_false_alarm": quiet,
            "caught": caught,
            "conditions": [document["conditions"] for document in documents],
            "trials": trials,
            "benches": [_medians(document) for document in documents],
            "turns": [_turns_of(document) for document in documents],
        },
    )
    click.echo(f"{quiet} of {len(trials)} tries without a false alarm; slowed rows caught: {caught}")


def _bench(deployment: Deployment, options: BenchOptions) -> dict[str, Any]:
    """One bench, with the twins, in the form that `compare` reads."""
    images = EvaluationImages(deployment, "shipped", options.images, skip_bad=False)
    candidates = [each for each in candidates_of(deployment, options) if each.reason is None]
    for each in [each for each in candidates if each.spec.name in TWINS]:
        spec = dataclasses.replace(each.spec, hint=SLOWED)
        candidates.append(Candidate(spec=spec, size_bytes=each.size_bytes, costs=each.costs))
    conditions = Conditions()
    rows = rows_from_candidates(
        candidates,
        options,
        _runner_of(images.data),
        images.labels,
        images=len(images.kept),
        anchor=RemoteAnchor(options.threads),
        peaks=peaks_in_workspace(deployment, options.threads),
        voice=deployment.workspace.voice,
    )
    return {
        "schema": BENCH_SCHEMA,
        "made": "",
        "environment": environment(),
        "anchor": {"version": ANCHOR_VERSION, "torch": version_of("torch")},
        "conditions": conditions.to_json(),
        "model": {},
        "data": images.to_json(),
        "options": {"threads": options.threads, "rounds": options.rounds, "scope": options.scope.value},
        "rows": rows,
    }


def _runner_of(data: EvaluationData) -> Callable[[SessionSpec], Runner]:
    return lambda spec: (SlowedRunner if spec.hint == SLOWED else RemoteRunner)(spec, data)


def _trial(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What is called a regression between two benches, and which twins are not, against the row they are twins of."""
    same = comparison(old, new, Bounds())
    plain = {row["key"]: row for row in old["rows"]}
    twins = [row | {"key": row["key"].replace(f"+{SLOWED}", "")} for row in new["rows"] if SLOWED in row["key"]]
    slowed = comparison({**old, "rows": [plain[row["key"]] for row in twins]}, {**new, "rows": twins}, Bounds())
    found = {row["key"]: row for row in slowed["rows"]}
    return {
        "false_alarms": [f"{row['key']}: {row['reasons'][0]}" for row in same["rows"] if row["regression"]],
        "missed": [
            row["key"]
            for row in new["rows"]
            if SLOWED in row["key"] and not found[row["key"].replace(f"+{SLOWED}", "")]["regression"]
        ],
        "ratios": {row["key"]: [row["ratio"], row["ci"], row["raw_ratio"]] for row in same["rows"]},
        "slowed_ratios": {row["key"]: [row["ratio"], row["ci"], row["raw_ratio"]] for row in slowed["rows"]},
    }


def _keys(document: dict[str, Any]) -> list[str]:
    return [str(row["key"]) for row in document["rows"]]


def _medians(document: dict[str, Any]) -> dict[str, float]:
    return {row["key"]: row["latency_ms"]["median"] for row in document["rows"]}


def _turns_of(document: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """What `compare` reads of each row, so that another rule can be tried on the same measurements."""
    rounds = document["options"]["rounds"]
    return {
        row["key"]: {"turns": [round(float(turn), 4) for turn in turns_of(row, rounds)], **(row["anchor_ms"] or {})}
        for row in document["rows"]
    }


if __name__ == "__main__":
    main()

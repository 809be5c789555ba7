"""How often `compare` is right: benches of the same artifacts one after the other, with rows slowed on purpose in each.

Every bench is compared with the one before it. What `compare` then calls a regression, though nothing changed, is a
false alarm; a row that took a fifth longer in the new one, and is not called one, is a miss. The document keeps what
`compare` reads of every bench, and --replay judges an earlier one's measurements by the rule as it is now.

usage: python -m benchmarks.compare_trials [--workdir artifacts] [--benches 11] [--runs 32] [--json FILE]
       [--replay FILE]
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alexnet_deploy.bench.anchor import ANCHOR_VERSION, RemoteAnchor
from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BENCH_SCHEMA, BenchOptions, Candidate, rounds_of
from alexnet_deploy.bench.compare import Bounds, comparison, turns_of
from alexnet_deploy.bench.conditions import Conditions
from alexnet_deploy.bench.runner import EvaluationData, LocalRunner, RemoteRunner, Runner
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
        super().__init__(spec, data, _MakeSlowed(dataclasses.replace(spec, hint=None), data))


@click.command()
@click.option("--workdir", type=click.Path(path_type=Path, file_okay=False), default=Path("artifacts"))
@click.option("--benches", default=11, show_default=True)
@click.option("--runs", default=32, show_default=True, help="Samples a row; above 32 there are more turns.")
@click.option("--json", "target", type=click.Path(path_type=Path), default=RESULT, help="Where the document goes.")
@click.option(
    "--replay", type=click.Path(path_type=Path, exists=True), help="Of another document; nothing is measured."
)
def main(workdir: Path, benches: int, runs: int, target: Path, replay: Path | None) -> None:
    """Measures, compares, counts, and writes the document."""
    found = json.loads(replay.read_text()) if replay is not None else _measured(workdir, benches, runs)
    judged = found | _judged(found["benches"])
    write_json(target, judged)
    for number, trial in enumerate(judged["trials"], 1):
        click.echo(f"{number}: {trial['false_alarms'] or 'no false alarm'}, missed {trial['missed']}")
    tries = judged["tries"]
    click.echo(f"{judged['tries_without_false_alarm']} of {tries} without a false alarm; caught {judged['caught']}")
    click.echo(f"verdicts on rows that nobody slowed: {judged['verdicts']}")
    click.echo(f"of all {judged['all_pairs']['pairs']} pairs: {judged['all_pairs']}")


def _measured(workdir: Path, benches: int, runs: int) -> dict[str, Any]:
    deployment = Deployment(Workspace(folder=workdir, voice=Voice()))
    options = BenchOptions(threads=usable_cpus(), images=IMAGES, runs=runs, rounds=rounds_of(runs))
    documents = []
    for number in range(benches):
        documents.append(_bench(deployment, options))
        click.echo(f"bench {number + 1} of {benches}")
    return {
        "schema": 2,
        "what": f"{benches} benches in a row, each compared with the one before; twins {FACTOR}x slower on purpose",
        "environment": environment(),
        "options": {"runs": options.runs, "rounds": options.rounds, "images": IMAGES, "threads": options.threads},
        "conditions": [document["conditions"] for document in documents],
        "benches": [_kept(document) for document in documents],
    }


def _judged(benches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `compare` says of each bench and the one before, and how often it is right over all pairs."""
    trials = [_trial(old, new) for old, new in itertools.pairwise(benches)]
    pairs = [_trial(old, new) for old, new in itertools.permutations(benches, 2)]
    slowed = [key for key in benches[0] if SLOWED in key]
    return {
        "bounds": dataclasses.asdict(Bounds()),
        "tries": len(trials),
        "tries_without_false_alarm": _quiet(trials),
        "caught": _caught(trials, slowed),
        # Of the rows that nobody slowed.
        "verdicts": dict(sum((Counter(trial["verdicts"]) for trial in trials), Counter())),
        "all_pairs": {"pairs": len(pairs), "without_false_alarm": _quiet(pairs), "caught": _caught(pairs, slowed)},
        "trials": trials,
    }


def _quiet(trials: Sequence[dict[str, Any]]) -> int:
    return sum(not trial["false_alarms"] for trial in trials)


def _caught(trials: Sequence[dict[str, Any]], slowed: Sequence[str]) -> dict[str, int]:
    return {key: sum(key not in trial["missed"] for trial in trials) for key in slowed}


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


def _kept(document: dict[str, Any]) -> dict[str, Any]:
    """What `compare` reads of each row, by key."""
    rounds = document["options"]["rounds"]
    return {
        row["key"]: {
            "median_ms": row["latency_ms"]["median"],
            "turns": [round(float(turn), 4) for turn in turns_of(row, rounds)],
            "anchor_ms": row["anchor_ms"],
            "memory_share": row["roofline"]["memory_share"] if row["roofline"] else None,
        }
        for row in document["rows"]
    }


def _document(bench: dict[str, Any]) -> dict[str, Any]:
    """A bench as `compare` reads it, with a sample for each turn."""
    rows = [
        {
            "key": key,
            "status": "ok",
            "latency_ms": {"median": kept["median_ms"]},
            "samples_ms": kept["turns"],
            "anchor_ms": kept["anchor_ms"],
            "roofline": None if kept["memory_share"] is None else {"memory_share": kept["memory_share"]},
            "top1": None,
            "agreement": None,
        }
        for key, kept in bench.items()
    ]
    return {"made": "", "model": {}, "options": {"rounds": len(rows[0]["samples_ms"])}, "rows": rows}


def _trial(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is called a regression between two benches, and which twins are not, against the row they are twins of."""
    old, new = _document(before), _document(after)
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
        "verdicts": dict(Counter(row["verdict"] for row in same["rows"])),
        "ratios": {row["key"]: [row["ratio"], row["ci"], row["raw_ratio"]] for row in same["rows"]},
        "slowed_ratios": {row["key"]: [row["ratio"], row["ci"], row["raw_ratio"]] for row in slowed["rows"]},
    }


if __name__ == "__main__":
    main()

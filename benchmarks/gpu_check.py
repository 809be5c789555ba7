"""Everything that needs a GPU, in one JSON and one Markdown file that anybody with a GPU can send back.

usage: python -m benchmarks.gpu_check [FOLDER]   (or: make gpu-check)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_deploy.bench.candidate import BenchOptions
from alexnet_deploy.doctor import diagnose
from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.files import write_bytes, write_json
from alexnet_deploy.machine import count_gpus, cuda_driver_version, environment, gpu_sm, usable_cpus
from alexnet_deploy.pipeline.bench import bench_document
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice

SCHEMA = 1
# What nvidia-smi is asked; clocks and temperature say whether the card was throttled.
_QUERIES = (
    "name", "driver_version", "memory.total", "power.limit", "clocks.sm", "clocks.max.sm", "temperature.gpu",
    "clocks_event_reasons.active",
)  # fmt: skip
_NO_GPU = "there is no CUDA device here; `make gpu-check` runs what needs one"


def main() -> None:
    """Writes `gpu-check.json` and `gpu-check.md`; exits with 1 where a test fails, none passes, or there is no GPU."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("artifacts")
    if count_gpus() == 0:
        sys.exit(_NO_GPU)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "gpu": {"sm": gpu_sm(), "cuda_driver": cuda_driver_version(), "before": gpu_facts(), "after": {}},
        "doctor": [vars(finding) for finding in diagnose()[1]],
        "tests": [],
        "failed": ["the tests did not end"],
        "bench": None,
    }
    # Written as soon as there is something: what comes next may take the process along.
    write(document, folder)
    code, document["tests"] = tested()
    document["failed"] = failures(code, document["tests"])
    write(document, folder)
    try:
        document["bench"] = benched(folder)
    except AlexnetDeployError as exc:
        document["failed"].append(f"bench: {exc}")
    document["gpu"]["after"] = gpu_facts()
    write(document, folder)
    print(f"wrote {folder / 'gpu-check.json'} and {folder / 'gpu-check.md'}")
    if document["failed"]:
        sys.exit("\n".join(document["failed"]))


def benched(folder: Path) -> dict[str, Any]:
    """The bench of the shipped model on this machine."""
    deployment = Deployment(Workspace(folder=folder, voice=Voice()))
    return bench_document(deployment, BenchOptions(runs=100, rounds=5, threads=usable_cpus()))


def write(document: dict[str, Any], folder: Path) -> None:
    """Both files."""
    write_json(folder / "gpu-check.json", document)
    write_bytes(folder / "gpu-check.md", markdown(document).encode())


def failures(code: int, tests: list[dict[str, Any]]) -> list[str]:
    """Why the check failed: a test, a crash, or nothing that ran."""
    found = [f"{test['name']}: {test['message']}" for test in tests if test["outcome"] == "failed"]
    if code != 0 and not found:
        found.append(f"pytest ended with {code}")
    if not any(test["outcome"] == "passed" for test in tests):
        found.append("no test passed; `alexnet-deploy doctor` says what is missing")
    return found


def gpu_facts() -> dict[str, str]:
    """What nvidia-smi says of the first card; empty where it is not there."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERIES)}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_QUERIES, (part.strip() for part in said.split(",")), strict=False))


def tested() -> tuple[int, list[dict[str, Any]]]:
    """Runs the tests under `tests/gpu`: pytest's exit code, and of each its name, outcome and what it recorded."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", f"--junitxml={report}"]
        code = subprocess.run(command, check=False).returncode
        return code, outcomes(report.read_text()) if report.is_file() else []


def outcomes(junit: str) -> list[dict[str, Any]]:
    """Reads pytest's JUnit report."""
    rows = []
    for case in ET.fromstring(junit).iter("testcase"):
        failure = next((child for child in case if child.tag in ("failure", "error")), None)
        skipped = case.find("skipped")
        told = failure if failure is not None else skipped
        rows.append(
            {
                "name": f"{str(case.get('classname')).removeprefix('tests.gpu.')}::{case.get('name')}",
                "outcome": "failed" if failure is not None else "skipped" if skipped is not None else "passed",
                "seconds": round(float(case.get("time", 0)), 3),
                "message": None if told is None else str(told.get("message")).split("\n")[0],
                "recorded": {str(entry.get("name")): entry.get("value") for entry in case.iter("property")},
            }
        )
    return rows


def markdown(document: dict[str, Any]) -> str:
    """The document for a reader."""
    gpu, tests = document["gpu"], document["tests"]
    counts = Counter(test["outcome"] for test in tests)
    card = gpu["before"].get("name", "a CUDA device")
    lines = [
        f"# GPU check: {card}, SM{gpu['sm']}",
        "",
        f"{document['made']}, driver {gpu['before'].get('driver_version', '?')} (CUDA {gpu['cuda_driver']}), "
        f"{document['environment']['cpu']}, Python {document['environment']['python']}",
        "",
        "| package | version |",
        "|---|---|",
        *(f"| {name} | {version} |" for name, version in document["environment"]["packages"].items()),
        "",
        f"Clock {gpu['before'].get('clocks.sm', '?')} before, {gpu['after'].get('clocks.sm', '?')} after, at most "
        f"{gpu['before'].get('clocks.max.sm', '?')}; {gpu['after'].get('temperature.gpu', '?')} °C; "
        f"reasons to slow down: {gpu['after'].get('clocks_event_reasons.active', '?')}.",
        "",
        f"## Tests: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped",
        "",
    ]
    lines += [f"- FAILED {reason}" for reason in document["failed"]]
    reasons = Counter(test["message"] for test in tests if test["outcome"] == "skipped")
    lines += [f"- {count} skipped: {reason}" for reason, count in reasons.items()]
    recorded = {name: value for test in tests for name, value in test["recorded"].items()}
    if recorded:
        lines += [
            "",
            "| recorded | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in recorded.items()),
        ]
    return "\n".join([*lines, "", *_bench(document["bench"]), ""])


def _bench(bench: dict[str, Any] | None) -> list[str]:
    if bench is None:
        return ["## Bench: not run"]
    return [
        f"## Bench: {bench['data']['images']} images, {bench['options']['runs']} runs a row",
        "",
        "| row | median ms | 95 % | top-1 | as FP32 |",
        "|---|---|---|---|---|",
        *(_row(row) for row in bench["rows"]),
    ]


def _row(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        first = str(row["reason"]).split("\n")[0]
        return f"| {row['key']} | {row['status']}: {first} | | | |"
    low, high = row["latency_ms"]["ci95"]
    top1 = "" if row["top1"] is None else f"{100 * row['top1']:.2f} %"
    median, agreement = row["latency_ms"]["median"], 100 * row["agreement"]
    return f"| {row['key']} | {median:.3f} | {low:.3f} to {high:.3f} | {top1} | {agreement:.2f} % |"


if __name__ == "__main__":
    main()

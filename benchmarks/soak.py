"""Runs `predict` and `bench` over and over in one process, and a session from many threads, and looks what is left.

Memory, file handles, threads, child processes and temporary files after each round; what the first rounds load and keep
is not a leak, so that growth is counted from the end of the first fifth.

usage: python -m benchmarks.soak [--minutes 30] [--workdir artifacts] [--json FILE]
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

from alexnet_deploy.cli.main import main as alexnet_deploy
from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment, usable_cpus
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import Session, SessionSpec
from alexnet_deploy.specs import Precision, Target

RESULT = Path(__file__).parent / "results" / "soak.json"
PREDICTIONS, RUNS, THREADS = 5, 40, 8
BENCH = ["--images", "64", "--runs", "8", "--batch", "1", "--no-details", "--precision", "fp32", "--precision", "int8"]


def left_behind() -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(children),
        "temporary": len(os.listdir(tempfile.gettempdir())),
    }


def run(*words: str) -> None:
    """A command, as a person starts it; its output is of no interest.

    Raises:
        RuntimeError: It failed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            alexnet_deploy(list(words))
    except SystemExit as exc:
        if exc.code:
            raise RuntimeError(f"{words[0]} ended with {exc.code}: {said.getvalue()}") from exc


def answers(session: Session, images: np.ndarray[Any, np.dtype[np.float32]]) -> list[bytes]:
    """Rows of every image, asked for by many threads at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [rows.tobytes() for rows in pool.map(session.run, [images[i : i + 1] for i in range(len(images))])]


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Other programs use the machine's; workers take theirs from the environment."""
    with tempfile.TemporaryDirectory(prefix="alexnet-deploy-soak-") as folder:
        os.environ["TMPDIR"], tempfile.tempdir = folder, folder
        try:
            yield
        finally:
            del os.environ["TMPDIR"]
            tempfile.tempdir = None


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--workdir", type=click.Path(path_type=Path, file_okay=False), default=Path("artifacts"))
@click.option("--json", "target", type=click.Path(path_type=Path), default=RESULT, help="Where the document goes.")
def main(minutes: float, workdir: Path, target: Path) -> None:
    """Soaks, and writes what was left behind after each round."""
    deployment = Deployment(Workspace(folder=workdir))
    graph = deployment.graph(Precision.INT8, Target.ONNXRUNTIME_CPU)
    spec = SessionSpec(runtime="onnxruntime-cpu", precision=Precision.INT8, path=graph.path, threads=usable_cpus())
    side = deployment.info.preprocessing.image_size
    images = np.random.default_rng(0).normal(size=(RUNS, 3, side, side)).astype(np.float32)
    picture = _picture(workdir)
    common = ["--workdir", str(workdir), "--quiet"]
    rounds, wrong, started = list[dict[str, Any]](), 0, time.monotonic()
    with own_temporary_folder(), open_session(spec) as session:
        first = [session.run(images[i : i + 1]).tobytes() for i in range(RUNS)]
        while time.monotonic() - started < 60 * minutes:
            for _ in range(PREDICTIONS):
                run("predict", str(picture), "--precision", "int8", *common)
            wrong += sum(a != b for a, b in zip(answers(session, images), first, strict=True))
            run("bench", *BENCH, "--output", str(workdir / "soak-bench.json"), *common)
            rounds.append({"seconds": round(time.monotonic() - started, 1), **left_behind()})
            click.echo(f"{rounds[-1]}")
    settled = rounds[len(rounds) // 5 :]
    minutes_of, memory = [r["seconds"] / 60 for r in settled], [r["rss_bytes"] for r in settled]
    growth = np.polyfit(minutes_of, memory, 1)[0] if len(settled) > 1 else 0.0
    write_json(
        target,
        {
            "schema": 1,
            "what": f"{PREDICTIONS} predict, {RUNS} runs from {THREADS} threads and 1 bench a round, in one process",
            "environment": environment(),
            "rounds": len(rounds),
            "wrong_answers": wrong,
            "growth_bytes_a_minute": round(float(growth)),
            "settled": {key: [min(r[key] for r in settled), max(r[key] for r in settled)] for key in rounds[0]},
            "samples": rounds,
        },
    )
    click.echo(f"{len(rounds)} rounds, {growth / 1e3:.1f} kB a minute, {wrong} wrong answers")


def _picture(workdir: Path) -> Path:
    from PIL import Image

    path = workdir / "soak.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


if __name__ == "__main__":
    main()

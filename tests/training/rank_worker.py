"""One of the processes of tests/training/test_ranks.py: trains the jobs that it is given, one after the other.

usage: python -m tests.training.rank_worker FOLDER   (with torchrun's environment)
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.interrupts import Stopped
from alexnet_deploy.network import AlexNet
from alexnet_deploy.progress import Voice
from alexnet_deploy.training import loop
from alexnet_deploy.training.loop import train
from alexnet_deploy.training.options import Spread
from alexnet_deploy.training.ranks import Ranks, opened_ranks
from tests.conftest import small_network
from tests.training.test_loop import Damaged, data_of, files_in, options_of


def act_in_step(network: AlexNet, step: int, act: Callable[[], object]) -> None:
    """Calls `act` in the forward pass of that training step, counted from 1."""
    seen = []

    def hook(module: Any, _inputs: Any) -> None:
        if network.training:
            seen.append(1)
            if len(seen) == step:
                act()

    network.get_submodule("conv1").register_forward_pre_hook(hook)


def run_job(job: dict[str, Any], folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Trains as a job says, and says how it ended.

    Args:
        job: `options`, `accumulate`, `from` (the folder of a run to go on with), `beside` (that of one whose state is
            there, without being asked for), `launchers` (of each process), `skip`, `bad` (damaged images), `images`,
            `validation`, and what happens in step `at`: process `who` gets the signal `signal`, or has a weight that is
            `nan`.
        folder: Where the run's files are.
        ranks: The processes.
    """
    network = small_network()
    data = data_of(job.get("images", 24), job.get("validation", 120))
    if job.get("bad"):
        data = dataclasses.replace(data, train=Damaged(data.train, set(job["bad"])))
    if ranks.rank == job.get("who") and job.get("signal"):
        act_in_step(network, job["at"], lambda: os.kill(os.getpid(), job["signal"]))
    if ranks.rank == job.get("who") and job.get("nan"):
        act_in_step(network, job["at"], lambda: network.get_parameter("fc8.bias").data.fill_(float("nan")))
    folder.mkdir(exist_ok=True)
    ranks.launcher = job.get("launchers", [""] * ranks.size)[ranks.rank]
    if ranks.first and (found := job.get("from", job.get("beside"))):
        shutil.copyfile(files_in(folder.parent / found).state, files_in(folder).state)
    outcome: dict[str, Any] = {"error": None, "code": 0, "text": ""}
    try:
        result = train(
            network, data, options_of(**job.get("options", {})), files_in(folder), resume="from" in job,
            skip_bad=job.get("skip", False), ranks=ranks, accumulate=job.get("accumulate", 1), voice=Voice(quiet=False),
        )  # fmt: skip
        outcome |= {"steps": result.steps, "top1": result.validation_top1, "skipped": result.skipped.names}
    except (AlexnetDeployError, Stopped) as exc:
        outcome |= {"error": type(exc).__name__, "code": exc.exit_code, "text": str(exc)}
    if ranks.first:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "weights")
    return outcome


def main(folder: Path) -> None:
    """Reads `jobs.json`; writes what became of each job on this process beside it."""
    loop._STEPS_BETWEEN_LOG_LINES = 1
    jobs = json.loads((folder / "jobs.json").read_text())
    with opened_ranks(Spread(threads=1, timeout_s=jobs["timeout_s"])) as ranks:
        for name, job in jobs["jobs"].items():
            outcome = run_job(job, folder / name, ranks)
            (folder / f"{name}.{ranks.rank}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    main(Path(sys.argv[1]))

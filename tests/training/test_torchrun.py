"""The command itself under torchrun: told to end, it ends as one, and goes on to the checkpoint of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from alexnet_deploy.artifacts import require_passport
from alexnet_deploy.locks import lock_path
from alexnet_deploy.training.run import checkpoint_from_data
from alexnet_deploy.weights import load_model
from tests.conftest import SMALL_SIDE, random_images
from tests.training.test_run import request_of, write_idx

ROOT = Path(__file__).parents[2]
EPOCHS = 6


def started(data: Path, workdir: Path, *more: str, restarts: int = 0) -> subprocess.Popen[str]:
    words = [
        "--data", data, "--width", 0.125, "--image-size", SMALL_SIDE, "--epochs", EPOCHS, "--batch-size", 8,
        "--precision", "fp32", "--validation-share", 0.1, "--workdir", workdir,
    ]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", str(restarts)]
    return subprocess.Popen(
        [*torchrun, "-m", "alexnet_deploy", "train", *map(str, words), *more],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_under_torchrun_that_is_ended_goes_on_to_the_checkpoint_of_one_process(tmp_path: Path) -> None:
    data = write_idx(tmp_path / "idx", random_images(40).images)
    process = started(data, tmp_path / "two")
    state, waited = tmp_path / "two" / "alexnet.training-state", threading.Event()
    while not state.exists():
        assert process.poll() is None, process.communicate()
        waited.wait(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert state.exists() and not (tmp_path / "two" / "alexnet.safetensors").exists()
    # One of the two speaks.
    assert err.count("--resume goes on from there") == 1, err
    again = started(data, tmp_path / "two", "--resume")
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert err.count("resumed at step") == 1 and err.count("wrote ") == 1
    assert "4 batches of 8 images an epoch, shared by 2 processes" in err
    one = checkpoint_from_data(request_of(data, tmp_path / "one" / "alexnet.safetensors", options={"epochs": EPOCHS}))
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in one.parent.iterdir()}
    require_same(tmp_path / "two" / "alexnet.safetensors", one)


def require_same(two: Path, one: Path) -> None:
    assert require_passport(two, because="says who trained it").facts["processes"] == 2
    wanted = load_model(str(one))[0].state_dict()
    for name, tensor in load_model(str(two))[0].state_dict().items():
        assert float((tensor - wanted[name]).norm()) <= 1e-4 * float(wanted[name].norm()), name


@pytest.mark.slow
def test_a_run_that_torchrun_starts_again_goes_on_by_itself(tmp_path: Path) -> None:
    data = write_idx(tmp_path / "idx", random_images(40).images)
    process = started(data, tmp_path / "two", restarts=1)
    output = tmp_path / "two" / "alexnet.safetensors"
    state, waited = output.with_name("alexnet.training-state"), threading.Event()
    while not state.exists():
        assert process.poll() is None, process.communicate()
        waited.wait(0.02)
    # The first process, which holds the lock.
    os.kill(json.loads(lock_path(output).read_text())["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert err.count("resumed at step") == 1 and err.count("wrote ") == 1
    one = checkpoint_from_data(request_of(data, tmp_path / "one" / "alexnet.safetensors", options={"epochs": EPOCHS}))
    require_same(output, one)

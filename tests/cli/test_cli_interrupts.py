"""Long commands that are interrupted, ended or killed: they say so at once, keep everything, and go on to the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.training.test_run import write_idx

ROOT = Path(__file__).parents[2]
STEPS = ["--epochs", "6", "--batch-size", "8", "--width", "0.125", "--image-size", "99", "--precision", "fp32"]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    return write_idx(tmp_path_factory.mktemp("noise"), images)


@pytest.fixture(scope="module")
def whole(noise: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a run that nothing ended."""
    folder = tmp_path_factory.mktemp("whole")
    process = started("train", "--data", noise, *STEPS, "--workdir", folder)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return (folder / "alexnet.safetensors").read_bytes()


def started(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alexnet_deploy", *map(str, words)], cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "2"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until the file is there."""
    waited = threading.Event()
    while not path.exists():
        assert process.poll() is None, process.communicate()
        waited.wait(0.05)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_training_goes_on_to_the_same_weights(
    number: signal.Signals, code: int, noise: Path, whole: bytes, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    process = started("train", "--data", noise, *STEPS, "--workdir", ended)
    wait_for(ended / "alexnet.training-state", process)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (code, ""), err
    assert "Traceback" not in err
    if number is not signal.SIGKILL:
        assert "training stops after this step" in err and "--resume goes on from there" in err
    assert (ended / "alexnet.training-state").exists() and not (ended / "alexnet.safetensors").exists()
    again = started("train", "--data", noise, *STEPS, "--workdir", ended, "--resume")
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert "resumed at step" in err
    assert (ended / "alexnet.safetensors").read_bytes() == whole


def test_ctrl_c_while_a_command_still_imports(tmp_path: Path) -> None:
    """Whenever it comes, no traceback: torch takes a second or two to import."""
    for seconds in (0.3, 0.8, 1.5):
        process = started("export", "--workdir", tmp_path / "work")
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert "Traceback" not in err, err
        assert process.returncode in (0, 130, -signal.SIGINT)


def test_a_bench_that_is_interrupted_leaves_no_process(small_checkpoint: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "alexnet_deploy", "bench", "--model", small_checkpoint,
            "--workdir", tmp_path / "work", "--runtime", "onnxruntime-cpu", "--runtime", "torch",
            "--runs", "100000", "--precision", "fp32",
        ],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    waited = threading.Event()
    while len(group_of(process.pid)) < 4:
        assert process.poll() is None, process.communicate()
        waited.wait(0.1)
    # As a terminal does it: to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "interrupted: ending" in err and "Traceback" not in err
    # The last ones are ended by the end of their pipes.
    for _ in range(300):
        if not group_of(process.pid):
            break
        waited.wait(0.1)
    assert group_of(process.pid) == []


def group_of(leader: int) -> list[int]:
    """Processes of a group that are no zombies."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == leader and state != "Z":
            found.append(int(status.parent.name))
    return found

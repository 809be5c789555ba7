"""Several processes train as one does: the same curve, one writer, one end for all. Two real ones, over gloo."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alexnet_deploy.errors import InputError
from alexnet_deploy.progress import SILENT
from alexnet_deploy.training import loop, ranks
from alexnet_deploy.training.options import Spread
from alexnet_deploy.training.ranks import Group, Mute, Ranks, opened_ranks
from tests.training.rank_worker import run_job
from tests.training.test_loop import EPOCHS, STEPS_PER_EPOCH, epoch_order, files_in, options_of

ROOT = Path(__file__).parents[2]
STEPS = STEPS_PER_EPOCH * EPOCHS
# Gradients added up in another order differ by roundings: 1e-5 of losses from 2 to 10, of which the log keeps five
# digits, and 3e-7 of the norm of a tensor, after nine steps.
TOLERANCE, WEIGHT_TOLERANCE = 1e-4, 1e-5
# Under bf16, what a part gives to a gradient is rounded to eight bits before it is added.
BF16_TOLERANCE, BF16_WEIGHT_TOLERANCE = 0.05, 0.01
SAME: dict[str, dict[str, Any]] = {
    "plain": {},
    "sgd": {"options": {"optimizer": "sgd"}},
    "without dropout": {"options": {"dropout": 0.0, "flip": False}},
    "accumulated": {"accumulate": 2},
    "uneven": {"accumulate": 2, "options": {"batch_size": 7}},
    "head": {"options": {"head_only": True}},
    "pruned": {"options": {"density": 0.3}},
    "other size": {"options": {"train_size": 71}},
    "bf16": {"options": {"precision": "bf16", "optimizer": "sgd"}},
    "damaged": {"bad": [0, 5, 6, 23], "skip": True},
    # Two images a batch: one damaged image leaves a process with nothing, two leave both so.
    "emptied": {"bad": [0, 1, 2, 4, 5], "skip": True, "images": 8, "options": {"batch_size": 2, "epochs": 2}},
    "few": {"images": 5, "validation": 0, "options": {"batch_size": 64}},
}
ENDED: dict[str, dict[str, Any]] = {
    "unreadable": {"bad": [7]},
    # In which torch's data parallelism speaks to the other processes within the pass forward.
    "unreadable in the second step": {"bad": [int(epoch_order(options_of().seed, 0, 24)[8])]},
    "diverged": {"who": 1, "at": 5, "nan": True},
    "stopped": {"who": 1, "at": 4, "signal": int(signal.SIGTERM)},
    "stopped at an epoch's end": {"who": 1, "at": STEPS_PER_EPOCH, "signal": int(signal.SIGINT)},
    "too many parts": {"accumulate": 5},
}
# A torchrun each. One of them comes and goes, and only some processes know that there was a run before.
ELASTIC: dict[str, dict[str, Any]] = {
    "left": {"launchers": ["a", "b"], "who": 1, "at": 4, "signal": int(signal.SIGTERM)},
    "one is new": {"launchers": ["new", "b"], "beside": "left"},
    "both are new": {"launchers": ["new", "newer"], "beside": "left"},
    "nobody knows": {"launchers": ["", ""], "beside": "stopped"},
    "another run's": {"launchers": ["new", "b"], "beside": "left", "options": {"seed": 1}},
}
GONE_ON: dict[str, dict[str, Any]] = {"two after two": {"from": "stopped"}, "two after one": {"from": "alone"}}


@dataclass(frozen=True)
class Pair:
    """What two processes left."""

    folder: Path

    def ends(self, name: str) -> list[dict[str, Any]]:
        return [json.loads((self.folder / f"{name}.{rank}.json").read_text()) for rank in range(2)]

    def losses(self, name: str) -> list[float]:
        return losses_in(self.folder / name)

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / name / "weights")


def losses_in(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in files_in(folder).log.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def started(folder: Path, jobs: dict[str, Any], *, timeout_s: float = 60.0) -> list[subprocess.Popen[str]]:
    """Two processes as torchrun starts them, without torchrun, which would end one where the other ends."""
    (folder / "jobs.json").write_text(json.dumps({"timeout_s": timeout_s, "jobs": jobs}))
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.training.rank_worker", str(folder)], cwd=ROOT, text=True,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip


def end(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def _every_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_STEPS_BETWEEN_LOG_LINES", 1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two processes that have trained all the jobs, one after the other in one group."""
    folder = tmp_path_factory.mktemp("pair")
    stop = {"who": 0, "at": 4, "signal": int(signal.SIGINT)}
    assert run_job(stop, folder / "alone", Ranks())["error"] == "Stopped"
    processes = started(folder, {**SAME, **ENDED, **GONE_ON, **ELASTIC})
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], errors
    finally:
        end(processes)
    return Pair(folder)


# The same curve


@pytest.mark.usefixtures("_every_loss")
@pytest.mark.parametrize("name", SAME)
def test_two_processes_have_the_curve_of_one(name: str, pair: Pair, tmp_path: Path) -> None:
    job, bf16 = SAME[name], name == "bf16"
    one = run_job({**job, "accumulate": 1}, tmp_path / "one", Ranks())
    first, second = pair.ends(name)
    assert first == second
    assert first["error"] is None and first["steps"] == one["steps"]
    # Two of 120 images.
    assert first["top1"] == (pytest.approx(one["top1"], abs=2 / 120) if bf16 else one["top1"])
    assert sorted(first["skipped"]) == sorted(one["skipped"])
    losses = losses_in(tmp_path / "one")
    assert len(losses) >= 3
    assert pair.losses(name) == pytest.approx(losses, abs=BF16_TOLERANCE if bf16 else TOLERANCE)
    trained = load_file(tmp_path / "one" / "weights")
    for tensor_name, tensor in pair.weights(name).items():
        moved = float((tensor - trained[tensor_name]).norm())
        tolerance = BF16_WEIGHT_TOLERANCE if bf16 else WEIGHT_TOLERANCE
        assert moved <= tolerance * float(trained[tensor_name].norm()), tensor_name


@pytest.mark.usefixtures("_every_loss")
@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "batch_size": 7}, {"head_only": True}], ids=str)
def test_gradients_of_parts_add_up_to_those_of_the_batch(changes: dict[str, Any], tmp_path: Path) -> None:
    for parts in (1, 3):
        run_job({"options": changes, "accumulate": parts}, tmp_path / str(parts), Ranks())
    losses = losses_in(tmp_path / "1")
    assert len(losses) >= 9
    assert losses_in(tmp_path / "3") == pytest.approx(losses, abs=TOLERANCE)
    assert losses[0] != losses[-1]


# One end for all


@pytest.mark.parametrize("name", ["unreadable", "unreadable in the second step"])
def test_what_one_process_cannot_read_ends_both_with_its_words(name: str, pair: Pair) -> None:
    ends = pair.ends(name)
    (bad,) = ENDED[name]["bad"]
    assert sorted(end["error"] for end in ends) == ["ImageError", "RankError"]
    assert [end["code"] for end in ends] == [1, 1]
    assert all(f"{bad}.jpg cannot be read" in end["text"] for end in ends)


def test_a_loss_that_is_not_finite_on_one_process_ends_both(pair: Pair) -> None:
    ends = pair.ends("diverged")
    assert [(end["error"], end["code"]) for end in ends] == [("DivergedError", 1)] * 2
    assert all("the loss is nan at step 4" in end["text"] for end in ends)
    # Put back to the end of the first epoch.
    assert all(bool(tensor.isfinite().all()) for tensor in pair.weights("diverged").values())


@pytest.mark.parametrize(
    ("name", "code", "step"), [("stopped", 143, 4), ("stopped at an epoch's end", 130, STEPS_PER_EPOCH)]
)
def test_a_signal_to_one_process_stops_both_at_the_same_step(name: str, code: int, step: int, pair: Pair) -> None:
    assert [(end["error"], end["code"]) for end in pair.ends(name)] == [("Stopped", code)] * 2
    from safetensors import safe_open

    with safe_open(str(files_in(pair.folder / name).state), framework="pt") as state:
        position = json.loads(state.metadata()["alexnet_deploy_training"])
    assert position["step"] == step
    assert len(pair.losses(name)) == step


def test_more_parts_than_images_are_refused(pair: Pair) -> None:
    for end in pair.ends("too many parts"):
        assert end["code"] == 2
        assert "8 images for 2 x 5 parts" in end["text"] and "--batch-size" in end["text"]


@pytest.mark.parametrize("name", GONE_ON)
def test_a_run_goes_on_with_two_processes_whoever_stopped_it(name: str, pair: Pair) -> None:
    first, second = pair.ends(name)
    assert first == second
    assert (first["error"], first["steps"]) == (None, STEPS)
    assert first["top1"] == pair.ends("plain")[0]["top1"]
    assert pair.losses(name) == pytest.approx(pair.losses("plain")[4:], abs=TOLERANCE)


@pytest.mark.usefixtures("_every_loss")
def test_one_process_goes_on_with_what_two_have_begun(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "stopped").mkdir()
    files_in(tmp_path / "stopped").state.write_bytes(files_in(pair.folder / "stopped").state.read_bytes())
    one = run_job({"from": "stopped"}, tmp_path / "one", Ranks())
    assert one["steps"] == STEPS
    assert losses_in(tmp_path / "one") == pytest.approx(pair.losses("plain")[4:], abs=TOLERANCE)


@pytest.mark.parametrize(("name", "done"), [("one is new", 4), ("both are new", 0), ("nobody knows", 0)])
def test_what_a_torchrun_starts_again_goes_on_and_what_another_starts_begins(name: str, done: int, pair: Pair) -> None:
    first, second = pair.ends(name)
    assert first == second
    assert (first["error"], first["steps"]) == (None, STEPS)
    assert pair.losses(name) == pytest.approx(pair.losses("plain")[done:], abs=TOLERANCE)


def test_a_restart_with_other_options_ends_both(pair: Pair) -> None:
    assert sorted(end["error"] for end in pair.ends("another run's")) == ["InputError", "RankError"]
    assert all("was started with other options" in end["text"] for end in pair.ends("another run's"))


# A process that is gone


@pytest.fixture(scope="module")
def bereft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, int, str]]]:
    """How the first process ends where the second is killed, and where it hangs."""
    ends, running = {}, []
    for name, number in (("killed", signal.SIGKILL), ("hanging", signal.SIGSTOP)):
        folder = tmp_path_factory.mktemp(name)
        job = {"who": 1, "at": 3, "signal": int(number)}
        processes = started(folder, {name: job}, timeout_s=5.0 if number == signal.SIGSTOP else 300.0)
        running.append((name, folder, processes))
    try:
        for name, folder, (first, _second) in running:
            _, err = first.communicate(timeout=120)
            ends[name] = (folder, first.returncode, err)
    finally:
        for _, _, processes in running:
            end(processes)
    yield ends


@pytest.mark.parametrize("name", ["killed", "hanging"])
def test_a_process_that_loses_the_other_ends_with_an_error_and_keeps_its_steps(
    name: str, bereft: dict[str, tuple[Path, int, str]]
) -> None:
    folder, _code, err = bereft[name]
    end = json.loads((folder / f"{name}.0.json").read_text()) if (folder / f"{name}.0.json").exists() else {}
    assert (end.get("error"), end.get("code")) == ("RankLostError", 1), err
    assert "process 0 of 2 lost the others" in end["text"] and "--resume" in end["text"]
    assert run_job({"from": name}, folder / "on", Ranks())["steps"] == STEPS
    assert losses_in(folder / name) and not (folder / f"{name}.1.json").exists()


# Who speaks, and what is touched


def test_without_torchrun_nothing_of_torch_distributed_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_a, **_k: pytest.fail("it was"))
    with opened_ranks(Spread(), {}) as alone:
        assert type(alone) is Ranks
        assert (alone.rank, alone.size, alone.first, alone.launcher) == (0, 1, True, "")
    # One of one, as some schedulers say of everything.
    with opened_ranks(Spread(), {"WORLD_SIZE": "1"}) as alone:
        assert type(alone) is Ranks


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "no LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2"}, "no RANK"),
        ({"RANK": "0"}, "no WORLD_SIZE"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is no number"),
    ],
)
def test_half_an_environment_is_refused(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(InputError) as caught, opened_ranks(Spread(), environment):
        pytest.fail("it trained alone, beside others that write the same files")
    assert problem in str(caught.value)


def of_torchrun(**changes: str) -> dict[str, str]:
    known = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    return {**known, **changes}


def test_a_group_reads_torchruns_environment() -> None:
    group = Group(of_torchrun(TORCHELASTIC_ERROR_FILE="/tmp/torchelastic_x/100_y/attempt_1/1/error.json"))
    assert (group.rank, group.size, group.first) == (1, 2, False)
    assert group.launcher == "/tmp/torchelastic_x/100_y"
    # Told to keep no logs, it has no folder.
    assert Group(of_torchrun(TORCHELASTIC_ERROR_FILE="")).launcher == Group(of_torchrun()).launcher == ""


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="more processes on this machine than GPUs") as caught:
        Group(of_torchrun())
    assert "--nproc-per-node 1" in str(caught.value.remedy)


def test_on_gpus_a_process_takes_its_own_and_speaks_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    group = Group(of_torchrun(RANK="9"))
    assert (group.backend, group.device) == ("nccl", torch.device("cuda", 1))
    assert chosen == [group.device]


def test_only_the_first_process_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    other = Group(of_torchrun()).voice(SILENT)
    assert isinstance(other, Mute)
    other.say("news")
    other.warn("a warning")
    with other.track("train", 3) as track:
        track.advance()
    assert capsys.readouterr() == ("", "")
    assert Group(of_torchrun(RANK="0")).voice(SILENT) is SILENT


@pytest.mark.parametrize(
    ("threads", "environment", "processes", "wanted"),
    [
        (3, {"OMP_NUM_THREADS": "1"}, 2, 3),
        (None, {"OMP_NUM_THREADS": "1"}, 2, None),
        (None, {}, 2, 4),
        (None, {}, 16, 1),
        (None, {}, 1, None),
    ],
)
def test_processes_share_the_cpus_of_a_machine(
    threads: int | None, environment: dict[str, str], processes: int, wanted: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """OMP_NUM_THREADS is torch's own affair, as without torchrun everything is."""
    given: list[int] = []
    monkeypatch.setattr(ranks, "usable_cpus", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    ranks._set_threads(Spread(threads=threads), environment, processes)
    assert given == ([] if wanted is None else [wanted])


@pytest.mark.parametrize(("threads", "local", "wanted"), [(None, "2", 4), (None, "16", 1), (3, "2", 3), (None, "", 2)])
def test_processes_of_a_machine_share_its_cpus_for_loading(
    threads: int | None, local: str, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever OMP_NUM_THREADS is, which torchrun sets to 1: a GPU's process computes on no CPU."""
    monkeypatch.setattr(ranks, "usable_cpus", lambda: 8)
    monkeypatch.setattr(ranks, "_joined", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(torch, "set_num_threads", lambda _number: None)
    environment = of_torchrun(WORLD_SIZE="4", LOCAL_WORLD_SIZE=local, OMP_NUM_THREADS="1")
    with opened_ranks(Spread(threads=threads), environment) as group:
        assert group.cpus == wanted
    with opened_ranks(Spread(threads=threads), {}) as alone:
        assert alone.cpus == (threads or 8)

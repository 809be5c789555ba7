"""The processes that train together: one alone, or those that `torchrun` starts.

What every process needs of the others is here and nowhere else: sums, who failed, who was told to stop. Each step has
one exchange, before any gradient leaves a process, so that all of them go on, stop or fail at the same step. Foreign
errors of torch.distributed become `RankLostError` here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal as signals
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_deploy.errors import EXIT_ERROR, InputError, RankError, RankLostError
from alexnet_deploy.interrupts import StopRequest
from alexnet_deploy.limits import json_from_text
from alexnet_deploy.machine import usable_cpus
from alexnet_deploy.progress import Voice
from alexnet_deploy.training.options import Spread

# What torchrun tells the processes that it starts; without these, nothing of torch.distributed is touched.
_REQUIRED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_LONGEST_TEXT_BYTES = 1 << 20
# From LAUNCHER/attempt_N/LOCAL_RANK/error.json to the first of them.
_LAUNCHER_ABOVE = 2
# The first process needs less to say why and end.
_SECONDS_BEHIND = 1.0
_RESUME = "start the processes again with --resume: the run goes on from its last state"


@dataclass(frozen=True)
class Exchanged:
    """What all processes know after an exchange.

    Attributes:
        sums: Of the values of all processes.
        signal: The first that any of them was told to stop by; 0 for none.
    """

    sums: tuple[float, ...]
    signal: int


class Ranks:
    """One process, which has nobody to wait for.

    Attributes:
        rank: Number of this process; 0 writes files and speaks.
        size: How many there are.
        device: Where this process computes.
        launcher: Which torchrun started this process, the same after every restart; empty without one.
        cpus: How many CPUs this process may prepare its images on.
    """

    rank, size = 0, 1
    launcher = ""

    def __init__(self, cpus: int | None = None) -> None:
        self.cpus = cpus or usable_cpus()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def voice(self, voice: Voice) -> Voice:
        """The voice of this process."""
        return voice

    def model(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are those of all processes, averaged."""
        return module

    def backward(self, loss: Tensor) -> None:
        """Leaves the averaged gradients in the parameters."""
        loss.backward()  # type: ignore[no-untyped-call]

    def apart(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Inside, gradients stay with this process and add up."""
        return contextlib.nullcontext()

    def exchange(self, *values: float, signal: int = 0, failure: Exception | None = None) -> Exchanged:
        """Adds up the values of all processes, in their order.

        Raises:
            Exception: `failure`, or where another process failed first, a `RankError` with its words and exit code.
            RankLostError: Another process is gone or does not answer.
        """
        if failure is not None:
            raise failure
        return Exchanged(values, signal)

    def signal(self, stop: StopRequest, agreed: int) -> int:
        """The signal to obey now: that of this process alone, or the one that all have agreed on."""
        return stop.number or agreed

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What goes wrong inside on one process goes wrong on all; there must be no exchange inside.

        Raises:
            Exception: As `exchange` does.
        """
        yield

    def gathered(self, text: str) -> list[str]:
        """The texts of all processes, in their order."""
        return [text]

    def undisturbed(self) -> contextlib.AbstractContextManager[None]:
        """Around what must not be cut short after others are gone."""
        return contextlib.nullcontext()

    def let_first_end(self) -> None:
        """This is the first process."""

    def merge(self, rows: Tensor, cuts: Sequence[slice]) -> None:
        """Fills `rows`, of which each process has made its cut, with those of all."""

    def from_first(
        self, values: dict[str, Any], tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the first process has, for all."""
        return values, tensors


class Mute(Voice):
    """Says nothing at all: of many processes one speaks."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


class Group(Ranks):
    """One of the processes that torchrun started, over gloo on CPUs and NCCL on GPUs."""

    def __init__(self, environment: Mapping[str, str], cpus: int | None = None) -> None:
        super().__init__(cpus)
        self.rank, self.size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        self.launcher = _launcher(environment)
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = _gpu(_number(environment, "LOCAL_RANK"))
        self.backend = "nccl" if self.device.type == "cuda" else "gloo"

    def voice(self, voice: Voice) -> Voice:
        return voice if self.first else Mute()

    def model(self, module: nn.Module) -> nn.Module:
        from torch.nn.parallel import DistributedDataParallel

        gpus = [self.device] if self.device.type == "cuda" else None
        with self._reaching():
            return DistributedDataParallel(module, gpus, gradient_as_bucket_view=True)

    def backward(self, loss: Tensor) -> None:
        with self._reaching():
            loss.backward()  # type: ignore[no-untyped-call]

    def apart(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        return model.no_sync()  # type: ignore[operator, no-any-return]

    def exchange(self, *values: float, signal: int = 0, failure: Exception | None = None) -> Exchanged:
        code = 0 if failure is None else getattr(failure, "exit_code", EXIT_ERROR)
        own = torch.tensor([code, signal, *values], dtype=torch.float64, device=self.device)
        table = [row.tolist() for row in self._all(own)]
        failed = [rank for rank, row in enumerate(table) if row[0]]
        if failed:
            self._fail(failed[0], int(table[failed[0]][0]), failure)
        signals = [int(row[1]) for row in table if row[1]]
        columns = list(zip(*table, strict=True))[2:]
        return Exchanged(tuple(math.fsum(column) for column in columns), signals[0] if signals else 0)

    def _fail(self, first: int, code: int, failure: Exception | None) -> None:
        texts = self.gathered("" if failure is None else str(failure) or type(failure).__name__)
        if failure is not None and self.rank == first:
            raise failure
        raise RankError(
            f"process {first} of {self.size} could not go on", got=texts[first], exit_code=code
        ) from failure

    def signal(self, stop: StopRequest, agreed: int) -> int:
        # What this process alone has heard since is said at the next exchange.
        return agreed

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        failure = None
        try:
            yield
        except Exception as exc:  # whatever it is, the others must hear of it
            failure = exc
        self.exchange(failure=failure)

    def gathered(self, text: str) -> list[str]:
        data = text.encode()[:_LONGEST_TEXT_BYTES]
        lengths = [int(row.item()) for row in self._all(torch.tensor([len(data)], device=self.device))]
        padded = torch.zeros(max(1, *lengths), dtype=torch.uint8)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else padded[:0]
        rows = self._all(padded.to(self.device))
        found = [bytes(row[:length].cpu().tolist()) for row, length in zip(rows, lengths, strict=True)]
        return [one.decode(errors="replace") for one in found]

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """While the first process saves: torchrun asks the others to end as soon as one of them is gone, and waits."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signals.signal(signals.SIGTERM, signals.SIG_IGN)
        try:
            yield
        finally:
            signals.signal(signals.SIGTERM, before)

    def let_first_end(self) -> None:
        """Ends after the first process where all have agreed to end.

        torchrun stops the others as soon as one has ended, and the first one has not spoken yet.
        """
        if not self.first:
            signals.signal(signals.SIGTERM, signals.SIG_IGN)
            time.sleep(_SECONDS_BEHIND)

    def merge(self, rows: Tensor, cuts: Sequence[slice]) -> None:
        for rank, cut in enumerate(cuts):
            if cut.stop > cut.start:
                rows[cut] = self._broadcast(rows[cut].contiguous(), rank)

    def from_first(
        self, values: dict[str, Any], tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        shapes = {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape] for name, tensor in tensors.items()}
        text = self.gathered(json.dumps([values, shapes]) if self.first else "")[0]
        values, shapes = json_from_text(text)
        found = {}
        for name, (kind, *shape) in shapes.items():
            own = tensors[name].contiguous() if self.first else torch.empty(shape, dtype=getattr(torch, kind))
            found[name] = self._broadcast(own, 0)
        return values, found

    def _broadcast(self, tensor: Tensor, source: int) -> Tensor:
        import torch.distributed as dist

        held = tensor.to(self.device)
        with self._reaching():
            dist.broadcast(held, source)
        return held.to(tensor.device)

    def _all(self, own: Tensor) -> list[Tensor]:
        import torch.distributed as dist

        rows = [torch.empty_like(own) for _ in range(self.size)]
        with self._reaching():
            dist.all_gather(rows, own)
        return rows

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Names what torch.distributed says when another process is gone."""
        try:
            yield
        except RuntimeError as exc:
            if not _is_of_the_group(exc):
                raise
            raise RankLostError(
                f"process {self.rank} of {self.size} lost the others",
                got=str(exc).strip().split("\n")[0],
                expected="every process to answer within --rank-timeout",
                remedy=f"see what ended the first of them, then {_RESUME}",
            ) from exc


def _is_of_the_group(error: RuntimeError) -> bool:
    """Whether an error that came out of a backward pass is of the connection and not of the arithmetic."""
    from torch.distributed import DistError

    text = str(error).lower()
    return isinstance(error, DistError) or any(word in text for word in ("gloo", "nccl", "connection", "store"))


@contextlib.contextmanager
def opened_ranks(spread: Spread, environment: Mapping[str, str] | None = None) -> Iterator[Ranks]:
    """The processes that torchrun started, joined; without torchrun's environment this one alone.

    Args:
        spread: Threads of each process, and how long they wait for each other.
        environment: Where torchrun says so; that of this process by default.

    Raises:
        InputError: The environment is half torchrun's, or asks for more GPUs than there are.
        RankLostError: The others did not come.
    """
    known = os.environ if environment is None else environment
    missing = [name for name in _REQUIRED if not known.get(name)]
    if missing and (known.get("RANK") or _number(known, "WORLD_SIZE", 1) > 1):
        raise InputError(
            "the environment names other processes, but not how to reach them",
            got=f"no {', '.join(missing)}",
            expected=", ".join(_REQUIRED),
            remedy="start the command with torchrun, or take RANK and WORLD_SIZE out of the environment",
        )
    if missing:
        _set_threads(spread, known, 1)
        yield Ranks(spread.threads)
        return
    processes = _number(known, "LOCAL_WORLD_SIZE", _number(known, "WORLD_SIZE"))
    group = Group(known, spread.threads or _share_of_cpus(processes))
    _set_threads(spread, known, processes)
    with _joined(group, spread.timeout_s):
        yield group


@contextlib.contextmanager
def _joined(group: Group, timeout_s: float) -> Iterator[None]:
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from alexnet_deploy.training.meeting import store_of_this_start

    device = group.device if group.device.type == "cuda" else None
    timeout = timedelta(seconds=timeout_s)
    with group._reaching():
        whole, _, _ = next(rendezvous("env://", group.rank, group.size, timeout=timeout))
        store = store_of_this_start(whole, group.rank, group.size, timeout_s)
        dist.init_process_group(
            group.backend, store=store, rank=group.rank, world_size=group.size, timeout=timeout, device_id=device
        )
    ended = False
    try:
        yield
        ended = True
    finally:
        # NCCL waits here for processes that are gone; the end of this one closes everything as well.
        if ended or group.backend == "gloo":
            dist.destroy_process_group()


def _set_threads(spread: Spread, environment: Mapping[str, str], processes: int) -> None:
    """Processes of one machine share its CPUs; torch by itself would give all of them to each."""
    if spread.threads is not None:
        torch.set_num_threads(spread.threads)
    elif processes > 1 and not environment.get("OMP_NUM_THREADS"):
        torch.set_num_threads(_share_of_cpus(processes))


def _share_of_cpus(processes: int) -> int:
    return max(1, usable_cpus() // processes)


def _launcher(environment: Mapping[str, str]) -> str:
    """The folder that a torchrun makes for itself, whose name is drawn at random, once.

    The number of restarts tells less: each machine's torchrun counts its own, and none counts that a machine has come.
    Nor does the id of the run, which users may give to one run after another.
    """
    above = Path(environment.get("TORCHELASTIC_ERROR_FILE") or "").parents
    return str(above[_LAUNCHER_ABOVE]) if len(above) > _LAUNCHER_ABOVE else ""


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name) or default
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as exc:
        raise InputError(f"the environment variable {name} is no number", got=text) from exc


def _gpu(local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise InputError(
            "there are more processes on this machine than GPUs",
            got=f"LOCAL_RANK {local_rank} and {count} GPUs",
            remedy=f"torchrun --nproc-per-node {count}, or CUDA_VISIBLE_DEVICES= to train on the CPU",
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device

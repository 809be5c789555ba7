"""The Ray cluster that works: one on this machine, which ends with the block, or one that is there."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import InputError, RuntimeUnavailableError, SessionError
from alexnet_deploy.machine import usable_cpus
from alexnet_deploy.optional import require
from alexnet_deploy.progress import OwnThread, Voice
from alexnet_deploy.scale.executor import ScaleOptions
from alexnet_deploy.scale.jobs import Job

FEATURE = "--executor ray"
# The largest artifact of the family (244 MB in FP32) and the answers that wait; what is over goes to disk.
_OBJECT_STORE_BYTES = 500_000_000
_CPUS_PER_WORKER = 2
# Ray's sockets lie some 60 characters below its folder, and the kernel takes 107.
_LONGEST_FOLDER = 40
_STDERR = 2
_PACKAGE = Path(__file__).resolve().parent.parent
# Read when Ray is imported and when its processes start.
_ENVIRONMENT = {
    # Nothing is sent to anybody, and nothing listens on another address than this machine's own.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # What its processes log is for its own log files; of errors we speak ourselves.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Workers are the command's own work, and no more patient than it.
    "RAY_worker_niceness": "0",
    # Behaves as it will by default, and does not warn that it will.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a job gets of a cluster: `workers` processes of `threads` threads, each on so many CPUs and GPUs."""

    workers: int
    threads: int
    cpus: float
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one machine of a cluster gives."""

    cpus: int
    gpus: int = 0

    def places(self, cpus: int, gpus: int) -> int:
        """Workers that fit, with so many CPUs and GPUs each."""
        return min(self.cpus // cpus, self.gpus // gpus if gpus else self.cpus)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        options: What was asked for.
        nodes: Its machines.
        folder: Where workers put files; None for each node's own.
    """

    options: ScaleOptions
    nodes: tuple[Node, ...]
    folder: Path | None = None

    def share(self, job: Job) -> Share:
        """What a job gets: never more than there is, since a worker for which there is no room is waited for for ever.

        Raises:
            RuntimeUnavailableError: It needs a GPU or CPU, and there is none.
            InputError: It needs more GPUs than there are.
        """
        gpus = sum(node.gpus for node in self.nodes)
        nodes = [node for node in self.nodes if node.gpus] if job.on_gpu else self.nodes
        default = gpus if job.on_gpu else sum(node.cpus for node in nodes) // _CPUS_PER_WORKER
        workers = self.options.workers or max(1, default)
        if job.on_gpu and not gpus:
            raise RuntimeUnavailableError("no CUDA device in the Ray cluster")
        if not nodes:
            raise RuntimeUnavailableError("no node of the Ray cluster has a CPU to work on")
        if job.on_gpu and workers > gpus:
            raise InputError("the Ray cluster has too few GPUs", got=f"--workers {workers}", expected=f"{gpus}")

        def room(cpus: int) -> bool:
            return sum(node.places(cpus, int(job.on_gpu)) for node in nodes) >= workers

        most = max((cpus for cpus in range(1, max(node.cpus for node in nodes) + 1) if room(cpus)), default=0)
        threads = self.options.threads or max(1, most)
        return Share(
            workers=workers, threads=threads, cpus=min(threads, most) or _part(nodes, workers), gpus=int(job.on_gpu)
        )


def _part(nodes: Sequence[Node], workers: int) -> float:
    """Part of a CPU, so that more workers than CPUs have room."""
    return 1 / -(-workers // sum(node.cpus for node in nodes))


@contextlib.contextmanager
def connected(options: ScaleOptions, voice: Voice) -> Iterator[Cluster]:
    """Connects this process; where it is connected already, that cluster is used and stays.

    Raises:
        MissingDependencyError: Ray is not installed.
        InputError: There is no cluster at the address.
        SessionError: No cluster can be started here.
    """
    with contextlib.ExitStack() as stack:
        with _environment():
            ray: Any = require("ray", FEATURE)
            require("pyarrow", FEATURE)
            data: Any = require("ray.data", FEATURE)
            with warnings.catch_warnings():
                # It sets an option of its own that it calls deprecated.
                warnings.simplefilter("ignore", DeprecationWarning)
                data.DataContext.get_current()
            # Its own progress bars and warnings would stand between ours.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            folder = None
            if not ray.is_initialized():
                stack.enter_context(_signals_kept())
                if options.address is None:
                    folder = Path(stack.enter_context(_short_folder()))
                stack.enter_context(contextlib.redirect_stdout(OwnThread(sys.stdout)))
                stack.callback(_end, ray)
                _start(ray, options, folder, voice)
        yield Cluster(
            options=options,
            nodes=tuple(
                Node(cpus=int(node["Resources"]["CPU"]), gpus=int(node["Resources"].get("GPU", 0)))
                for node in ray.nodes()
                if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
            ),
            folder=None if folder is None else folder / "files",
        )


def _start(ray: Any, options: ScaleOptions, folder: Path | None, voice: Voice) -> None:
    common = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with _signals_kept(), _muted():
        if folder is not None:
            try:
                ray.init(
                    # Not the cluster that RAY_ADDRESS names.
                    address="local",
                    num_cpus=max(usable_cpus(), options.workers or 1),
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=str(folder),
                    **common,
                )
            except Exception as exc:  # whatever its processes ended with
                raise SessionError("no Ray cluster could be started here", got=_first_line(exc)) from exc
            return
        try:
            ray.init(address=options.address, **common)
        except Exception as exc:  # ConnectionError, ValueError, RuntimeError, by what is wrong with the address
            raise InputError(
                f"there is no Ray cluster at {options.address}",
                got=_first_line(exc),
                expected="HOST:PORT of its head node, or auto",
                remedy="start one with `ray start --head`, or leave --ray-address out",
            ) from exc
    voice.say(f"connected to the Ray cluster at {options.address}")


def _end(ray: Any) -> None:
    # It writes then what it has kept back of its messages.
    with contextlib.redirect_stdout(io.StringIO()):
        ray.shutdown()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """What Ray's processes are started with: among it, where the code of this process lies."""
    code = os.pathsep.join(filter(None, [str(_PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    chosen = {**_ENVIRONMENT, "PYTHONPATH": code}
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """What Ray's libraries write to the process's standard error themselves while they start goes nowhere."""
    sys.stderr.flush()
    kept = os.dup(_STDERR)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDERR)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, when it starts and when it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _short_folder() -> tempfile.TemporaryDirectory[str]:
    """Where the cluster keeps its logs and sockets, gone when it ends."""
    usual = tempfile.gettempdir()
    place = usual if len(usual) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 - the name in it is made up by tempfile
    # Its processes may write a last line while the folder is being removed.
    return tempfile.TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True)

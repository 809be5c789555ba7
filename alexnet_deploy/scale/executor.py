"""Who works on the chunks: this process, or the workers of a Ray cluster."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from alexnet_deploy.errors import InputError
from alexnet_deploy.optional import require_installed
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.scale.chunks import Answer
from alexnet_deploy.scale.jobs import Job

_MOST_WORKERS = 4096


class ExecutorName(StrEnum):
    """Of `--executor`."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """Who works.

    Attributes:
        executor: This process, or Ray.
        workers: Of Ray: processes; None for one for every two CPUs, or for every GPU where a job needs one.
        threads: Of Ray: CPUs of each; None for an equal share.
        address: Of Ray: a cluster that is there; None for one on this machine that ends with the command.
    """

    executor: ExecutorName = ExecutorName.LOCAL
    workers: int | None = None
    threads: int | None = None
    address: str | None = None

    def require_installed(self) -> None:
        """Checks before long work that what the executor needs is there.

        Raises:
            MissingDependencyError: It is not.
        """
        for module in ("ray", "pyarrow") if self.elsewhere else ():
            require_installed(module, f"--executor {self.executor}")

    @property
    def elsewhere(self) -> bool:
        """Whether other processes work than this one."""
        return self.executor is not ExecutorName.LOCAL

    def __post_init__(self) -> None:
        for what, number in (("workers", self.workers), ("threads", self.threads)):
            if number is not None and not 1 <= number <= _MOST_WORKERS:
                raise InputError(f"no such number of {what}", got=number, expected=f"1 to {_MOST_WORKERS}")


class Executor(ABC):
    """Runs jobs.

    Attributes:
        name: Of `--executor`.
    """

    name: ExecutorName

    @abstractmethod
    def run(self, job: Job, first: int = 0) -> Generator[Answer]:
        """Answers to a job's chunks from position `first` on, each once and in their order.

        Raises:
            AlexnetDeployError: What a chunk met, of the first one that met something.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """How the work was done, for a document."""


class LocalExecutor(Executor):
    """This process."""

    name = ExecutorName.LOCAL

    def run(self, job: Job, first: int = 0) -> Generator[Answer]:
        with job.opened(job.images.source) as step:
            for chunk in job.chunks(first):
                yield Answer(chunk=chunk, arrays=step(chunk))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name.value}


@contextlib.contextmanager
def opened_executor(options: ScaleOptions, voice: Voice = SILENT) -> Iterator[Executor]:
    """Whoever the options name; a cluster that is started for it ends with the block.

    Raises:
        MissingDependencyError: Ray is not installed.
        InputError: There is no cluster at the address, or it is too small.
    """
    if not options.elsewhere:
        yield LocalExecutor()
        return
    from alexnet_deploy.scale.cluster import connected
    from alexnet_deploy.scale.ray_data import RayExecutor

    with connected(options, voice) as cluster:
        yield RayExecutor(cluster, voice)

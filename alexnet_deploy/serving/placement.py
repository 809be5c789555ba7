"""What the replicas ask of a cluster: never more than a machine of it has, since that is waited for for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_deploy.errors import RuntimeUnavailableError
from alexnet_deploy.runtimes.open import ON_CPU
from alexnet_deploy.scale.cluster import Node

if TYPE_CHECKING:
    from alexnet_deploy.runtimes.session import SessionSpec


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What each replica gets: so many CPUs, which are its session's threads, and GPUs."""

    replicas: int
    threads: int
    gpus: int

    @property
    def words(self) -> str:
        """What is asked for, in a message."""
        gpus = f" and {self.gpus} GPU" if self.gpus else ""
        return f"{self.replicas} replicas of {self.threads} CPUs{gpus}"


def placement_from_nodes(nodes: Sequence[Node], spec: SessionSpec, replicas: int) -> Placement:
    """The session's threads, or as many as there is room for.

    Raises:
        RuntimeUnavailableError: There is no room for one thread a replica.
    """
    gpus = 0 if spec.runtime in ON_CPU else 1

    def room(threads: int) -> bool:
        return sum(node.places(threads, gpus) for node in nodes) >= replicas

    fitting = [threads for threads in range(1, spec.threads + 1) if room(threads)]
    if not fitting:
        found = ", ".join(f"{node.cpus} CPUs and {node.gpus} GPUs" for node in nodes)
        raise RuntimeUnavailableError(
            "the Ray cluster has no room for the replicas",
            got=f"nodes of {found}" if nodes else "no node with a CPU",
            expected=Placement(replicas=replicas, threads=1, gpus=gpus).words,
            remedy="--replicas less, or add nodes" + (" with a GPU" if gpus else ""),
        )
    return Placement(replicas=replicas, threads=fitting[-1], gpus=gpus)

"""What replicas ask of a cluster: what a machine of it has, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.errors import RuntimeUnavailableError
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.scale.cluster import Node
from alexnet_deploy.serving.placement import placement_from_nodes
from alexnet_deploy.specs import Precision


def spec(threads: int, runtime: str = "onnxruntime-cpu") -> SessionSpec:
    return SessionSpec(runtime=runtime, precision=Precision.FP32, path=Path("x"), threads=threads)


@pytest.mark.parametrize(
    ("threads", "replicas", "expected"),
    [(4, 1, 4), (8, 2, 8), (32, 1, 8), (32, 2, 8), (32, 3, 4), (32, 16, 1)],
)
def test_threads_are_those_that_there_is_room_for(threads: int, replicas: int, expected: int) -> None:
    placed = placement_from_nodes([Node(cpus=8), Node(cpus=8)], spec(threads), replicas)
    assert (placed.threads, placed.gpus, placed.replicas) == (expected, 0, replicas)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime-cpu", "openvino"])
def test_what_runs_on_a_cpu_asks_for_no_gpu(runtime: str) -> None:
    assert placement_from_nodes([Node(cpus=8)], spec(4, runtime), 1).gpus == 0


def test_an_engine_asks_for_a_gpu() -> None:
    nodes = [Node(cpus=64), Node(cpus=4, gpus=2)]
    placed = placement_from_nodes(nodes, spec(32, "tensorrt-rtx"), 1)
    assert (placed.threads, placed.gpus) == (4, 1) and placed.words == "1 replicas of 4 CPUs and 1 GPU"
    assert placement_from_nodes(nodes, spec(32, "tensorrt"), 2).threads == 2


@pytest.mark.parametrize(
    ("nodes", "runtime", "replicas", "words"),
    [
        ([], "openvino", 1, "no node with a CPU"),
        ([Node(cpus=2)], "openvino", 3, "3 replicas of 1 CPUs"),
        ([Node(cpus=64)], "tensorrt-rtx", 1, "64 CPUs and 0 GPUs"),
        ([Node(cpus=64, gpus=1)], "tensorrt-rtx", 2, "2 replicas of 1 CPUs and 1 GPU"),
    ],
)
def test_what_there_is_no_room_for_is_refused(nodes: list[Node], runtime: str, replicas: int, words: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match="no room for the replicas") as refused:
        placement_from_nodes(nodes, spec(8, runtime), replicas)
    assert words in str(refused.value) and "remedy: --replicas less" in str(refused.value)

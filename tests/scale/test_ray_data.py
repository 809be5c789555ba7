"""On a cluster: the same answers as here, whoever dies; errors that are ours; what cannot be done is said."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import ray
from numpy.typing import NDArray

from alexnet_deploy import __version__
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DataError, InputError, RuntimeUnavailableError, SessionError
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.scale import ray_data
from alexnet_deploy.scale.answers import received
from alexnet_deploy.scale.chunks import Answer, Arrays
from alexnet_deploy.scale.cluster import Cluster, Node
from alexnet_deploy.scale.executor import ExecutorName, LocalExecutor, ScaleOptions
from alexnet_deploy.scale.images import ImageSet, witness_of
from alexnet_deploy.scale.jobs import Evaluate
from alexnet_deploy.scale.ray_data import MOST_ATTEMPTS, RayExecutor, Worker
from alexnet_deploy.specs import Precision
from tests.conftest import small_preprocessing
from tests.scale.jobs import TWO_WORKERS, Means

COUNT = 90
SHIPPED = ImageSet(data="shipped")


def means(**values: Any) -> Means:
    return Means(images=SHIPPED, indices=np.arange(COUNT, dtype=np.int64)[::-1].copy(), **values)


def answers(executor: LocalExecutor | RayExecutor, job: Means) -> list[Arrays]:
    return [answer.arrays for answer in executor.run(job)]


def assert_same(one: list[Arrays], other: list[Arrays]) -> None:
    assert [found["means"].tobytes() for found in one] == [found["means"].tobytes() for found in other]


def test_a_worker_that_is_killed_loses_nothing_and_nothing_counts_twice(executor: RayExecutor, tmp_path: Path) -> None:
    undisturbed = answers(LocalExecutor(), means())
    assert len(undisturbed) == 9 and sum(len(found["means"]) for found in undisturbed) == COUNT
    mark = tmp_path / "died"
    # Two chunks were done before.
    found = [answer.arrays for answer in executor.run(means(deadly=4, mark=mark), 20)]
    assert_same(found, undisturbed[2:])
    assert mark.exists()
    assert executor.to_json()["repeated_chunks"] >= 1


def test_images_that_end_every_worker_end_the_job_with_their_name(executor: RayExecutor) -> None:
    with pytest.raises(SessionError, match="chunk 2 of shipped") as caught:
        answers(executor, means(deadly=2))
    assert str(MOST_ATTEMPTS) in str(caught.value.got) and "number 69" in caught.value.problem


def test_a_node_with_other_files_of_the_same_names_ends_the_job(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only this process has them, so that every worker is a node with others."""
    asked: list[list[int]] = []

    def other(source: ImageSource, indices: NDArray[np.int64]) -> str:
        asked.append(indices.tolist())
        return witness_of(source, indices) if len(asked) < 3 else "other"

    monkeypatch.setattr(ray_data, "witness_of", other)
    job, found = means(), list[Answer]()
    with pytest.raises(DataError, match="read other images than the command sees: chunk 2 of shipped") as caught:
        found.extend(executor.run(job))
    assert len(found) == 2 and asked == job.indices[:30].reshape(3, 10).tolist()
    assert "on every node" in str(caught.value.expected) and "disk" in str(caught.value.remedy)


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The actors that count, as they are made."""
    made: list[Any] = []
    original = ray_data._counter

    def kept(ray_: Any) -> Any:
        made.append(original(ray_))
        return made[-1]

    monkeypatch.setattr(ray_data, "_counter", kept)
    return made


def test_a_counter_that_is_killed_counts_again_and_ends_nothing(executor: RayExecutor, counters: list[Any]) -> None:
    undisturbed, running = answers(LocalExecutor(), means()), executor.run(means())
    found = [next(running).arrays]
    ray.kill(counters[0], no_restart=False)
    found += [answer.arrays for answer in running]
    assert_same(found, undisturbed)
    assert executor.to_json()["repeated_chunks"] == 0


def test_answers_are_whole_without_the_counter(cluster: Cluster, counters: list[Any]) -> None:
    stream = io.StringIO()
    executor = RayExecutor(cluster, Voice(stream=stream))
    found = []
    for answer in executor.run(means()):
        found.append(answer.arrays)
        if len(found) == COUNT // 10:
            ray.kill(counters[0])
    assert_same(found, answers(LocalExecutor(), means()))
    assert "how many chunks were begun again is not known" in stream.getvalue()
    assert executor.to_json()["repeated_chunks"] is None
    # Another job does not make it known.
    assert list(executor.run(means())) and executor.to_json()["repeated_chunks"] is None


def test_the_counter_lives_where_the_command_does(cluster: Cluster) -> None:
    asked: list[dict[str, Any]] = []

    class Recording:
        @staticmethod
        def get_runtime_context() -> Any:
            return ray.get_runtime_context()

        @staticmethod
        def remote(**options: Any) -> Any:
            asked.append(options)
            return ray.remote(**options)

    counter = ray_data._counter(Recording)
    assert ray.get(counter.begin.remote(3)) == 1
    ray.kill(counter)
    strategy = asked[0]["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == (ray.get_runtime_context().get_node_id(), False)


class Counted:
    """In place of the actor that counts beginnings."""

    class begin:
        @staticmethod
        def remote(_number: int) -> Any:
            return ray.put(1)


def worker(job: Means, **values: Any) -> Worker:
    files: list[Any] = [ray.put({})]
    given = {"job": job, "count": 2000, "listed": SHIPPED.listed, "files": files, "attempts": Counted, "folder": None}
    return Worker(**{**given, "threads": 1, "version": __version__, **values})


def test_an_error_that_is_not_ours_says_what_it_was_and_of_which_images(cluster: Cluster) -> None:
    job = means(raising=1)
    row = worker(job)(pyarrow.Table.from_pylist([vars(job.chunks()[1])])).to_pylist()[0]
    assert row["number"] == 1 and row["peak"] > 0
    with pytest.raises(SessionError, match="chunk 1 of shipped") as caught:
        received(row["answer"])
    assert caught.value.got == "ZeroDivisionError: of this test"
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"version": "0.0.other"}, "another version"),
        ({"count": 7}, "sees another shipped"),
        ({"listed": "x"}, "sees another shipped"),
    ],
)
def test_a_worker_that_is_not_like_the_command_says_so(cluster: Cluster, values: dict[str, Any], words: str) -> None:
    job = means()
    block = worker(job, **values)(pyarrow.Table.from_pylist([vars(job.chunks()[0])]))
    with pytest.raises((SessionError, DataError), match=words):
        received(block.to_pylist()[0]["answer"])


def test_nothing_to_do_asks_nobody() -> None:
    assert list(LocalExecutor().run(means(), COUNT)) == []


def test_shares_fit_the_cluster(cluster: Cluster) -> None:
    def share(*cpus: int, **options: Any) -> tuple[int, int, float]:
        nodes = tuple(Node(cpus=count) for count in cpus)
        found = replace(cluster, nodes=nodes, options=ScaleOptions(executor=ExecutorName.RAY, **options)).share(means())
        return found.workers, found.threads, found.cpus

    assert share(16) == (8, 2, 2)
    assert share(16, workers=2) == (2, 8, 8)
    # No node has sixteen.
    assert share(*[8] * 8, workers=4) == (4, 8, 8)
    # Two workers of ten would wait for a second node of ten.
    assert share(16, 4, workers=2) == (2, 8, 8)
    assert share(2, workers=2, threads=2) == (2, 2, 1)
    # Eight CPUs are on no node: a worker on its own takes one node's.
    assert share(4, 4, workers=1, threads=8) == (1, 8, 4)
    assert share(2, workers=4) == (4, 1, 0.5)
    assert share(2, workers=5) == (5, 1, 1 / 3)
    assert share(1) == (1, 1, 1)


def test_a_job_for_a_gpu_asks_for_one(cluster: Cluster) -> None:
    spec = SessionSpec(runtime="onnxruntime-cuda", precision=Precision.FP16, path=Path("x.onnx"), threads=1)
    job = Evaluate(images=SHIPPED, indices=np.arange(3), spec=spec, preprocessing=small_preprocessing())
    with pytest.raises(RuntimeUnavailableError, match="no CUDA device"):
        replace(cluster, nodes=(Node(cpus=8),)).share(job)
    # A head with many CPUs and no GPU is no place for them.
    nodes = (Node(cpus=64), Node(cpus=8, gpus=2))
    share = replace(cluster, nodes=nodes, options=ScaleOptions(executor=ExecutorName.RAY)).share(job)
    assert (share.workers, share.threads, share.cpus, share.gpus) == (2, 4, 4, 1)
    with pytest.raises(InputError, match="too few GPUs"):
        replace(cluster, nodes=(Node(cpus=8, gpus=1),), options=TWO_WORKERS).share(job)


def test_a_command_uses_a_cluster_by_its_address(
    cluster: Cluster, small_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    address = ray.get_runtime_context().gcs_address
    arguments = ["predict", "--data", pictures, "--model", small_checkpoint, "--output", tmp_path / "x.parquet"]
    more = ["--executor", "ray", "--ray-address", address, "--workers", "1", "--quiet", "--workdir", tmp_path / "work"]
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_deploy", *map(str, arguments), *map(str, more)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'x.parquet'}\n"), done.stderr
    assert done.stderr == ""
    # It was not the command's to end.
    assert ray.get(ray.put("still here")) == "still here"


# A worker dies, of which nothing may be said on standard output; then the program says where its cluster listens and
# lies, and works until somebody stops it.
PROGRAM = """
import io, pathlib, sys
import numpy as np
from alexnet_deploy.cli import main as cli
from alexnet_deploy.scale.cluster import connected
from alexnet_deploy.scale.executor import ExecutorName, ScaleOptions
from alexnet_deploy.scale.images import ImageSet, witness_of
from alexnet_deploy.scale.ray_data import RayExecutor
from alexnet_deploy.progress import SILENT, Voice
from tests.scale.jobs import Means

def work(*args, **kwargs):
    import os, signal, time
    before = signal.getsignal(signal.SIGTERM)
    with connected(ScaleOptions(executor=ExecutorName.RAY), SILENT) as cluster:
        import ray
        mark = pathlib.Path(sys.argv[1])
        job = Means(images=ImageSet(data="shipped"), indices=np.arange(30), deadly=1, mark=mark)
        assert len(list(RayExecutor(cluster, Voice(quiet=True, stream=io.StringIO())).run(job))) == 3 and mark.exists()
        addresses = [node["NodeManagerAddress"] for node in ray.nodes()]
        kept = signal.getsignal(signal.SIGTERM) is before
        print(*addresses, cluster.folder.parent, kept, os.environ.get("RAY_USAGE_STATS_ENABLED"), flush=True)
        time.sleep(600)

cli.cli.main = work
cli.main([])
"""


def test_a_cluster_of_ours_listens_here_alone_writes_nothing_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "died")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        address, folder, kept, stated = process.stdout.readline().split()
        processes = started_below(folder)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout.read() == ""
        assert process.stderr.read().startswith("interrupted")
    assert (address, kept, stated) == ("127.0.0.1", "True", "None")
    # What they were started with tells that they were the cluster's.
    assert processes and not Path(folder).exists() and not started_below(folder)


def started_below(folder: str) -> list[str]:
    """Processes whose arguments name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if folder.encode() in path.read_bytes() else []
    return found

"""A session in a process of its own gives what it gives here, and whatever ends the process is a readable error."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.bench.runner import EvaluationData, LocalRunner, RemoteRunner
from alexnet_deploy.bench.sampling import WarmUp
from alexnet_deploy.bench.worker import Worker
from alexnet_deploy.errors import DataError, RuntimeUnavailableError, SessionError
from alexnet_deploy.graph import write_graph
from alexnet_deploy.machine import count_gpus
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision, Scope
from tests.conftest import small_preprocessing
from tests.graphs import small_graph

COUNT = 20
DATA = EvaluationData(data="shipped", preprocessing=small_preprocessing(), indices=np.arange(COUNT))


def spec_of(path: Path, runtime: str = "onnxruntime-cpu") -> SessionSpec:
    return SessionSpec(runtime=runtime, precision=Precision.FP32, path=path, threads=1)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runner") / "graph.onnx"
    write_graph(small_graph(), path)
    return path


@pytest.fixture(scope="module")
def remote(graph: Path) -> Iterator[RemoteRunner]:
    runner = RemoteRunner(spec_of(graph), DATA)
    assert runner.open().load_ms > 0
    yield runner
    runner.close()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_other_process_computes_the_same(remote: RemoteRunner, graph: Path) -> None:
    local = LocalRunner(opener=lambda: open_session(spec_of(graph)), images=DATA.open())
    local.open()
    expected = local.evaluate()
    local.close()
    got = remote.evaluate()
    assert got.shape == (COUNT, 10) and got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_the_other_process_measures_itself(remote: RemoteRunner) -> None:
    samples = remote.measure(4, 5).milliseconds
    assert len(samples) == 5 and min(samples) > 0
    # numpy, Pillow and ONNX Runtime alone take more than 40 MB; a terabyte would be kilobytes counted twice.
    peak = remote.peak_memory_bytes()
    assert peak is not None and 40_000_000 < peak < 10_000_000_000
    assert remote._worker.pid != os.getpid()


def test_an_error_in_the_other_process_leaves_it_usable(remote: RemoteRunner) -> None:
    with pytest.raises(SessionError):
        remote._worker.ask("measure", "many", 1)
    assert len(remote.measure(1, 2).milliseconds) == 2


def test_closing_ends_the_process_and_may_be_repeated(graph: Path) -> None:
    runner = RemoteRunner(spec_of(graph), DATA)
    runner.open()
    pid = runner._worker.pid
    assert pid is not None and is_running(pid)
    runner.close()
    runner.close()
    assert not is_running(pid)


def test_a_process_that_dies_is_an_error_with_its_exit_code(graph: Path) -> None:
    runner = RemoteRunner(spec_of(graph), DATA)
    try:
        runner.open()
        assert runner._worker.pid is not None
        os.kill(runner._worker.pid, signal.SIGKILL)
        with pytest.raises(SessionError, match="ended") as caught:
            runner.evaluate()
        assert "onnxruntime-cpu/fp32" in caught.value.problem and "-9" in str(caught.value.got)
    finally:
        runner.close()


def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph")
    runner = RemoteRunner(spec_of(path), DATA)
    try:
        with pytest.raises(SessionError, match=r"broken\.onnx"):
            runner.open()
    finally:
        runner.close()


@pytest.mark.skipif(count_gpus() > 0, reason="there is a CUDA device")
def test_a_runtime_that_cannot_run_here_says_so_from_the_other_process(graph: Path) -> None:
    runner = RemoteRunner(spec_of(graph, "onnxruntime-cuda"), DATA)
    try:
        with pytest.raises(RuntimeUnavailableError, match="no CUDA device"):
            runner.open()
    finally:
        runner.close()


def test_a_damaged_image_is_an_error_of_the_data_and_not_of_the_session(graph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "test" / "boots"
    folder.mkdir(parents=True)
    Image.new("L", (28, 28), 100).save(folder / "0.png")
    (folder / "1.png").write_bytes(b"not an image")
    data = EvaluationData(data=str(tmp_path / "data"), preprocessing=small_preprocessing(), indices=np.arange(2))
    runner = RemoteRunner(spec_of(graph), data)
    try:
        runner.open()
        with pytest.raises(DataError, match=r"1\.png"):
            runner.evaluate()
    finally:
        runner.close()


def test_a_folder_that_went_away_is_an_error_of_the_data_too(graph: Path, tmp_path: Path) -> None:
    data = EvaluationData(data=str(tmp_path / "gone"), preprocessing=small_preprocessing(), indices=np.arange(2))
    runner = RemoteRunner(spec_of(graph), data)
    try:
        with pytest.raises(DataError, match="gone"):
            runner.open()
    finally:
        runner.close()


def test_a_profile_comes_from_a_second_session(remote: RemoteRunner) -> None:
    found = remote.layer_times((1, 2), 3)
    assert found is not None and len(found) == 2
    assert all(kernels and all(kernel.milliseconds >= 0 for kernel in kernels) for kernels in found)
    assert len(remote.measure(1, 2).milliseconds) == 2


def test_a_runner_that_is_not_open_has_no_process(graph: Path) -> None:
    with pytest.raises(SessionError, match="not running"):
        RemoteRunner(spec_of(graph), DATA).evaluate()


def test_a_runner_that_was_never_opened_closes(graph: Path) -> None:
    runner = RemoteRunner(spec_of(graph), DATA)
    runner.close()
    assert runner._worker.pid is None


def test_a_batch_of_more_images_than_there_are_is_prepared_as_often_as_it_is_long(graph: Path) -> None:
    asked = []

    class Few:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, part: slice) -> NDArray[np.float32]:
            prepared = DATA.open()[: min(part.stop, 3)]
            asked.append(len(prepared))
            return prepared

    runner = LocalRunner(opener=lambda: open_session(spec_of(graph)), images=Few())
    runner.open()
    asked.clear()
    runner.measure(8, 1, Scope.END_TO_END, WarmUp(least=0, most=0))
    runner.close()
    # Once before the clock starts, and once for the run.
    assert asked == [3, 3, 2] * 2


def test_a_pass_over_many_images_may_take_its_time(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    waited = []
    many = EvaluationData(data="shipped", preprocessing=small_preprocessing(), indices=np.zeros(50_000, np.int64))
    runner = RemoteRunner(spec_of(graph), many)
    monkeypatch.setattr(Worker, "ask", lambda *_arguments, seconds: waited.append(seconds))
    runner.evaluate()
    runner.evaluate_part(0, 50_000, None)
    assert min(waited) >= 50_000

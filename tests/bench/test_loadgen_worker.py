"""A test in a process of its own gives LoadGen's verdict, and whatever ends the process is a readable error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.bench import loadgen_worker
from alexnet_deploy.bench.loadgen_log import DETAIL, SUMMARY
from alexnet_deploy.bench.loadgen_options import LoadOptions, Scenario
from alexnet_deploy.bench.loadgen_worker import _error_from_fields, _fields, load_in_process
from alexnet_deploy.bench.runner import EvaluationData
from alexnet_deploy.errors import DataError, ImageError, InputError, ParityError, RuntimeUnavailableError, SessionError
from alexnet_deploy.graph import write_graph
from alexnet_deploy.machine import count_gpus
from alexnet_deploy.optional import is_installed
from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision
from tests.conftest import small_preprocessing
from tests.graphs import small_graph

pytestmark = pytest.mark.skipif(
    not is_installed("mlperf_loadgen"), reason="mlcommons-loadgen is not installed; it has wheels for Python 3.11 alone"
)
DATA = EvaluationData(data="shipped", preprocessing=small_preprocessing(), indices=np.arange(20))
OPTIONS = LoadOptions(scenario=Scenario.SINGLE_STREAM, min_duration_s=0.2)


def spec_of(path: Path, runtime: str = "onnxruntime-cpu", **changes: Any) -> SessionSpec:
    return SessionSpec(runtime=runtime, precision=Precision.FP32, path=path, threads=1, **changes)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worker") / "graph.onnx"
    write_graph(small_graph(), path)
    return path


def test_the_other_process_returns_the_verdict_and_leaves_the_logs(graph: Path, tmp_path: Path) -> None:
    result = load_in_process(spec_of(graph), DATA, OPTIONS, tmp_path / "logs")
    assert result.verdict.queries >= 100 and result.verdict.metric.value > 0
    assert {image for image, _ in result.answers} <= set(range(20)) and (tmp_path / "logs" / DETAIL).is_file()
    assert multiprocessing.active_children() == []


def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(SessionError, match=r"broken\.onnx"):
        load_in_process(spec_of(path), DATA, OPTIONS, tmp_path)


@pytest.mark.skipif(count_gpus() > 0, reason="there is a CUDA device")
def test_a_runtime_that_cannot_run_here_says_so(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="no CUDA device"):
        load_in_process(spec_of(graph, "onnxruntime-cuda"), DATA, OPTIONS, tmp_path)


def test_a_damaged_image_is_an_error_of_the_data(graph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "test" / "boots"
    folder.mkdir(parents=True)
    Image.new("L", (28, 28), 100).save(folder / "0.png")
    (folder / "1.png").write_bytes(b"not an image")
    data = EvaluationData(data=str(tmp_path / "data"), preprocessing=small_preprocessing(), indices=np.arange(2))
    with pytest.raises(DataError, match=r"1\.png"):
        load_in_process(spec_of(graph), data, OPTIONS, tmp_path / "logs")


def test_a_session_made_for_smaller_batches_is_refused_here(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="smaller batches"):
        load_in_process(spec_of(graph, max_batch=4), DATA, LoadOptions(scenario=Scenario.OFFLINE), tmp_path)


def as_soon_as_there_is_a_worker(act: Callable[[int], None]) -> None:
    """Does it to the worker, from another thread."""

    def watch() -> None:
        while not (children := multiprocessing.active_children()):
            pass
        pid = children[0].pid
        assert pid is not None
        act(pid)

    threading.Thread(target=watch, daemon=True).start()


def test_a_worker_that_dies_is_an_error_with_its_exit_code(graph: Path, tmp_path: Path) -> None:
    as_soon_as_there_is_a_worker(lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises(SessionError, match="ended") as caught:
        load_in_process(spec_of(graph), DATA, OPTIONS, tmp_path)
    assert "onnxruntime-cpu/fp32" in caught.value.problem and "-9" in str(caught.value.got)


def test_ctrl_c_ends_the_worker(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loadgen_worker, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_in_process(spec_of(graph), DATA, LoadOptions(scenario=Scenario.OFFLINE, valid_length=True), tmp_path)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("kind", [SessionError, ImageError, ParityError, RuntimeUnavailableError])
def test_an_error_comes_back_as_what_it_was(kind: type[Exception]) -> None:
    error = kind("a problem", got=3, expected=None, remedy="mend it")  # type: ignore[call-arg]
    back = _error_from_fields(*_fields(error))
    assert type(back) is kind and str(back) == str(error)


def test_an_error_of_another_kind_is_one_of_the_session() -> None:
    back = _error_from_fields(*_fields(ZeroDivisionError("odd")))
    assert type(back) is SessionError and str(back) == "ZeroDivisionError: odd"


def test_the_worker_tells_of_an_error_before_loadgen_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Any]] = []
    ended: list[bool] = []

    class Pipe:
        def send(self, message: tuple[str, Any]) -> None:
            told.append(message)
            ended.append((tmp_path / SUMMARY).read_text() != "")

    side = DATA.preprocessing.image_size
    # Behind the runs that measure the pace.
    session = FakeSession((3, side, side), tick=lambda: time.sleep(0.0005), fails_at=300)
    monkeypatch.setattr(loadgen_worker, "open_session", lambda _spec: session)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    options = LoadOptions(scenario=Scenario.SERVER, min_duration_s=0.2, max_batch=1, target_qps=2000)
    loadgen_worker._serve(Pipe(), spec_of(tmp_path), DATA, options, tmp_path)  # type: ignore[arg-type]
    assert told[0][0] == "failed" and told[0][1][:2] == ("SessionError", "the fake runtime failed, as it was told to")
    assert ended[0] is False and session.closed

"""Kernels' times come out of each runtime's own form of them: traces, running means, hooks."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.errors import InputError, MissingDependencyError, RuntimeUnavailableError, SessionError
from alexnet_deploy.graph import write_graph
from alexnet_deploy.optional import is_installed
from alexnet_deploy.runtimes.onnxruntime import kernels_from_trace
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.openvino import Counters, kernels_from_runs
from alexnet_deploy.runtimes.session import THROUGHPUT, SessionSpec
from alexnet_deploy.specs import Precision
from alexnet_deploy.weights import shipped_checkpoint
from tests.graphs import small_graph


def test_a_run_is_the_difference_of_running_means() -> None:
    counters = Counters()
    fc6, fc7 = ("fc6", "FullyConnected"), ("fc7", "FullyConnected")
    # Runs of 4, 2 and 30 ms for the one, of 1 ms each for the other.
    seen = [counters.last_run({fc6: mean, fc7: 1.0}) for mean in (4.0, 3.0, 12.0)]
    assert [run[fc6] for run in seen] == pytest.approx([4, 2, 30])
    assert [run[fc7] for run in seen] == pytest.approx([1, 1, 1])
    assert counters.last_run({fc6: 8.9})[fc6] == 0.0


def test_the_median_of_a_kernel_is_over_its_runs() -> None:
    conv, late = ("conv1", "Convolution"), ("late", "Reorder")
    found = kernels_from_runs([{conv: 3.0}, {conv: 1.0, late: 6.0}, {conv: 2.0, late: 6.0}])
    assert [(kernel.name, kernel.op, kernel.milliseconds) for kernel in found] == [
        ("conv1", "Convolution", 2.0), ("late", "Reorder", 6.0),
    ]  # fmt: skip


def event(name: str, microseconds: int, category: str = "Node") -> dict[str, object]:
    return {"cat": category, "name": name, "dur": microseconds, "args": {"op_name": "Conv"}}


def test_a_trace_is_split_by_batch_and_its_warm_up_left_out() -> None:
    times = [900, 1000, 1200, 1100, 99000, 16000, 17000, 18000]
    events = [event("conv1_kernel_time", time) for time in times]
    events += [event("conv1_fence_before", 5), event("session", 5, "Session"), {"cat": "Node"}]
    one, sixteen = kernels_from_trace(events, 2, 3)
    assert [(kernel.name, kernel.op, kernel.milliseconds) for kernel in one] == [("conv1", "Conv", 1.1)]
    assert sixteen[0].milliseconds == 17.0


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino", "torch"])
def test_a_profiled_session_names_the_layers(runtime: str, tmp_path: Path) -> None:
    if runtime == "openvino" and not is_installed("openvino"):
        pytest.skip("OpenVINO is not installed")
    path = tmp_path / "graph.onnx"
    write_graph(small_graph(), path)
    path = shipped_checkpoint() if runtime == "torch" else path
    spec = SessionSpec(runtime=runtime, precision=Precision.FP32, path=path, threads=1, profile=True)
    with open_session(spec) as session:
        batches = [np.zeros((batch, *session.image_shape), np.float32) for batch in (1, 3)]
        found = session.layer_times(batches, 2)
    assert found is not None and len(found) == 2
    for kernels in found:
        assert any("fc6" in kernel.name for kernel in kernels) and sum(kernel.milliseconds for kernel in kernels) > 0


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino", "torch"])
def test_a_session_that_does_not_profile_has_no_times(runtime: str, tmp_path: Path) -> None:
    if runtime == "openvino" and not is_installed("openvino"):
        pytest.skip("OpenVINO is not installed")
    path = tmp_path / "graph.onnx"
    write_graph(small_graph(), path)
    path = shipped_checkpoint() if runtime == "torch" else path
    with open_session(SessionSpec(runtime=runtime, precision=Precision.FP32, path=path, threads=1)) as session:
        assert session.layer_times([np.zeros((1, *session.image_shape), np.float32)], 1) is None


@pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is not installed")
def test_requests_in_flight_compute_what_one_computes(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    write_graph(small_graph(), path)
    plain, loaded = (
        open_session(SessionSpec(runtime="openvino", precision=Precision.FP32, path=path, threads=2, hint=hint))
        for hint in (None, THROUGHPUT)
    )
    with plain, loaded:
        images = np.random.default_rng(0).standard_normal((3, *plain.image_shape)).astype(np.float32)
        assert plain.in_flight == 1 and loaded.in_flight >= 1
        np.testing.assert_allclose(loaded.run(images), plain.run(images), rtol=1e-5, atol=1e-5)
        seconds = loaded.run_overlapped(images, 5, time.perf_counter)
        assert len(seconds) == 5 and min(seconds) > 0
        with pytest.raises(SessionError, match="one request at a time"):
            plain.run_overlapped(images, 2, time.perf_counter)


def test_a_hint_that_openvino_does_not_know_is_refused(tmp_path: Path) -> None:
    spec = SessionSpec(
        runtime="openvino", precision=Precision.FP32, path=tmp_path / "graph.onnx", threads=1, hint="cuda-graph"
    )
    with pytest.raises(InputError if is_installed("openvino") else MissingDependencyError):
        open_session(spec)


def test_compiled_torch_without_a_compiler_cannot_run_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    spec = SessionSpec(runtime="torch-compile", precision=Precision.FP32, path=shipped_checkpoint(), threads=1)
    with pytest.raises(RuntimeUnavailableError, match=r"C\+\+ compiler"):
        open_session(spec)

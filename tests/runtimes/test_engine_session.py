"""Engines run as the suite wants it, and every failure of driver or TensorRT is an error that frees everything."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.errors import AlexnetDeployError, EngineError, MissingDependencyError, SessionError
from alexnet_deploy.runtimes.cuda import Buffer
from alexnet_deploy.runtimes.engine import EngineSession
from alexnet_deploy.runtimes.session import CUDA_GRAPH, SessionSpec
from alexnet_deploy.specs import Precision
from tests.graphs import engine_graph, shipped_batch
from tests.passports import write_passport
from tests.runtimes import stand_in
from tests.runtimes.engine_suite import *  # noqa: F403 - the suite is collected here
from tests.runtimes.engine_suite import ONE, Profiles, assert_near
from tests.runtimes.stand_in import COMPUTE_MS, COPY_MS, GRAPH_MS, HostTensorRt, engine_bytes, install


@dataclass
class StandInRig:
    """The suite's engines, on host memory."""

    runtime: str
    folder: Path
    trt: HostTensorRt
    tolerance: float = 1e-4
    made: int = 0

    def engine(self, profiles: Profiles = ONE) -> Path:
        self.made += 1
        path = self.folder / f"{self.made}.engine"
        path.write_bytes(engine_bytes(engine_graph(Precision.FP32), tuple(profiles)))
        batches = [dict(zip(("min", "opt", "max"), profile, strict=True)) for profile in profiles]
        facts = {
            "precision": "fp32",
            "backend": self.runtime,
            "options": {"profiles": batches, "sms": [89]},
            "plan": {"sms": ["sm89"]},
            "driver": "13.0",
            "device": "a card",
        }
        write_passport(path, kind="engine", facts=facts, tools={self.runtime: self.trt.__version__})
        return path

    def session(self, path: Path, *, graph: bool = False, trust: bool = False) -> EngineSession:
        return EngineSession(
            SessionSpec(
                runtime=self.runtime,
                precision=Precision.FP32,
                path=path,
                threads=1,
                hint=CUDA_GRAPH if graph else None,
                trust=trust,
            )
        )

    def memory(self) -> int:
        return len(self.trt.cuda.memory)


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInRig]:
    """Nothing may be left when a test is over, whatever went wrong in it."""
    engine_graph(Precision.FP32)  # exported before the stand-ins are there: torch looks at what is installed
    made = StandInRig(runtime=request.param, folder=tmp_path, trt=install(monkeypatch, request.param))
    yield made
    gc.collect()
    cuda = made.trt.cuda
    assert (cuda.stack, cuda.driver_stack, cuda.retained) == ([], [], 0)
    assert (cuda.memory, cuda.graphs, cuda.trt_objects) == ({}, {}, [])


def test_times_are_the_devices(rig: StandInRig) -> None:
    with rig.session(rig.engine()) as session:
        session.run(shipped_batch(1))
        times = session.device_times
        assert times is not None
        assert (times.copy_in_ms, times.compute_ms, times.copy_out_ms) == (COPY_MS, COMPUTE_MS, COPY_MS)


def test_a_graph_is_replayed_from_the_second_run_of_a_batch_on(rig: StandInRig) -> None:
    """TensorRT-RTX captures by itself: the session tells it to, and calls it as ever."""
    images = shipped_batch(2)
    with rig.session(rig.engine(), graph=True) as session:
        found = []
        for batch in (1, 1, 1, 2, 2, 1):
            session.run(images[:batch])
            assert session.device_times is not None
            found.append(session.device_times.compute_ms)
    if rig.runtime == "tensorrt":
        assert found == [COMPUTE_MS, GRAPH_MS, GRAPH_MS, COMPUTE_MS, GRAPH_MS, COMPUTE_MS]
    else:
        assert found == [COMPUTE_MS] * 6
        assert [config.cuda_graph_strategy for config in rig.trt.behaviour.strategies] == [
            rig.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        ]


def test_the_runtime_is_told_to_compile_before_it_runs(rig: StandInRig) -> None:
    with rig.session(rig.engine()) as session:
        session.run(shipped_batch(1))
    (config,) = rig.trt.behaviour.strategies
    if rig.runtime == "tensorrt-rtx":
        eager = rig.trt.DynamicShapesKernelSpecializationStrategy.EAGER
        assert config.dynamic_shapes_kernel_specialization_strategy == eager and config.cuda_graph_strategy is None
    else:
        assert config is None


def test_buffers_grow_by_doubling_up_to_the_profile(rig: StandInRig) -> None:
    images, counts = shipped_batch(16), []
    with rig.session(rig.engine()) as session:
        for batch in (1, 2, 3, 4, 5, 9, 16):
            session.run(images[:batch])
            counts.append(rig.trt.cuda.allocations)
    # Host and device memory of input and output, each time.
    assert counts == [4, 8, 12, 12, 16, 20, 20]


def test_buffers_never_hold_more_than_the_profile(rig: StandInRig) -> None:
    images = shipped_batch(16)
    with rig.session(rig.engine()) as session:
        for batch in (9, 10):
            session.run(images[:batch])
        assert [len(buffer.host) for buffer in session._buffers] == [16, 16]


CALLS = ("execute_async_v3", "set_input_shape", "set_tensor_address", "set_optimization_profile_async")


@pytest.mark.parametrize("graph", [False, True], ids=["", "cuda-graph"])
@pytest.mark.parametrize("call", [*CALLS, "create_execution_context"])
def test_a_call_that_says_no_is_an_error_with_tensorrts_words(call: str, graph: bool, rig: StandInRig) -> None:
    images = shipped_batch(1)
    with rig.session(rig.engine(), graph=graph) as session:
        rig.trt.behaviour.refuses = {call}
        with pytest.raises(SessionError) as caught:
            session.run(images)
        assert f"{call} was told to fail" in str(caught.value.got)
        rig.trt.behaviour.refuses = set()
        assert session.run(images).shape == (1, 10)


def test_a_run_that_failed_half_way_leaves_nothing_under_way(rig: StandInRig) -> None:
    """The images are on their way to the device when the engine says no, and the session is closed at once."""
    with rig.session(rig.engine()) as session:
        rig.trt.behaviour.refuses = {"execute_async_v3"}
        with pytest.raises(SessionError, match="did not run"):
            session.run(shipped_batch(1))
        assert rig.trt.cuda.pending()


def test_a_graph_over_memory_that_was_freed_is_not_launched(rig: StandInRig) -> None:
    """The memory grows for a larger batch, whose run fails: the graph of the smaller one has the old addresses."""
    images = shipped_batch(8)
    with rig.session(rig.engine(), graph=True) as session:
        for _ in range(2):
            session.run(images[:1])
        rig.trt.behaviour.refuses = {"execute_async_v3"}
        with pytest.raises(SessionError):
            session.run(images)
        rig.trt.behaviour.refuses = set()
        assert_near(session.run(images[:1]), images[:1], rig)


def test_after_a_failed_kernel_its_error_is_told_not_those_that_follow(rig: StandInRig) -> None:
    cuda = rig.trt.cuda
    with pytest.raises(SessionError, match="failed on a batch") as caught, rig.session(rig.engine()) as session:
        session.run(shipped_batch(1))
        cuda.broken = True
        session.run(shipped_batch(1))
    assert "launch failure" in str(caught.value.got)
    # Nothing could be given back to a device in that state, but all of it was tried, and the context is let go.
    assert (cuda.stack, cuda.retained, cuda.trt_objects) == ([], 0, [])
    cuda.memory.clear()


def test_a_close_that_fails_is_an_error(rig: StandInRig, monkeypatch: pytest.MonkeyPatch) -> None:
    session = rig.session(rig.engine())
    session.run(shipped_batch(1))
    free = Buffer.free

    def refused(self: Buffer) -> None:
        free(self)
        raise stand_in.LogicError("cuMemFree failed: invalid argument")

    monkeypatch.setattr(Buffer, "free", refused)
    with pytest.raises(SessionError, match="cannot be closed") as caught:
        session.close()
    assert caught.value.got == "cuMemFree failed: invalid argument"
    session.close()


def test_an_engine_that_is_refused_is_an_error_with_tensorrts_words(rig: StandInRig) -> None:
    rig.trt.behaviour.refuses = {"deserialize_cuda_engine"}
    with pytest.raises(EngineError, match="does not open") as caught:
        rig.session(rig.engine())
    assert "told to fail" in str(caught.value.got) and "build-engine" in str(caught.value.remedy)


def test_tensorrt_rtx_says_why_an_engine_is_not_valid(rig: StandInRig) -> None:
    rig.trt.behaviour.validity, rig.trt.behaviour.diagnostics = "INVALID", 1 | 4
    if rig.runtime == "tensorrt":
        rig.session(rig.engine()).close()
        return
    with pytest.raises(EngineError, match="does not take") as caught:
        rig.session(rig.engine())
    assert caught.value.got == "version mismatch, old cuda driver"
    assert "deserialize_cuda_engine" not in rig.trt.behaviour.calls


def test_what_tensorrt_warns_of_is_told(rig: StandInRig) -> None:
    """And an error of one opening is not told of the next."""
    rig.trt.behaviour.refuses = {"deserialize_cuda_engine"}
    with pytest.raises(EngineError):
        rig.session(rig.engine())
    rig.trt.behaviour.refuses, rig.trt.behaviour.validity = set(), "SUBOPTIMAL"
    rig.trt.behaviour.warns = "it is slow here"
    with rig.session(rig.engine()) as session:
        suboptimal = [note for note in session.notes if "suboptimal" in note]
        assert len(suboptimal) == (rig.runtime == "tensorrt-rtx")
        assert "[WARNING] it is slow here" in session.notes and not any(
            "told to fail" in note for note in session.notes
        )
    path = rig.engine()
    rig.trt.behaviour.refuses = {"create_execution_context"}
    with rig.session(path) as session, pytest.raises(SessionError) as caught:
        session.run(shipped_batch(1))
    assert "create_execution_context was told to fail" in str(caught.value.got)


def test_an_output_of_another_size_is_an_error(rig: StandInRig) -> None:
    rig.trt.behaviour.output_rows = 1
    with rig.session(rig.engine()) as session, pytest.raises(SessionError, match="one row an image"):
        session.run(shipped_batch(2))


def test_an_engine_that_is_garbage_is_an_error(rig: StandInRig) -> None:
    path = rig.engine()
    path.write_bytes(b"\x00" * 64)
    with pytest.raises(AlexnetDeployError):
        rig.session(path, trust=True)


@pytest.mark.parametrize("bytes_left", [0, 10_000, 100_000])
def test_memory_that_runs_out_is_an_error_and_comes_back(bytes_left: int, rig: StandInRig) -> None:
    images = shipped_batch(16)
    with rig.session(rig.engine()) as session:
        rig.trt.cuda.bytes_left = bytes_left
        with pytest.raises(SessionError, match="failed on a batch") as caught:
            session.run(images)
        assert "out of memory" in str(caught.value.got)
        rig.trt.cuda.bytes_left = None
        assert session.run(images).shape == (16, 10)


GRAPH_CALLS = ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch")


@pytest.mark.parametrize("call", GRAPH_CALLS)
def test_a_graph_that_the_driver_refuses_is_an_error_not_a_run_without(call: str, rig: StandInRig) -> None:
    if rig.runtime == "tensorrt-rtx":
        pytest.skip("TensorRT-RTX captures by itself")
    images = shipped_batch(1)
    with rig.session(rig.engine(), graph=True) as session:
        rig.trt.cuda.refused = call
        with pytest.raises(SessionError, match=call):
            for _ in range(2):
                session.run(images)
        rig.trt.cuda.refused = None
        assert session.run(images).shape == (1, 10)


def test_an_error_inside_a_capture_ends_it(rig: StandInRig, monkeypatch: pytest.MonkeyPatch) -> None:
    if rig.runtime == "tensorrt-rtx":
        pytest.skip("TensorRT-RTX captures by itself")
    execute, runs = EngineSession._execute, itertools.count(1)

    def second_fails(self: EngineSession, context: object) -> None:
        if next(runs) == 2:
            raise SessionError("told to fail while capturing")
        execute(self, context)

    monkeypatch.setattr(EngineSession, "_execute", second_fails)
    images = shipped_batch(1)
    with rig.session(rig.engine(), graph=True) as session:
        with pytest.raises(SessionError, match="while capturing"):
            session.run(images)
        assert not rig.trt.cuda.capturing
        assert session.run(images).shape == (1, 10)


def test_a_package_that_is_missing_is_named(rig: StandInRig, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingDependencyError, match="pycuda") as caught:
        rig.session(rig.engine())
    assert "alexnet-deploy[cuda]" in str(caught.value.remedy)


def test_a_driver_that_does_not_start_is_an_error(rig: StandInRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(rig.trt.cuda, "init", broken)
    with pytest.raises(SessionError, match="does not start") as caught:
        rig.session(rig.engine())
    assert "no CUDA-capable device" in str(caught.value.got)


def test_code_inside_an_engine_runs_only_where_its_passport_says_so(rig: StandInRig) -> None:
    path = rig.engine()
    rig.session(path).close()
    assert "host code False" in rig.trt.behaviour.calls
    rig.trt.behaviour.calls.clear()
    facts = {"precision": "fp32", "backend": rig.runtime, "plan": {"sms": ["sm89"]}, "device": "a card"}
    options = {"version_compatible": True}
    write_passport(path, kind="engine", facts=facts | {"options": options}, tools={rig.runtime: rig.trt.__version__})
    rig.session(path).close()
    assert "host code True" in rig.trt.behaviour.calls


def test_the_stand_in_shows_what_was_not_waited_for(rig: StandInRig) -> None:
    """The suite above means something only if this is so."""
    cuda = rig.trt.cuda
    device = cuda.Device(0).retain_primary_context()
    device.push()
    stream = cuda.Stream()
    host, memory = cuda.pagelocked_empty((4,), np.float32), cuda.mem_alloc(16)
    host[:] = 1
    cuda.memcpy_htod_async(memory, host, stream)
    host[:] = 2
    with pytest.raises(Exception, match="work under way"):
        memory.free()
    stream.synchronize()
    assert memory.bytes.view(np.float32).tolist() == [2] * 4
    cuda.memcpy_dtoh_async(host, memory, stream)
    memory.bytes[:] = 0
    assert host.tolist() == [2] * 4
    stream.synchronize()
    assert host.tolist() == [0] * 4
    memory.free()
    cuda.memcpy_dtoh_async(host, memory, stream)
    with pytest.raises(Exception, match="illegal memory access"):
        stream.synchronize()
    host.base.free()  # type: ignore[union-attr]
    device.detach()
    assert cuda.stack == [] and cuda.driver_stack == [device]
    cuda.driver_stack.pop()
    with pytest.raises(Exception, match="no currently active context"):
        cuda.mem_alloc(16)

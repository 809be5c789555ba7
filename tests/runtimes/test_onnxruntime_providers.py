"""ONNX Runtime's GPU providers: what would run elsewhere is named, and nothing is opened with a way back to the CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import helper

from alexnet_deploy.errors import InputError, MissingDependencyError, RuntimeUnavailableError, SessionError
from alexnet_deploy.graph import write_graph
from alexnet_deploy.runtimes import onnxruntime as module
from alexnet_deploy.runtimes.onnxruntime import CPU, CUDA, PROVIDERS, RTX, RTX_PACKAGE, TENSORRT, require_assigned
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision
from tests.graphs import model_of

GPU_RUNTIMES = [name for name in PROVIDERS if name != "onnxruntime-cpu"]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="relu1"),
        helper.make_node("Flatten", ["a"], ["y"], name="flat"),
    ]
    path = tmp_path / "graph.onnx"
    write_graph(model_of(nodes, ["N", 3, 4, 4], {}), path)
    return path


def spec(runtime: str, path: Path, precision: Precision = Precision.FP16, max_batch: int = 16) -> SessionSpec:
    return SessionSpec(runtime=runtime, precision=precision, path=path, threads=1, max_batch=max_batch)


class Recorded:
    """onnxruntime's session and options: what they were given; computes on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, elsewhere: str | None = None) -> None:
        import onnxruntime

        self.entries: dict[str, str] = {}
        self.arguments: dict[str, Any] = {}
        self.devices: list[Any] = []
        self.registered: list[str] = []
        real, recorded = onnxruntime.InferenceSession, self

        class Options:
            def add_session_config_entry(self, key: str, value: str) -> None:
                recorded.entries[key] = value

            def add_provider_for_devices(self, devices: list[Any], chosen: dict[str, str]) -> None:
                recorded.arguments["devices"] = (devices, chosen)

        class Session:
            def __init__(self, path: str, options: Options, **arguments: Any) -> None:
                recorded.arguments |= arguments
                self._real = real(path, providers=[CPU])

            def get_provider_graph_assignment_info(self) -> list[Any]:
                chosen = recorded.arguments.get("providers", [(RTX, {})])[0][0]
                node = SimpleNamespace(name="relu1", op_type="Relu")
                return [SimpleNamespace(ep_name=elsewhere or chosen, get_nodes=lambda: [node])]

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

        def register(name: str, path: str) -> None:
            self.registered.append(path)
            self.devices.append(SimpleNamespace(ep_name=name))

        monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU, CUDA, TENSORRT])
        monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: self.devices)
        monkeypatch.setattr(onnxruntime, "register_execution_provider_library", register)
        monkeypatch.setattr(module, "count_gpus", lambda: 1)
        monkeypatch.setattr(module, "tensorrt_module", lambda _backend: SimpleNamespace(__version__="10.16.1"))
        package: Any = ModuleType(RTX_PACKAGE)
        package.get_ep_name, package.get_library_path = lambda: RTX, lambda: "/libprovider.so"
        monkeypatch.setitem(sys.modules, RTX_PACKAGE, package)


def test_onnxruntime_says_where_its_nodes_run(graph: Path) -> None:
    """The real one: on the CPU, where a GPU was wanted."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(graph), options, providers=[CPU])
    require_assigned(session, CPU)
    with pytest.raises(SessionError, match=f"2 nodes would not run on {CUDA}") as caught:
        require_assigned(session, CUDA)
    assert caught.value.got == f"relu1 (Relu) on {CPU}, flat (Flatten) on {CPU}"


def test_many_nodes_elsewhere_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [SimpleNamespace(name=f"n{index}", op_type="Relu") for index in range(20)]
    part = SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes)
    with pytest.raises(SessionError, match="20 nodes") as caught:
        require_assigned(SimpleNamespace(get_provider_graph_assignment_info=lambda: [part]), CUDA)
    assert str(caught.value.got).endswith("and 12 more") and str(caught.value.got).count("(Relu)") == 8


def test_an_onnxruntime_that_does_not_say_it_is_refused() -> None:
    with pytest.raises(SessionError, match="does not say where") as caught:
        require_assigned(SimpleNamespace(), CUDA)
    assert caught.value.remedy


@pytest.mark.parametrize("runtime", GPU_RUNTIMES)
def test_one_node_on_the_cpu_fails_the_session(runtime: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorded(monkeypatch, elsewhere=CPU)
    with pytest.raises(SessionError, match=f"1 nodes would not run on {PROVIDERS[runtime]}"):
        open_session(spec(runtime, graph))


@pytest.mark.parametrize("runtime", GPU_RUNTIMES)
def test_no_way_back_to_the_cpu_is_offered(runtime: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    with open_session(spec(runtime, graph)) as session:
        assert session.image_shape == (3, 4, 4)
        assert session.run(np.ones((2, 3, 4, 4), np.float32)).shape == (2, 48)
    assert recorded.entries["session.record_ep_graph_assignment_info"] == "1"
    if runtime == "onnxruntime-tensorrt-rtx":
        # With `providers` the devices that were added would be left out without a word.
        assert "providers" not in recorded.arguments and recorded.arguments["enable_fallback"] == 0
        assert recorded.arguments["devices"][0] == recorded.devices[:1]
    else:
        assert recorded.arguments["enable_fallback"] == 0
        assert [name for name, _ in recorded.arguments["providers"]] == [PROVIDERS[runtime]]


@pytest.mark.parametrize(("runtime", "prefix"), [("onnxruntime-tensorrt", "trt"), ("onnxruntime-tensorrt-rtx", "nv")])
def test_one_engine_is_built_for_every_batch(
    runtime: str, prefix: str, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    with open_session(spec(runtime, graph, max_batch=8)) as session:
        with pytest.raises(InputError, match="no batch of that size") as caught:
            session.run(np.ones((9, 3, 4, 4), np.float32))
        assert caught.value.expected == "1 to 8"
    chosen = (recorded.arguments.get("providers") or [recorded.arguments.get("devices")])[0][1]
    assert chosen == {
        f"{prefix}_profile_min_shapes": "x:1x3x4x4",
        f"{prefix}_profile_opt_shapes": "x:1x3x4x4",
        f"{prefix}_profile_max_shapes": "x:8x3x4x4",
    }


@pytest.mark.parametrize(("precision", "expected"), [(Precision.FP32, {"use_tf32": "0"}), (Precision.FP16, {})])
def test_fp32_on_cuda_is_not_tf32(
    precision: Precision, expected: dict[str, str], graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    open_session(spec("onnxruntime-cuda", graph, precision)).close()
    assert recorded.arguments["providers"] == [(CUDA, expected)]


def test_the_providers_library_is_registered_once(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    for _ in range(2):
        open_session(spec("onnxruntime-tensorrt-rtx", graph)).close()
    assert recorded.registered == ["/libprovider.so"]


def test_a_provider_that_finds_no_device_says_so(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    Recorded(monkeypatch)
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda _name, _path: None)
    with pytest.raises(RuntimeUnavailableError, match="no device that it supports"):
        open_session(spec("onnxruntime-tensorrt-rtx", graph))


def test_a_provider_that_does_not_load_is_an_error(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def broken(name: str, path: str) -> None:
        raise RuntimeError("libcuda.so.1: cannot open shared object file\nmore")

    Recorded(monkeypatch)
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", broken)
    with pytest.raises(SessionError, match="cannot be loaded") as caught:
        open_session(spec("onnxruntime-tensorrt-rtx", graph))
    assert caught.value.got == "libcuda.so.1: cannot open shared object file"


def test_the_providers_package_is_named_where_it_is_missing(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorded(monkeypatch)
    monkeypatch.setitem(sys.modules, RTX_PACKAGE, None)
    with pytest.raises(MissingDependencyError, match="onnxruntime-ep-nv-tensorrt-rtx") as caught:
        open_session(spec("onnxruntime-tensorrt-rtx", graph))
    assert "rtx-provider" in str(caught.value.remedy)


def test_the_tensorrt_provider_takes_the_version_it_was_built_for(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorded(monkeypatch)
    monkeypatch.setattr(module, "tensorrt_module", lambda _backend: SimpleNamespace(__version__="11.1.0"))
    with pytest.raises(RuntimeUnavailableError, match=r"takes TensorRT 10, and here is 11\.1\.0"):
        open_session(spec("onnxruntime-tensorrt", graph))


def test_a_provider_that_this_build_lacks_says_so(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    Recorded(monkeypatch)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(RuntimeUnavailableError, match=f"no {CUDA}"):
        open_session(spec("onnxruntime-cuda", graph))

"""Every option becomes its call and no other, and TensorRT's own way through the builder holds together.

TensorRT installs only where NVIDIA's index is reachable: what is called is recorded here, and TensorRT-RTX's bindings
stand in for it where its way is gone from end to end.
"""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_deploy.engines import build
from alexnet_deploy.engines import options as options_module
from alexnet_deploy.engines.build import engine_from_onnx
from alexnet_deploy.engines.config import config_from_options, use_timing_cache
from alexnet_deploy.engines.options import EngineOptions, Profile
from alexnet_deploy.engines.plan import read_plan
from alexnet_deploy.engines.proof import Plan
from alexnet_deploy.errors import EngineError
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Precision
from tests.graphs import CONVOLUTIONS, LINEARS, engine_graph


def enum(*names: str) -> Any:
    return type("Enum", (), {name: name for name in names})


class Config:
    """Records what is set and called."""

    def __init__(self) -> None:
        object.__setattr__(self, "set", {})
        object.__setattr__(self, "calls", [])

    def __setattr__(self, name: str, value: Any) -> None:
        self.set[name] = value

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, *arguments))


class Profiles:
    def __init__(self) -> None:
        self.shapes: list[Any] = []

    def set_shape(self, *arguments: Any) -> None:
        self.shapes.append(arguments)


TRT = SimpleNamespace(
    ProfilingVerbosity=enum("DETAILED"),
    MemoryPoolType=enum("WORKSPACE"),
    HardwareCompatibilityLevel=enum("AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
    BuilderFlag=enum("VERSION_COMPATIBLE", "REFIT", "REFIT_IDENTICAL", "STRIP_PLAN", "TF32"),
    ComputeCapability=enum("SM86", "SM89"),
)


def configured(shape: tuple[int, ...] = (-1, 3, 8, 8), **options: Any) -> tuple[Config, list[Any]]:
    config, made = Config(), list[Profiles]()

    def create_profile() -> Profiles:
        made.append(Profiles())
        return made[-1]

    builder = SimpleNamespace(create_builder_config=lambda: config, create_optimization_profile=create_profile)
    network = SimpleNamespace(get_input=lambda _: SimpleNamespace(name="x", shape=shape))
    asked = EngineOptions(**{"backend": "tensorrt", "sms": (89,), **options})
    config_from_options(TRT, builder, network, asked)
    return config, [shapes for profile in made for shapes in profile.shapes]


def test_tensorrt_is_asked_for_details_and_for_nothing_else() -> None:
    config, shapes = configured()
    assert config.set == {"profiling_verbosity": "DETAILED"}
    assert [name for name, *_ in config.calls] == ["add_optimization_profile"]
    assert shapes == [("x", (1, 3, 8, 8), (1, 3, 8, 8), (16, 3, 8, 8))]


def test_tensorrt_rtx_is_told_its_targets() -> None:
    config, _ = configured(backend="tensorrt-rtx", sms=(86, 89))
    assert config.set == {"num_compute_capabilities": 2}
    assert config.calls[:2] == [("set_compute_capability", "SM86", 0), ("set_compute_capability", "SM89", 1)]


@pytest.mark.parametrize(
    ("options", "values", "calls"),
    [
        ({"workspace_bytes": 1 << 20}, {}, [("set_memory_pool_limit", "WORKSPACE", 1 << 20)]),
        ({"workspace_bytes": 1}, {}, [("set_memory_pool_limit", "WORKSPACE", 1)]),
        ({"optimization_level": 0}, {"builder_optimization_level": 0}, []),
        ({"hardware_compatible": "ampere+"}, {"hardware_compatibility_level": "AMPERE_PLUS"}, []),
        ({"hardware_compatible": "same-sm"}, {"hardware_compatibility_level": "SAME_COMPUTE_CAPABILITY"}, []),
        ({"version_compatible": True}, {}, [("set_flag", "VERSION_COMPATIBLE")]),
        ({"refit": True}, {}, [("set_flag", "REFIT")]),
        ({"strip": True}, {}, [("set_flag", "REFIT_IDENTICAL"), ("set_flag", "STRIP_PLAN")]),
        ({"strip": True, "refit": True}, {}, [("set_flag", "REFIT"), ("set_flag", "STRIP_PLAN")]),
        ({"precision": Precision.FP32}, {}, [("clear_flag", "TF32")]),
    ],
)
def test_an_option_is_its_call(options: dict[str, Any], values: dict[str, Any], calls: list[Any]) -> None:
    config, _ = configured(**options)
    assert config.set == {"profiling_verbosity": "DETAILED", **values}
    assert [call for call in config.calls if call[0] != "add_optimization_profile"] == calls


def test_tensorrt_rtx_strips_weights_by_the_general_flag() -> None:
    config, _ = configured(backend="tensorrt-rtx", strip=True)
    flags = [call[1] for call in config.calls if call[0] == "set_flag"]
    assert flags == ["REFIT", "STRIP_PLAN"]


def test_every_profile_is_added() -> None:
    config, shapes = configured(profiles=(Profile(max=1), Profile(min=2, opt=4, max=8)))
    assert [batches[0] for _, *row in shapes for batches in row] == [1, 1, 1, 2, 4, 8]
    assert [name for name, *_ in config.calls].count("add_optimization_profile") == 2


def test_a_fixed_batch_gets_no_profile_and_a_dynamic_size_is_refused() -> None:
    assert configured(shape=(4, 3, 8, 8))[1] == []
    with pytest.raises(EngineError, match="image size is dynamic"):
        configured(shape=(-1, 3, -1, -1))


def test_a_backend_that_is_too_old_says_what_it_lacks() -> None:
    with pytest.raises(EngineError, match=r"Enum\.SM120"):
        configured(backend="tensorrt-rtx", sms=(120,))


@pytest.mark.parametrize(
    ("stored", "fits", "taken"), [(b"", True, False), (b"old", True, True), (b"old", False, False)]
)
def test_a_timing_cache_of_another_machine_is_not_taken(stored: bytes, fits: bool, taken: bool) -> None:
    given: list[tuple[bytes, bool]] = []

    def set_timing_cache(cache: bytes, ignore_mismatch: bool) -> bool:
        given.append((cache, ignore_mismatch))
        return fits or not cache

    config = SimpleNamespace(create_timing_cache=lambda data: data, set_timing_cache=set_timing_cache)
    assert use_timing_cache(config, stored) is taken
    assert given[-1] == (stored if taken else b"", False)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """TensorRT-RTX's bindings under the name of TensorRT, on a machine with a GPU of SM89."""
    trt = pytest.importorskip("tensorrt_rtx")
    asked: dict[str, Any] = {}

    def inspected(_trt: Any, data: bytes, layers: dict[str, str], sm: int) -> Plan:
        asked.update(layers=layers, sm=sm)
        return read_plan(data)

    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(options_module, "gpu_sm", lambda: 89)
    monkeypatch.setattr(build, "plan_from_engine", inspected)
    return asked


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_the_way_of_tensorrt_from_end_to_end(tensorrt: dict[str, Any]) -> None:
    options = EngineOptions(
        precision=Precision.FP16, backend="tensorrt", optimization_level=3, workspace_bytes=64 << 20
    )
    built = engine_from_onnx(engine_graph(Precision.FP16), options)
    assert (built.options.backend, built.options.sms) == ("tensorrt", (89,))
    assert tensorrt["sm"] == 89
    # What the inspector's answer is read by: names of the network's layers, as the parser gives them.
    assert tensorrt["layers"] == {**dict.fromkeys(CONVOLUTIONS, "conv"), **dict.fromkeys(LINEARS, "linear")}
    assert isinstance(built.timing_cache, bytes)
    assert {layer.precision for layer in built.plan.layers} == {"fp16"}


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_a_timing_cache_that_is_not_taken_is_said(tensorrt: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "use_timing_cache", lambda config, _stored: use_timing_cache(config, b""))
    said = io.StringIO()
    options = EngineOptions(precision=Precision.FP16, backend="tensorrt")
    engine_from_onnx(engine_graph(Precision.FP16), options, timing_cache=b"old", voice=Voice(stream=said))
    assert "timing cache is not one of this TensorRT and GPU" in said.getvalue()

"""Kernels travel in an engine whole; the one for the device at hand is loaded, and launched with the right arguments.

The driver is a recording one: there is a GPU only where tests/gpu runs.
"""

from __future__ import annotations

import ctypes
import enum
import json
import struct
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import AlexnetDeployError, EngineError, MissingDependencyError
from alexnet_deploy.lrn.cubin import CompiledKernel
from alexnet_deploy.lrn.kernel_spec import KernelSpec
from alexnet_deploy.lrn.launch import LoadedKernel, PackedKernel, carried_sms, kernel_for, packed, unpacked
from alexnet_deploy.specs import LrnSpec, Precision

SMS = (75, 80, 86, 89, 90, 100, 120, 121)


def compiled(sm: int, cubin: bytes = b"code", threads: int = 128, shared_bytes: int = 0) -> CompiledKernel:
    return CompiledKernel(
        spec=KernelSpec(lrn=LrnSpec()), sm=sm, precision=Precision.FP16, name="lrn_kernel", ptx="", cubin=cubin,
        threads=threads, shared_bytes=shared_bytes, registers=32, spill_bytes=0,
    )  # fmt: skip


def held(*sms: int) -> tuple[PackedKernel, ...]:
    return unpacked(packed(compiled(sm, f"code of {sm}".encode()) for sm in sms))


kernels = st.lists(
    st.builds(compiled, st.sampled_from(SMS), st.binary(max_size=40), st.integers(32, 1024), st.integers(0, 1 << 16)),
    unique_by=lambda kernel: kernel.sm,
    max_size=4,
)


@given(kernels)
def test_what_is_packed_comes_out_in_the_order_of_the_sms(given_kernels: list[CompiledKernel]) -> None:
    data = packed(given_kernels)
    assert unpacked(data) == tuple(
        PackedKernel(sm=k.sm, name=k.name, threads=k.threads, shared_bytes=k.shared_bytes, cubin=k.cubin)
        for k in sorted(given_kernels, key=lambda kernel: kernel.sm)
    )
    assert packed(reversed(given_kernels)) == data


@given(kernels, st.data())
def test_a_block_that_is_cut_short_is_an_error(given_kernels: list[CompiledKernel], data: st.DataObject) -> None:
    whole = packed(given_kernels)
    with pytest.raises(EngineError, match="cannot be read") as caught:
        unpacked(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert caught.value.got is not None


# Values that a careless reader would slice, iterate or call with.
ROW = st.fixed_dictionaries(
    {},
    optional={
        "sm": st.integers(), "name": st.text(), "threads": st.integers(), "shared_bytes": st.none(),
        "size": st.one_of(st.integers(-9, 9), st.text(max_size=2), st.floats(), st.none()), "more": st.none(),
    },
)  # fmt: skip
HEADERS = st.one_of(
    st.binary(max_size=40),
    st.one_of(st.integers(), st.text(), st.none(), st.lists(st.one_of(ROW, st.integers(), st.text()), max_size=3)).map(
        lambda value: json.dumps(value).encode()
    ),
)


@given(HEADERS, st.integers(-5, 5), st.binary(max_size=9))
def test_damage_is_an_error_of_the_engine_and_of_nothing_else(header: bytes, off: int, rest: bytes) -> None:
    data = struct.pack("<I", max(0, len(header) + off)) + header + rest
    try:
        found = unpacked(data)
    except EngineError:
        return
    assert all(isinstance(kernel, PackedKernel) for kernel in found)


@pytest.mark.parametrize(
    ("sms", "device", "chosen"),
    [
        ((75, 80, 86, 89), 86, 86),
        ((75, 80, 86, 89), 87, 86),
        ((80, 89), 86, 80),
        ((86, 80, 75), 89, 86),
        ((100, 120, 121), 121, 121),
        ((100, 120), 121, 120),
        ((90,), 90, 90),
        ((100,), 103, 100),
    ],
)
def test_the_newest_kernel_of_the_generation_runs(sms: tuple[int, ...], device: int, chosen: int) -> None:
    assert kernel_for(held(*sms), device).sm == chosen
    assert kernel_for(reversed(held(*sms)), device).sm == chosen


@pytest.mark.parametrize(
    ("sms", "device"), [((89,), 86), ((80, 86, 89), 90), ((86,), 120), ((121,), 120), ((80,), 75), ((100,), 120)]
)
def test_a_gpu_without_a_kernel_is_told_to_build_anew(sms: tuple[int, ...], device: int) -> None:
    with pytest.raises(EngineError, match=f"no kernel for SM{device}") as caught:
        kernel_for(held(*sms), device)
    assert caught.value.got == ", ".join(f"sm{sm}" for sm in sms)
    assert caught.value.remedy == f"build it again with --sm sm{device}"


def test_no_kernels_at_all_are_none() -> None:
    with pytest.raises(EngineError) as caught:
        kernel_for([], 89)
    assert caught.value.got == "none"


def test_a_plan_carries_the_sms_that_all_of_its_blocks_have() -> None:
    first, second = (packed(map(compiled, sms)) for sms in ((89, 86, 120), (120, 80, 89)))
    assert carried_sms(b"") == carried_sms(b"vtrt" * 99) == ()
    assert carried_sms(b"plan" + first + b"more") == (86, 89, 120)
    assert carried_sms(b"plan" + first + b"more" + second) == (89, 120)
    assert carried_sms(first + packed([compiled(75)])) == ()


@pytest.mark.parametrize("at", range(4, 120, 7))
def test_a_damaged_block_in_a_plan_is_an_error_or_not_seen(at: int) -> None:
    plan = bytearray(b"plan" + packed(map(compiled, (86, 89))) + b"more")
    plan[at] ^= 0xFF
    try:
        assert set(carried_sms(bytes(plan))) <= {86, 89}
    except EngineError as exc:
        assert "cannot be read" in exc.problem


def test_a_block_that_is_no_longer_json_is_an_error() -> None:
    plan = (b"plan" + packed(map(compiled, (86, 89)))).replace(b'"lrn_kernel", ', b'"lrn_kernel"; ', 1)
    with pytest.raises(EngineError, match="cannot be read"):
        carried_sms(plan)


class Status(enum.IntEnum):
    """Of the driver; only the first is none of an error."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1


class Attribute(enum.Enum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class Driver(ModuleType):
    """`cuda.bindings.driver` for a GPU of architecture `sm`, which notes what it is called with."""

    CUdevice_attribute = Attribute

    def __init__(self, sm: int, refused: str = "") -> None:
        super().__init__("cuda.bindings.driver")
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        answers: dict[str, Callable[..., tuple[Any, ...]]] = {
            "cuCtxGetDevice": lambda: ("device",),
            "cuDeviceGetAttribute": lambda attribute, device: (
                sm // 10 if attribute.name.endswith("MAJOR") else sm % 10,
            ),
            "cuLibraryLoadData": lambda *_: ("library",),
            "cuLibraryGetKernel": lambda *_: ("kernel",),
            "cuLaunchKernel": lambda *_: (),
        }
        for name, answer in answers.items():
            setattr(self, name, self._function(name, answer, name == refused))

    def _function(self, name: str, answer: Callable[..., tuple[Any, ...]], refuse: bool) -> Callable[..., Any]:
        def function(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            return (Status.CUDA_ERROR_INVALID_VALUE, None) if refuse else (Status.CUDA_SUCCESS, *answer(*arguments))

        function.__name__ = name
        return function

    def arguments_of(self, name: str) -> tuple[Any, ...]:
        (found,) = (arguments for called, arguments in self.calls if called == name)
        return found


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    package.bindings, bindings.driver = bindings, driver  # type: ignore[attr-defined]
    for module in (package, bindings, driver):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return driver


@pytest.mark.parametrize(("device", "chosen"), [(86, 86), (87, 86), (89, 89), (120, 120)])
def test_the_kernel_of_the_device_is_loaded(monkeypatch: pytest.MonkeyPatch, device: int, chosen: int) -> None:
    driver = install(monkeypatch, Driver(device))
    LoadedKernel(held(75, 86, 89, 120))
    code, *options = driver.arguments_of("cuLibraryLoadData")
    assert code == f"code of {chosen}".encode()
    assert options == [[], [], 0, [], [], 0]
    assert driver.arguments_of("cuLibraryGetKernel") == ("library", b"lrn_kernel")
    assert [device for name, (_, device) in driver.calls[1:3]] == ["device", "device"]


def test_a_launch_passes_everything_on_in_the_kernels_order(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, Driver(89))
    loaded = LoadedKernel(unpacked(packed([compiled(89, threads=192, shared_bytes=1024)])))
    loaded.launch(0x7F00_0000_0100, (96, 55, 54, 27, 26), 0x7F00_0000_0200, grid=138, stream=0x5555)
    kernel, *numbers, arguments, extra = driver.arguments_of("cuLaunchKernel")
    assert kernel == "kernel"
    assert numbers == [138, 1, 1, 192, 1, 1, 1024, 0x5555]
    values, types = arguments
    assert values == (0x7F00_0000_0100, 96, 55, 54, 27, 26, 0x7F00_0000_0200)
    assert types == (ctypes.c_void_p, *[ctypes.c_int] * 5, ctypes.c_void_p)
    assert extra == 0


def test_the_kernels_own_signature_is_the_order_of_a_launch() -> None:
    from alexnet_deploy.lrn.kernel import compiled_lrn

    assert compiled_lrn.arg_names[:7] == ["x_ptr", "channels", "height", "width", "out_height", "out_width", "y_ptr"]


@pytest.mark.parametrize("name", ["cuCtxGetDevice", "cuDeviceGetAttribute", "cuLibraryLoadData", "cuLibraryGetKernel"])
def test_a_refusal_while_loading_names_the_call(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch, Driver(89, refused=name))
    with pytest.raises(EngineError, match=f"refused {name} ") as caught:
        LoadedKernel(held(89))
    assert caught.value.got == "CUDA_ERROR_INVALID_VALUE"


def test_a_refused_launch_names_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(89, refused="cuLaunchKernel"))
    loaded = LoadedKernel(held(89))
    with pytest.raises(EngineError, match="refused cuLaunchKernel "):
        loaded.launch(1, (1, 1, 1, 1, 1), 2, grid=1, stream=0)


def test_nothing_is_loaded_for_a_device_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, Driver(90))
    with pytest.raises(EngineError, match="no kernel for SM90"):
        LoadedKernel(held(86, 89))
    assert {name for name, _ in driver.calls} == {"cuCtxGetDevice", "cuDeviceGetAttribute"}


def test_without_the_bindings_the_remedy_is_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingDependencyError, match="cuda-bindings") as caught:
        LoadedKernel(held(89))
    assert caught.value.remedy and "alexnet-deploy[cuda]" in caught.value.remedy


def test_the_real_bindings_take_these_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the driver: the bindings convert a call's arguments before they look for it."""
    driver = pytest.importorskip("cuda.bindings.driver")
    from alexnet_deploy.machine import count_gpus

    if count_gpus():
        pytest.skip("these pointers are made up")
    loaded = object.__new__(LoadedKernel)
    kernel = driver.CUkernel(5)
    monkeypatch.setattr(loaded, "_driver", driver, raising=False)
    monkeypatch.setattr(loaded, "_packed", held(89)[0], raising=False)
    monkeypatch.setattr(loaded, "_kernel", kernel, raising=False)
    with pytest.raises(RuntimeError) as caught:
        loaded.launch(1, (1, 1, 1, 1, 1), 2, grid=1, stream=7)
    assert not isinstance(caught.value, (TypeError, AlexnetDeployError)) and "cuda" in str(caught.value).lower()

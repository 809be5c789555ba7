"""What is used of pycuda and of the driver's graph calls exists there, and buffers and graphs free what they took."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.errors import SessionError
from alexnet_deploy.runtimes import cuda as module
from alexnet_deploy.runtimes.cuda import Buffer, Device, driver_errors
from tests.runtimes import stand_in
from tests.runtimes.stand_in import HostTensorRt, install

PYCUDA = json.loads((Path(__file__).parent / "pycuda-2026.1.json").read_text())
RUNTIMES = Path(module.__file__).parent
# What an expression is: the class of pycuda's whose member stands behind its dot.
KINDS = {
    "self._context": "Context",
    "self._stream": "Stream",
    "stream": "Stream",
    "begun": "Event",
    "copied": "Event",
    "computed": "Event",
    "done": "Event",
    "self._memory": "DeviceAllocation",
    "host.base": "PagelockedHostAllocation",
    "self.host.base": "PagelockedHostAllocation",
    "self.cuda.Device(0)": "Device",
}
MODULE = ("self.cuda", "self._cuda", "self._device.cuda")


def attributes(*files: str) -> Iterator[tuple[str, str]]:
    for file in files:
        for node in ast.walk(ast.parse((RUNTIMES / file).read_text())):
            if isinstance(node, ast.Attribute):
                yield ast.unparse(node.value), node.attr


def test_every_name_of_pycuda_exists() -> None:
    names = {*PYCUDA["functions"], *PYCUDA["classes"]}
    found = {owner: set[str]() for owner in (*MODULE, *KINDS)}
    for owner, name in attributes("cuda.py", "engine.py"):
        if owner in MODULE:
            found[owner].add(name)
            assert name in names, name
        elif owner in KINDS:
            found[owner].add(name)
            assert name in PYCUDA["classes"][KINDS[owner]], f"{KINDS[owner]}.{name}"
    assert all(found.values()), f"nothing read of {[owner for owner, members in found.items() if not members]}"


def test_the_stand_in_has_no_name_that_pycuda_lacks() -> None:
    own = {
        "init",
        "Device",
        "Stream",
        "Event",
        "mem_alloc",
        "pagelocked_empty",
        "memcpy_htod_async",
        "memcpy_dtoh_async",
    }
    assert own <= set(dir(stand_in.HostCuda)) and own <= {*PYCUDA["functions"], *PYCUDA["classes"]}
    for stand, kind in (
        (stand_in.HostStream, "Stream"),
        (stand_in.HostEvent, "Event"),
        (stand_in.HostContext, "Context"),
    ):
        methods = {name for name in vars(stand) if not name.startswith("_")} - {"put", "handle"}
        assert methods and methods <= set(PYCUDA["classes"][kind])


def test_every_name_of_the_driver_exists() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    names = {name for owner, name in attributes("cuda.py") if owner in ("driver", "self._driver")}
    assert {"cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch"} <= names
    assert [name for name in sorted(names) if not hasattr(driver, name)] == []
    assert hasattr(driver.CUstreamCaptureMode, "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> HostTensorRt:
    return install(monkeypatch, "tensorrt")


def test_a_buffer_whose_device_memory_fails_leaves_nothing(trt: HostTensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    with device.last():
        buffer = Buffer(device, (4,), np.float32, limit=8)

        def refused(size: int) -> None:
            raise stand_in.MemoryError_("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(trt.cuda, "mem_alloc", refused)
            with pytest.raises(stand_in.MemoryError_):
                buffer.reserve(2)
        assert trt.cuda.memory == {} and len(buffer.host) == 0
        assert buffer.reserve(2)
        assert not buffer.reserve(1)
        buffer.free()
        buffer.free()
    assert trt.cuda.memory == {} and trt.cuda.retained == 0


def test_the_stack_is_empty_after_an_error(trt: HostTensorRt) -> None:
    device = Device()
    with pytest.raises(ZeroDivisionError), device.current():
        raise ZeroDivisionError
    assert trt.cuda.stack == []
    with pytest.raises(ZeroDivisionError), device.last():
        raise ZeroDivisionError
    assert trt.cuda.stack == [] and trt.cuda.retained == 0


def test_foreign_errors_become_ours_and_ours_stay() -> None:
    with pytest.raises(SessionError, match="problem") as caught, driver_errors("problem"):
        raise ValueError("first line\nsecond")
    assert caught.value.got == "first line"
    with pytest.raises(SessionError) as nameless, driver_errors("problem"):
        raise ZeroDivisionError
    assert nameless.value.got == "ZeroDivisionError"
    own = SessionError("mine")
    with pytest.raises(SessionError) as kept, driver_errors("problem"):
        raise own
    assert kept.value is own

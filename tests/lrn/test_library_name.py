"""A stand-in for a missing library name is a library that the loader takes, and nothing else changes.

What the loader keeps it keeps for the life of a process, so each is asked in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_deploy.errors import EngineError
from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.lrn.library_name import alias_library, preload_alias
from alexnet_deploy.lrn.node import lower_to_plugin
from tests.graphs import small_graph

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"), reason="ELF of other processors"
)
MISSING, PRESENT = "libnot-there.so", "libm.so.6"


def in_its_own_process(program: str, *arguments: object) -> str:
    """Standard output, without any search path for libraries."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip()


@pytest.mark.parametrize("missing", [MISSING, "libx.so", "libnot-there-" + "a" * 100 + ".so.11"])
def test_the_loader_finds_the_symbols_of_the_present_library_under_the_missing_name(missing: str) -> None:
    program = f"""
import ctypes
from alexnet_deploy.lrn.library_name import preload_alias
preload_alias({missing!r}, {PRESENT!r})
library = ctypes.CDLL({missing!r})
library.sqrt.restype, library.sqrt.argtypes = ctypes.c_double, [ctypes.c_double]
print(library.sqrt(9.0))
"""
    assert in_its_own_process(program) == "3.0"


def test_the_library_is_loaded_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "any-name"
    path.write_bytes(alias_library(MISSING, PRESENT))
    program = f"""
import ctypes, sys
ctypes.CDLL(sys.argv[1])
library = ctypes.CDLL({MISSING!r})
library.cos.restype, library.cos.argtypes = ctypes.c_double, [ctypes.c_double]
print(library.cos(0.0))
"""
    assert in_its_own_process(program, path) == "1.0"


def test_it_names_itself_and_what_it_depends_on_and_holds_no_code() -> None:
    data = alias_library(MISSING, PRESENT)
    assert data[:7] == b"\x7fELF\x02\x01\x01"
    kind, machine = struct.unpack_from("<HH", data, 16)
    assert (kind, machine) == (3, {"x86_64": 62, "aarch64": 183}[platform.machine()])
    at, each, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", data, at + index * each) for index in range(count)]
    executable = [kind for kind, flags, *_ in segments if flags & 1]
    assert not executable
    (_, _, start, _, _, size, _, _), = (segment for segment in segments if segment[0] == 2)  # fmt: skip
    entries = [struct.unpack_from("<QQ", data, offset) for offset in range(start, start + size, 16)]
    table = dict(entries)
    assert entries[-1] == (0, 0) and start + size == len(data)

    def text(tag: int) -> bytes:
        return data[table[5] + table[tag] :].split(b"\0")[0]

    assert (text(14), text(1)) == (MISSING.encode(), PRESENT.encode())
    assert table[10] == len(MISSING) + len(PRESENT) + 3


def test_a_name_that_can_be_opened_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise AssertionError(name)

    monkeypatch.setattr(os, "memfd_create", refuse)
    preload_alias.__wrapped__(PRESENT, "libnothing-at-all.so")


def test_a_processor_without_a_stand_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(EngineError, match="processor") as caught:
        alias_library(MISSING, PRESENT)
    assert caught.value.got == "riscv64" and "x86_64" in str(caught.value.expected)
    with pytest.raises(EngineError, match="processor"):
        preload_alias.__wrapped__(MISSING, PRESENT)


def test_a_stand_in_for_nothing_is_refused() -> None:
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(EngineError, match=r"libnot-there\.so is missing.*libnothing-at-all\.so cannot") as caught:
        preload_alias.__wrapped__(MISSING, "libnothing-at-all.so")
    assert "libnothing-at-all.so" in str(caught.value.got)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files
    with pytest.raises(OSError, match="libnot-there"):
        ctypes.CDLL(MISSING)


def test_a_system_without_files_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(EngineError, match="cannot hold a stand-in"):
        preload_alias.__wrapped__(MISSING, PRESENT)


def test_an_engine_with_the_plugin_is_built_where_no_search_path_helps(tmp_path: Path) -> None:
    """TensorRT-RTX's parser ends the process where it does not find its library under the name without a version."""
    pytest.importorskip("tensorrt_rtx")
    model = small_graph()
    lower_to_plugin(model)
    (tmp_path / "graph.onnx").write_bytes(graph_bytes(model))
    program = """
import sys
from pathlib import Path
from alexnet_deploy.engines.build import engine_from_onnx
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.engines.plan import read_plan
from alexnet_deploy.specs import Precision
options = EngineOptions(precision=Precision.FP32, backend="tensorrt-rtx", sms=(89,), plugin=True)
print(len(read_plan(engine_from_onnx(Path(sys.argv[1]).read_bytes(), options).data).plugins))
"""
    assert in_its_own_process(program, tmp_path / "graph.onnx") == "2"

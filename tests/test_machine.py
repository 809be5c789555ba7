"""What is said of the machine is what the system says, and nothing that names a person."""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy import machine


class Driver:
    """Stands in for libcuda."""

    def __init__(self, devices: int, *, starts: bool = True, counts: bool = True) -> None:
        self._devices, self._starts, self._counts = devices, starts, counts

    def cuInit(self, _flags: int) -> int:
        return 0 if self._starts else 100

    def cuDeviceGetCount(self, count: Any) -> int:
        if not self._counts:
            return 3
        count._obj.value = self._devices
        return 0


@pytest.mark.parametrize(
    ("driver", "count"),
    [
        (Driver(0), 0),
        (Driver(1), 1),
        (Driver(4), 4),
        (Driver(4, starts=False), 0),
        (Driver(4, counts=False), 0),
        (None, 0),
    ],
)
def test_gpus_are_counted_by_the_driver(driver: Driver | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_name: str) -> Driver:
        if driver is None:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert machine.count_gpus.__wrapped__() == count


class Ada(Driver):
    """An RTX 4090's answer to the questions about its compute capability."""

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _device: int) -> int:
        value._obj.value = {75: 8, 76: 9}[attribute]
        return 0


@pytest.mark.parametrize(("driver", "sm"), [(Ada(1), 89), (Ada(0), None), (None, None)])
def test_the_first_gpu_says_its_architecture(
    driver: Driver | None, sm: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_cuda_driver", lambda: driver)
    monkeypatch.setattr(machine, "count_gpus", machine.count_gpus.__wrapped__)
    assert machine.gpu_sm.__wrapped__() == sm


def test_a_version_is_the_installed_ones_or_none() -> None:
    import numpy as np

    assert machine.version_of("numpy") == np.__version__
    assert machine.version_of("no-such-distribution") is None


def test_tool_versions_leave_out_what_is_not_installed() -> None:
    assert set(machine.tool_versions("numpy", "no-such-distribution")) == {"numpy"}


def test_the_environment_is_plain_json_with_no_host_user_or_path_among_it() -> None:
    values = machine.environment()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert set(values) == {
        "cpu", "cpu_family", "cpus", "cpu_quota", "cpu_flags", "memory_bytes", "gpus", "gpu", "system", "python",
        "packages",
    }  # fmt: skip
    assert values["system"] == f"{platform.system()} {platform.machine()}"
    assert values["python"] == platform.python_version()
    assert values["packages"]["torch"] == machine.version_of("torch")
    assert values["cpus"] == machine.usable_cpus() >= 1
    assert values["memory_bytes"] > 0
    assert values["cpu"]


def test_usable_cpus_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 3, 5}, raising=False)
    assert machine.usable_cpus() == 3


@pytest.mark.parametrize(
    ("files", "own", "quota"),
    [
        ({"cpu.max": "200000 100000"}, "0::/\n", 2.0),
        ({"cpu.max": "max 100000"}, "0::/\n", None),
        ({"a/cpu.max": "250000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 2.5),
        ({"a/cpu.max": "250000 100000", "a/b/cpu.max": "50000 100000"}, "0::/a/b\n", 0.5),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/docker/1\n", 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n", None),
        ({"cpu.max": "nonsense"}, "nonsense", None),
        ({}, None, None),
    ],
)
def test_a_quota_of_cpu_time_is_read_off_the_control_groups(
    tmp_path: Path, files: dict[str, str], own: str | None, quota: float | None
) -> None:
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    if own is not None:
        (tmp_path / "own").write_text(own)
    assert machine.cpu_quota(tmp_path / "groups", tmp_path / "own") == quota


@pytest.mark.parametrize(("quota", "usable"), [(None, 4), (2.5, 2), (0.5, 1), (9.0, 4)])
def test_threads_are_no_more_than_the_quota_has_whole_cpus(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, usable: int
) -> None:
    monkeypatch.setattr(machine, "own_cpus", lambda: frozenset(range(4)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.usable_cpus() == usable


def test_usable_cpus_are_all_where_there_is_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.usable_cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cpus() == 1


def test_cpu_flags_are_words_and_empty_where_linux_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_named: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", refuse)
    assert machine.cpu_flags() == frozenset()
    assert machine.environment()["cpu_flags"] == []


def test_the_processors_fields_are_read_from_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    table = tmp_path / "cpuinfo"
    table.write_text("processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu avx2 amx_int8\n\nprocessor\t: 1\n")
    real = open

    def redirected(path: str, *args: Any, **named: Any) -> Any:
        return real(table if path == "/proc/cpuinfo" else path, *args, **named)

    monkeypatch.setattr(builtins, "open", redirected)
    assert machine.cpu_flags() == {"fpu", "avx2", "amx_int8"}
    assert machine.environment()["cpu"] == "A CPU: fast"
    assert machine.environment()["cpu_flags"] == ["avx2", "amx_int8"]


def test_without_glibc_freed_memory_is_left_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert machine.keep_freed_memory() is False
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert machine.keep_freed_memory() is False


@pytest.mark.parametrize(("answers", "kept"), [((1, 1), True), ((0, 1), False), ((1, 0), False)])
def test_freed_memory_is_kept_where_glibc_takes_both_limits(
    answers: tuple[int, int], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        asked: tuple[int, ...] = ()

        def mallopt(self, parameter: int, _value: int) -> int:
            self.asked += (parameter,)
            return answers[len(self.asked) - 1]

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Libc())
    assert machine.keep_freed_memory() is kept

"""A busy machine, a busy host and a slowed GPU are said, from what the kernel and nvidia-smi write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_deploy.bench.conditions import Conditions, gpu_states


def proc_in(folder: Path, load: str = "0.10", stat: str = "cpu 10 0 10 80 0 0 0 0 0 0") -> Path:
    (folder / "loadavg").write_text(f"{load} 0.2 0.3 1/200 1234\n")
    (folder / "stat").write_text(f"{stat}\ncpu0 1 2 3\n")
    return folder


@pytest.fixture(autouse=True)
def no_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of programs that has no nvidia-smi yet."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def smi_in(programs: Path, output: str, code: int = 0) -> None:
    path = programs / "nvidia-smi"
    path.write_text(
        f"#!/bin/sh\nwhile IFS= read -r line; do echo \"$line\"; done <<'END'\n{output}\nEND\nexit {code}\n"
    )
    path.chmod(0o755)


def test_an_idle_machine_has_nothing_to_say(tmp_path: Path) -> None:
    conditions = Conditions(proc_in(tmp_path))
    assert conditions.busy() is None
    assert conditions.to_json() == {"load_average": 0.1, "steal_share": None, "gpu": None, "warnings": []}


def test_other_load_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    conditions = Conditions(proc_in(tmp_path, load="1.75"))
    assert "1.8 CPUs were busy" in str(conditions.busy())
    assert conditions.to_json()["warnings"] == [conditions.busy()]


def test_time_that_the_host_took_is_a_share_of_all(tmp_path: Path) -> None:
    conditions = Conditions(proc_in(tmp_path))
    proc_in(tmp_path, stat="cpu 50 0 30 100 0 0 0 20 0 0")
    document = conditions.to_json()
    # Twenty of the hundred ticks in between.
    assert document["steal_share"] == 0.2 and "20 %" in document["warnings"][0]


def test_where_the_kernel_says_nothing_nothing_is_said(tmp_path: Path) -> None:
    assert Conditions(tmp_path / "nowhere").to_json()["load_average"] is None
    (tmp_path / "loadavg").write_text("")
    (tmp_path / "stat").write_text("cpu 1 2\n")
    assert Conditions(tmp_path).to_json() == {"load_average": None, "steal_share": None, "gpu": None, "warnings": []}


LINE = "NVIDIA H100, 1980, 2619, 41, 310.55, Not Active, Active, Not Active, Not Active, Active"


def test_clocks_and_throttling_of_a_gpu_are_read(no_smi: Path, tmp_path: Path) -> None:
    smi_in(no_smi, f"{LINE}\nOther, [N/A], 5, 6, 7, Not Active, Not Active, Not Active, Not Active, Not Active")
    first, second = gpu_states("before")
    assert first == {
        "at": "before", "name": "NVIDIA H100", "sm_mhz": 1980.0, "memory_mhz": 2619.0, "temperature_c": 41.0,
        "power_w": 310.55, "throttle": ["hw_thermal_slowdown", "sw_power_cap"],
    }  # fmt: skip
    assert second["sm_mhz"] is None and second["throttle"] == []
    document = Conditions(proc_in(tmp_path)).to_json()
    assert [state["at"] for state in document["gpu"]] == ["before", "before", "after", "after"]
    assert document["warnings"] == [
        "NVIDIA H100 was slowed down: hw_thermal_slowdown", "NVIDIA H100 was slowed down: sw_power_cap",
    ]  # fmt: skip


@pytest.mark.parametrize(("output", "code"), [("no devices were found", 6), ("one, two", 0), ("", 0)])
def test_an_nvidia_smi_that_fails_gives_no_states(no_smi: Path, output: str, code: int) -> None:
    smi_in(no_smi, output, code)
    assert gpu_states("after") == []
    assert os.environ["PATH"] == str(no_smi)

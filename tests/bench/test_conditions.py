"""A busy machine, a busy host and a slowed GPU are said, from what the kernel and nvidia-smi write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.bench.conditions import Conditions, gpu_states, with_doubts

IDLE = "10 0 10 80 0 0 0 0 0 0"


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine's many, this process has two."""
    monkeypatch.setattr("alexnet_deploy.bench.conditions.own_cpus", lambda: frozenset({1, 3}))


def proc_in(folder: Path, stat: str = IDLE) -> Path:
    """Of each of this process's CPUs, beside others that are busy with everything."""
    busy = "900 900 900 9 9 900 900 900 0 0"
    (folder / "stat").write_text(f"cpu {busy}\ncpu0 {busy}\ncpu1 {stat}\ncpu2 {busy}\ncpu3 {stat}\nintr 1 2\n")
    return folder


def conditions_in(proc: Path, after_a_second: str = "10 0 10 180 0 0 0 0 0 0") -> Conditions:
    """Watches while the second before the bench ends in the given figures."""

    def sleep(_seconds: float) -> None:
        proc_in(proc, after_a_second)

    return Conditions(proc, sleep=sleep)


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
    conditions = conditions_in(proc_in(tmp_path))
    assert conditions.busy() is None
    assert conditions.to_json() == {"busy_cpus": 0.0, "steal_share": None, "gpu": None, "warnings": []}


def test_other_work_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    # Of a hundred ticks sixty ran something and ten waited for a disk, on two CPUs.
    conditions = conditions_in(proc_in(tmp_path), "50 0 30 110 10 0 0 0 0 0")
    assert "1.2 CPUs were busy" in str(conditions.busy())
    document = conditions.to_json()
    assert document["warnings"] == [conditions.busy()] and document["busy_cpus"] == 1.2


def test_time_that_the_host_took_is_a_share_of_all(tmp_path: Path) -> None:
    conditions = conditions_in(proc_in(tmp_path))
    proc_in(tmp_path, stat="50 0 30 200 0 0 0 20 0 0")
    document = conditions.to_json()
    # Twenty of the hundred ticks since then.
    assert document["steal_share"] == 0.2 and "20 %" in document["warnings"][0]


@pytest.mark.parametrize(
    "stat", [None, "", "cpu1 1 2", "cpu1 one two three four five six seven eight", "cpu0 1 2 3 4 5 6 7 8"]
)
def test_where_the_kernel_says_nothing_nothing_is_said(tmp_path: Path, stat: str | None) -> None:
    if stat is not None:
        (tmp_path / "stat").write_text(stat)
    found = Conditions(tmp_path, sleep=lambda _: None)
    assert found.to_json() == {"busy_cpus": None, "steal_share": None, "gpu": None, "warnings": []}


LINE = "NVIDIA H100, 1980, 2619, 41, 310.55, Not Active, Active, Not Active, Not Active, Active"


def test_clocks_and_throttling_of_a_gpu_are_read(no_smi: Path, tmp_path: Path) -> None:
    smi_in(no_smi, f"{LINE}\nOther, [N/A], 5, 6, 7, Not Active, Not Active, Not Active, Not Active, Not Active")
    first, second = gpu_states("before")
    assert first == {
        "at": "before", "name": "NVIDIA H100", "sm_mhz": 1980.0, "memory_mhz": 2619.0, "temperature_c": 41.0,
        "power_w": 310.55, "throttle": ["hw_thermal_slowdown", "sw_power_cap"],
    }  # fmt: skip
    assert second["sm_mhz"] is None and second["throttle"] == []
    conditions = conditions_in(proc_in(tmp_path))
    conditions.look()
    document = conditions.to_json()
    assert [state["at"] for state in document["gpu"]] == ["before"] * 2 + ["measured"] * 2 + ["after"] * 2
    assert document["warnings"] == [
        "NVIDIA H100 was slowed down: hw_thermal_slowdown", "NVIDIA H100 was slowed down: sw_power_cap",
    ]  # fmt: skip


@pytest.mark.parametrize(("output", "code"), [("no devices were found", 6), ("one, two", 0), ("", 0)])
def test_an_nvidia_smi_that_fails_gives_no_states(no_smi: Path, output: str, code: int) -> None:
    smi_in(no_smi, output, code)
    assert gpu_states("after") == []
    assert os.environ["PATH"] == str(no_smi)


KNOWING = """#!/bin/sh
case "$1" in
  *%s*) echo 'Field is not a valid field to query.'; exit 2 ;;
esac
echo 'Tesla T4, 1590, 5000, 60, 70.00%s'
"""


@pytest.mark.parametrize(
    ("unknown", "reasons", "throttle"),
    [
        ("clocks_event_reasons", ", Not Active, Not Active, Not Active, Not Active, Active", ["sw_power_cap"]),
        ("_reasons", "", None),
    ],
)
def test_an_older_driver_is_asked_in_its_own_words(
    no_smi: Path, tmp_path: Path, unknown: str, reasons: str, throttle: list[str] | None
) -> None:
    smi_in(no_smi, "")
    (no_smi / "nvidia-smi").write_text(KNOWING % (unknown, reasons))
    (state,) = gpu_states("before")
    assert state["sm_mhz"] == 1590 and state["throttle"] == throttle
    (warning,) = conditions_in(proc_in(tmp_path)).to_json()["warnings"]
    assert ("does not say" in warning) is (throttle is None)


def test_a_gpu_of_which_nothing_is_known_is_said(tmp_path: Path) -> None:
    conditions = Conditions(proc_in(tmp_path), sleep=lambda _: None, watches_gpu=True)
    assert "not known" in conditions.to_json()["warnings"][0]


def test_times_that_cannot_be_trusted_are_said_with_their_rows() -> None:
    def row(key: str, *, stable: bool = True, fraction: float | None = None, threads: int = 2) -> dict[str, Any]:
        roofline = None if fraction is None else {"fraction": fraction}
        return {"key": key, "warm_up": {"stable": stable}, "roofline": roofline, "threads": threads}

    sound = {"busy_cpus": 0.0, "warnings": ["one"]}
    skipped = {"key": "skipped", "warm_up": None, "roofline": None, "threads": 2}
    assert with_doubts(sound, [row("a", fraction=1.09), skipped], 2) == sound
    rows = [row("a", stable=False), row("b", fraction=1.11), row("c", fraction=2.0), row("d", threads=1), skipped]
    found = with_doubts(sound, rows, 2)
    kept, fewer, unstable, beyond = found["warnings"]
    assert kept == "one" and found["busy_cpus"] == 0.0 and sound["warnings"] == ["one"]
    assert "2 threads" in fewer and fewer.endswith(": d (1)")
    assert unstable.startswith("not stable after the warm-up") and unstable.endswith(": a")
    assert "peaks" in beyond and beyond.endswith(": b, c")

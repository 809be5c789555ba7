"""What else the machine was doing while it was measured: other work, CPU taken by a host, clocks of the GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_deploy.machine import count_gpus, own_cpus

# CPUs' worth of other work in the second before the bench; above it, its figures are noisy.
BUSY_CPUS = 0.2
_WATCHED_SECONDS = 1.0
# Of the time of all CPUs; above it the machine is shared with others that were busy.
BUSY_STEAL = 0.02
_STATE = ("name", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
_REASONS = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown", "sw_power_cap")
# nvidia-smi answers nothing at all where it does not know one of the fields: drivers before 535 have the older name.
_EVENTS = ("clocks_event_reasons", "clocks_throttle_reasons")
_SECONDS = 20
_FIGURES = ("sm_mhz", "memory_mhz", "temperature_c", "power_w")

# Of a row's limit; the peaks themselves are a few percent off from one day to another.
_BEYOND_PEAKS = 1.1


@dataclass(frozen=True, kw_only=True)
class _Ticks:
    """Of the CPUs that this process may use, since boot: what the host took, what ran, and everything."""

    cpus: int
    stolen: int
    busy: int
    all: int


@dataclass
class Conditions:
    """Watches from when it is made until `to_json`.

    Attributes:
        proc: Where the kernel tells its figures.
        sleep: Waits while nothing of ours runs; a test injects its own.
        watches_gpu: Whether there is one whose clocks should be known.
    """

    proc: Path = Path("/proc")
    sleep: Callable[[float], None] = time.sleep
    watches_gpu: bool = field(default_factory=lambda: count_gpus() > 0)
    _busy: float | None = field(default=None, init=False)
    _cpu: _Ticks | None = field(default=None, init=False)
    _gpus: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        before = self._ticks()
        self.sleep(_WATCHED_SECONDS)
        self._cpu = self._ticks()
        if before is not None and self._cpu is not None and self._cpu.all > before.all:
            self._busy = self._cpu.cpus * (self._cpu.busy - before.busy) / (self._cpu.all - before.all)
        self._gpus = gpu_states("before")

    def busy(self) -> str | None:
        """A sentence where the machine was not idle just before."""
        if self._busy is None or self._busy < BUSY_CPUS:
            return None
        return f"{self._busy:.1f} CPUs were busy with something else when the bench began: its figures are noisy"

    def look(self) -> None:
        """Reads the GPUs' clocks while they are hot."""
        self._gpus += gpu_states("measured")

    def to_json(self) -> dict[str, Any]:
        """The conditions so far, with sentences on what was not as it should be."""
        gpus, steal = [*self._gpus, *gpu_states("after")], self._steal()
        warnings = [text for text in (self.busy(),) if text]
        if steal is not None and steal > BUSY_STEAL:
            warnings.append(f"{100 * steal:.0f} % of the CPUs' time went to other guests of this machine's host")
        throttled = sorted({f"{gpu['name']} was slowed down: {why}" for gpu in gpus for why in gpu["throttle"] or ()})
        throttled += sorted(
            {f"{gpu['name']}: nvidia-smi does not say what slows it down" for gpu in gpus if gpu["throttle"] is None}
        )
        if self.watches_gpu and not gpus:
            throttled.append("nvidia-smi did not answer: clocks and throttling of the GPU are not known")
        return {
            "busy_cpus": None if self._busy is None else round(self._busy, 2),
            "steal_share": None if steal is None else round(steal, 4),
            "gpu": gpus or None,
            "warnings": warnings + throttled,
        }

    def _ticks(self) -> _Ticks | None:
        """Ticks since boot (proc(5): user nice system idle iowait irq softirq steal)."""
        own = {f"cpu{number}" for number in own_cpus()}
        try:
            lines = [line.split() for line in (self.proc / "stat").read_text().splitlines()]
            each = [[int(tick) for tick in line[1:9]] for line in lines if line and line[0] in own]
        except (OSError, ValueError):
            return None
        if not each or any(len(ticks) < 8 for ticks in each):
            return None
        ticks = [sum(column) for column in zip(*each, strict=True)]
        busy = sum(ticks) - ticks[3] - ticks[4] - ticks[7]
        return _Ticks(cpus=len(each), stolen=ticks[7], busy=busy, all=sum(ticks))

    def _steal(self) -> float | None:
        before, after = self._cpu, self._ticks()
        if before is None or after is None or after.all <= before.all:
            return None
        return (after.stolen - before.stolen) / (after.all - before.all)


def with_doubts(conditions: dict[str, Any], rows: Sequence[dict[str, Any]], threads: int) -> dict[str, Any]:
    """Adds warnings where times had not settled, are shorter than the machine's peaks allow, or are of other threads
    than `threads`."""
    unstable = [row["key"] for row in rows if row["warm_up"] and not row["warm_up"]["stable"]]
    beyond = [row["key"] for row in rows if row["roofline"] and row["roofline"]["fraction"] > _BEYOND_PEAKS]
    others = [f"{row['key']} ({row['threads']})" for row in rows if row["threads"] != threads]
    doubts = {
        f"not computed by {threads} threads, as the runtime says": others,
        "not stable after the warm-up, and measured all the same": unstable,
        "faster than the recorded peaks allow: a cache keeps the weights, or the peaks are from a busy day (delete "
        "their file to measure them anew)": beyond,
    }
    warnings = [f"{doubt}: {', '.join(keys)}" for doubt, keys in doubts.items() if keys]
    return conditions | {"warnings": [*conditions["warnings"], *warnings]}


def gpu_states(at: str) -> list[dict[str, Any]]:
    """Clocks, temperature, power and reasons of throttling of every GPU as nvidia-smi says them; none without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    for query in (*([*_STATE, *(f"{events}.{reason}" for reason in _REASONS)] for events in _EVENTS), list(_STATE)):
        command = [program, f"--query-gpu={','.join(query)}", "--format=csv,noheader,nounits"]
        try:
            run = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=True, env={**os.environ, "LC_ALL": "C"}
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return [state for line in run.stdout.splitlines() if (state := _state(line, at, len(query))) is not None]
    return []


def _state(line: str, at: str, fields: int) -> dict[str, Any] | None:
    """One GPU; `throttle` is None where the driver does not say why clocks are low."""
    name, *values = (part.strip() for part in line.split(","))
    if len(values) != fields - 1:
        return None
    figures, reasons = values[: len(_FIGURES)], values[len(_FIGURES) :]
    active = [why for why, value in zip(_REASONS, reasons, strict=True) if value == "Active"] if reasons else None
    return {"at": at, "name": name, **dict(zip(_FIGURES, map(_number, figures), strict=True)), "throttle": active}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

"""What else the machine was doing while it was measured: other load, CPU taken by a hypervisor, clocks of the GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Of one CPU; above it something else was running when the bench began.
BUSY_LOAD = 0.5
# Of the time of all CPUs; above it the machine is shared with others that were busy.
BUSY_STEAL = 0.02
_QUERY = (
    "name", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.hw_slowdown",
    "clocks_event_reasons.hw_thermal_slowdown", "clocks_event_reasons.hw_power_brake_slowdown",
    "clocks_event_reasons.sw_thermal_slowdown", "clocks_event_reasons.sw_power_cap",
)  # fmt: skip
_SECONDS = 20
_FIGURES = ("sm_mhz", "memory_mhz", "temperature_c", "power_w")


@dataclass
class Conditions:
    """Watches from when it is made until `to_json`.

    Attributes:
        proc: Where the kernel tells its figures.
    """

    proc: Path = Path("/proc")
    _load: float | None = field(default=None, init=False)
    _cpu: tuple[int, int] | None = field(default=None, init=False)
    _gpus: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._load = self._running_share()
        self._cpu = self._ticks()
        self._gpus = gpu_states("before")

    def busy(self) -> str | None:
        """A sentence where the machine was not idle at the start."""
        if self._load is None or self._load < BUSY_LOAD:
            return None
        return f"{self._load:.1f} CPUs were busy with something else when the bench began: its figures are noisy"

    def to_json(self) -> dict[str, Any]:
        """The conditions so far, with sentences on what was not as it should be."""
        gpus, steal = [*self._gpus, *gpu_states("after")], self._steal()
        warnings = [text for text in (self.busy(),) if text]
        if steal is not None and steal > BUSY_STEAL:
            warnings.append(f"{100 * steal:.0f} % of the CPUs' time went to other guests of this machine's host")
        throttled = sorted({f"{gpu['name']} was slowed down: {why}" for gpu in gpus for why in gpu["throttle"]})
        return {
            "load_average": self._load,
            "steal_share": None if steal is None else round(steal, 4),
            "gpu": gpus or None,
            "warnings": warnings + throttled,
        }

    def _running_share(self) -> float | None:
        """The load average of the last minute: CPUs' worth of runnable processes."""
        try:
            return float((self.proc / "loadavg").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _ticks(self) -> tuple[int, int] | None:
        """Stolen and all ticks since boot (proc(5): user nice system idle iowait irq softirq steal)."""
        try:
            first = (self.proc / "stat").read_text().splitlines()[0].split()[1:9]
            ticks = [int(tick) for tick in first]
        except (OSError, ValueError, IndexError):
            return None
        return (ticks[7], sum(ticks)) if len(ticks) == 8 else None

    def _steal(self) -> float | None:
        before, after = self._cpu, self._ticks()
        if before is None or after is None or after[1] <= before[1]:
            return None
        return (after[0] - before[0]) / (after[1] - before[1])


def gpu_states(at: str) -> list[dict[str, Any]]:
    """Clocks, temperature, power and reasons of throttling of every GPU as nvidia-smi says them; none without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=True, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [state for line in run.stdout.splitlines() if (state := _state(line, at)) is not None]


def _state(line: str, at: str) -> dict[str, Any] | None:
    name, *values = (part.strip() for part in line.split(","))
    if len(values) != len(_QUERY) - 1:
        return None
    figures, reasons = values[: len(_FIGURES)], values[len(_FIGURES) :]
    active = [query.rpartition(".")[2] for query, value in zip(_QUERY[5:], reasons, strict=True) if value == "Active"]
    return {"at": at, "name": name, **dict(zip(_FIGURES, map(_number, figures), strict=True)), "throttle": active}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

"""The processes that this one started, and theirs: what is left of them is waited for, and then killed.

Ray's workers end by themselves once they miss their raylet, which can be seconds after the command would have ended;
until then they hold the port.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

_PROC = Path("/proc")
_POLL_SECONDS = 0.05
# Of a stat line behind the command's name: the parent, and when it started, which tells a process from a later one of
# the same number.
_PARENT, _STARTED = 1, 19

Process = tuple[int, int]


def descendants(root: int) -> set[Process]:
    """Number and start of every process below `root`; none where the system does not tell."""
    parents: dict[int, int] = {}
    starts: dict[int, int] = {}
    for folder in _PROC.iterdir() if _PROC.is_dir() else ():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            parents[int(folder.name)], starts[int(folder.name)] = int(fields[_PARENT]), int(fields[_STARTED])
    found, level = set[int](), {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level} - found
        found |= level
    return {(pid, starts[pid]) for pid in found}


def alive(processes: set[Process]) -> set[Process]:
    """Those that still run."""
    return {(pid, start) for pid, start in processes if _runs(pid, start)}


def end(processes: set[Process], seconds: float) -> None:
    """Waits until they have ended, and kills those that do not."""
    until = time.monotonic() + seconds
    while (left := alive(processes)) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    for pid, _ in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _runs(pid: int, start: int) -> bool:
    fields = _stat(pid)
    # A zombie has ended, and waits for its parent to hear of it.
    return bool(fields) and int(fields[_STARTED]) == start and fields[0] != "Z"


def _stat(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []

"""What a process that quantizes tells of itself, and how one is started.

The peers run in environments of their own: of this project only `alexnet_deploy.machine` is imported here, which needs
the standard library alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import SessionError
from alexnet_deploy.machine import peak_memory_bytes

REPOSITORY = Path(__file__).parent.parent
_LAST_LINES = 5


class Meter:
    """Starts when it is made: libraries are loaded and images are read before, which nobody pays for."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def read(self) -> dict[str, Any]:
        """Seconds since the start, and the most memory that this process ever had."""
        return {
            "seconds": round(time.perf_counter() - self._started, 2),
            "peak_memory_bytes": peak_memory_bytes(),
        }


def report(facts: dict[str, Any]) -> None:
    """The last line of a worker's output."""
    print(json.dumps(facts), flush=True)


def facts_of(python: str, module: str, *arguments: object, folder: Path = REPOSITORY) -> dict[str, Any]:
    """Runs a module of this repository in `python` and returns what it reported.

    Args:
        python: The interpreter.
        module: Below `benchmarks`.
        arguments: Of its command line.
        folder: What it may litter; tools leave files where they run.

    Raises:
        SessionError: It failed; the message ends with what it said last.
    """
    command = [python, "-m", f"benchmarks.{module}", *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=variables)
    lines = run.stdout.strip().splitlines()
    if run.returncode == 0 and lines and lines[-1].startswith("{"):
        facts: dict[str, Any] = json.loads(lines[-1])
        return facts
    raise SessionError(
        f"{module} failed",
        got=f"exit code {run.returncode}; " + "; ".join(last_lines(run.stderr or run.stdout)),
        remedy=f"run it by hand: {' '.join(command)}",
    )


def last_lines(text: str) -> Sequence[str]:
    """Where Python and pip say what was wrong."""
    return text.strip().splitlines()[-_LAST_LINES:]

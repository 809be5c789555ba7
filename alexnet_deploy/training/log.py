"""The log of a training run: JSON lines of losses and epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from alexnet_deploy.files import write_bytes
from alexnet_deploy.limits import json_from_text


class Log:
    """Takes lines.

    Args:
        file: Where they go; None keeps none.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, **values: object) -> None:
        """One line, on disk at once."""
        if self._file is not None:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()


@contextmanager
def log_after(path: Path, step: int) -> Iterator[Log]:
    """The log of a run that stands at `step`; lines past it will be written again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines(keepends=True) if step and path.exists() else []
    write_bytes(path, "".join(line for line in lines if _logged_step(line) <= step).encode())
    with path.open("a") as file:
        yield Log(file)


def _logged_step(line: str) -> float:
    """Step of a log line; infinite for one that was cut short."""
    try:
        return float(json_from_text(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf

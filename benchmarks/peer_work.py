"""Where a run that was cut goes on: what was made stays, what was measured stays until the run is through."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.files import write_json
from alexnet_deploy.specs import fingerprint


@dataclass(frozen=True)
class Work:
    """Steps with what came of them.

    Attributes:
        folder: Holds the graphs, and `facts/` and `measured/` with a JSON file a step.
    """

    folder: Path

    def made(self, name: str, request: Any, file: Path, make: Callable[[], Any]) -> Any:
        """What is known of a file; made anew where the request is another or the file is gone.

        Args:
            name: Of the step.
            request: Everything that the result depends on.
            file: What the step writes.
            make: Writes it and returns JSON values.
        """
        kept = self.folder / "facts" / f"{name}.json"
        if not file.exists():
            kept.unlink(missing_ok=True)
        return _step(kept, request, make)

    def found(self, name: str, request: Any, find: Callable[[], Any]) -> Any:
        """What comes out the same every time; it stays like a file."""
        return _step(self.folder / "facts" / f"{name}.json", request, find)

    def measured(self, name: str, request: Any, measure: Callable[[], Any]) -> Any:
        """A measurement, which only a run that was cut takes over."""
        return _step(self.folder / "measured" / f"{name}.json", request, measure)

    def forget_measured(self) -> None:
        """A new run measures anew."""
        shutil.rmtree(self.folder / "measured", ignore_errors=True)


def _step(path: Path, request: Any, make: Callable[[], Any]) -> Any:
    asked = fingerprint(request)
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["request"] == asked:
            return kept["found"]
    found = make()
    write_json(path, {"request": asked, "found": found})
    return found

"""What an interrupted calibration has counted, kept beside the table until it is done."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_deploy.files import write_json
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.specs import fingerprint

State = tuple[int, dict[str, Histogram]]
_SECONDS_BETWEEN_SAVES = 30.0


@dataclass
class Progress:
    """Where counts are kept when a run ends early.

    Attributes:
        path: The file; None keeps nothing.
        request: What was asked for: counts of another request are of no use.
        clock: Seconds; a test injects its own.
    """

    path: Path | None
    request: str
    clock: Callable[[], float] = time.monotonic
    _kept: float = field(default=math.nan, init=False)

    def restore(self, names: list[str]) -> State:
        """How many images were done, and the counts; nothing where there is no file that fits."""
        fresh = 0, {name: Histogram() for name in names}
        if self.path is None or not self.path.is_file():
            return fresh
        try:
            values = json.loads(self.path.read_text())
            if values.pop("fingerprint") != fingerprint(values):
                return fresh
            if values["request"] != self.request or list(values["tensors"]) != names:
                return fresh
            done, tensors = values["done"], values["tensors"]
            histograms = {
                name: Histogram.from_json(entry, float(entry["min"]), float(entry["max"]))
                for name, entry in tensors.items()
            }
            # What is kept has seen images, and values in every tensor.
            if not isinstance(done, int) or done < 1 or not all(h.magnitudes.any() for h in histograms.values()):
                return fresh
            return done, histograms
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            # A file cut short by what interrupted the run is as good as none.
            return fresh

    @contextlib.contextmanager
    def kept(self, state: Callable[[], State]) -> Iterator[None]:
        """Keeps the counts when the run inside ends with an exception, Ctrl-C among them."""
        try:
            yield
        except BaseException:
            self._keep(state())
            raise

    def keep_now_and_then(self, state: State) -> None:
        """Keeps the counts twice a minute, for a run that is killed."""
        now = self.clock()
        if math.isnan(self._kept) or now < self._kept + _SECONDS_BETWEEN_SAVES:
            self._kept = now if math.isnan(self._kept) else self._kept
            return
        self._keep(state)
        self._kept = now

    def _keep(self, state: State) -> None:
        done, histograms = state
        if self.path is None or not done or not all(math.isfinite(h.minimum) for h in histograms.values()):
            return
        tensors = {
            name: {**found.to_json(), "min": found.minimum, "max": found.maximum} for name, found in histograms.items()
        }
        content = {"request": self.request, "done": done, "tensors": tensors}
        write_json(self.path, {**content, "fingerprint": fingerprint(content)})

    def forget(self) -> None:
        """The table is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

"""The builder's nested phases as one bar from 0 to 100."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alexnet_deploy.interrupts import StopRequest

if TYPE_CHECKING:
    from alexnet_deploy.progress import Track

STEPS = 100


@dataclass
class _Phase:
    name: str
    steps: int
    done: int = 0


class BuildProgress:
    """Moves a track of `STEPS` by phases that hold phases: a child is worth one step of its parent."""

    def __init__(self, track: Track) -> None:
        self._track, self._open, self._shown = track, list[_Phase](), 0

    def start(self, name: str, steps: int) -> None:
        """A phase begins, inside the one that is open."""
        self._open.append(_Phase(name, max(steps, 1)))
        self._show(name)

    def step(self, name: str, step: int) -> None:
        """A phase has finished its step `step`, counted from 0."""
        for phase in self._open:
            if phase.name == name:
                phase.done = max(phase.done, min(step + 1, phase.steps))
        self._show(name)

    def finish(self, name: str) -> None:
        """A phase ends, and with it all that are still open inside."""
        names = [phase.name for phase in self._open]
        if name in names:
            del self._open[names.index(name) :]
        if not self._open:
            self._show(name, STEPS)

    @property
    def fraction(self) -> float:
        """How much of the outermost phase is done, from 0 to 1."""
        inner = 0.0
        for phase in reversed(self._open):
            inner = min((phase.done + inner) / phase.steps, 1.0)
        return inner

    def _show(self, note: str, now: int | None = None) -> None:
        now = int(STEPS * self.fraction) if now is None else now
        if now > self._shown:
            self._track.advance(now - self._shown, note)
            self._shown = now


def monitor_of(trt: Any, progress: BuildProgress, stop: StopRequest) -> Any:
    """TensorRT's progress monitor over `progress`.

    TensorRT may call it from several threads of its own, and nothing may be raised through it: what goes wrong in a
    callback is kept in `error`, and the builder is told to stop.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._lock = threading.Lock()

        def _go_on(self, move: Callable[[], None]) -> bool:
            with self._lock:
                try:
                    move()
                    stop.obey()
                except BaseException as exc:
                    self.error = self.error or exc
                return self.error is None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._go_on(lambda: progress.start(phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self._go_on(lambda: progress.step(phase_name, step))

        def phase_finish(self, phase_name: str) -> None:
            self._go_on(lambda: progress.finish(phase_name))

    return Monitor()

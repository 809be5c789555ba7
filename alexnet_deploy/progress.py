"""Messages and progress bars on standard error, so that standard output stays a document."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from alexnet_deploy.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

# A log file wants a line now and then, not a bar.
_SECONDS_BETWEEN_LINES = 30.0


class Track:
    """A running count; `advance` moves it."""

    def __init__(self, voice: Voice, description: str, total: int, bar: tuple[RichProgress, TaskID] | None) -> None:
        self._voice, self._description, self._total, self._bar = voice, description, total, bar
        self._done, self._started, self._spoke = 0, time.monotonic(), time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Adds `count`; `note` is shown beside the bar."""
        self._done += count
        if self._bar:
            progress, task = self._bar
            progress.update(task, advance=count, note=printable(note))
        elif time.monotonic() - self._spoke > _SECONDS_BETWEEN_LINES:
            self._spoke = time.monotonic()
            left = (self._spoke - self._started) / max(self._done, 1) * (self._total - self._done)
            self._voice.say(f"{self._description} {self._done}/{self._total} {note}, {left:.0f} s left")


class Voice:
    """Where a stage says what it does. Silent when `quiet`.

    Args:
        quiet: Say nothing but warnings.
        stream: Standard error unless a test wants to read it.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet, self._stream = quiet, stream or sys.stderr

    def say(self, text: str) -> None:
        """One line of news."""
        if not self.quiet:
            print(printable_lines(text), file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        """One line that matters even to a quiet caller."""
        print(printable_lines(f"warning: {text}"), file=self._stream, flush=True)

    @contextlib.contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Track]:
        """Shows a bar on a terminal, a line every half minute elsewhere."""
        if self.quiet or not self._stream.isatty():
            track = Track(self, description, total, None)
            track._done = done
            yield track
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(file=self._stream)) as progress:
            yield Track(
                self,
                description,
                total,
                (progress, progress.add_task(description, total=total, completed=done, note="")),
            )


SILENT = Voice(quiet=True)


class OwnThread(io.TextIOBase):
    """A stream for the thread that made this, to redirect standard output to: a thread of Ray's writes there of every
    worker that dies, and what stands there is a document."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._owner = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return self._stream.write(text) if threading.get_ident() == self._owner else len(text)

    def flush(self) -> None:
        self._stream.flush()

"""Workers that run cases side by side, and the account of what they did."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.fuzz.target import ACCEPTED, FAILED, REFUSED, Outcome

# Generous: the machine may be busy, and no case needs a second.
HANG_SECONDS = 60.0
MEMORY_BYTES = 3_000_000_000
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Chunk:
    """Cases that a worker runs one after the other."""

    target: str
    first: int
    count: int


@dataclass
class Tally:
    """What became of a target's cases."""

    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: list[Outcome] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """All of them."""
        return self.accepted + self.refused + len(self.failures)

    def count(self, found: Outcome) -> None:
        """Adds one."""
        self.accepted += found.kind == ACCEPTED
        self.refused += found.kind == REFUSED
        self.seconds += found.seconds
        self.slowest = max(self.slowest, found.seconds)
        if found.kind == FAILED:
            self.failures.append(found)


class _Process:
    """One worker, started anew when a case has ended it."""

    def __init__(self, targets: str, hang_seconds: float, memory_bytes: int) -> None:
        self._arguments = [targets, str(hang_seconds), str(memory_bytes)]
        self._hang_seconds = hang_seconds
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by `stop`

    def run(self, chunk: Chunk) -> Iterator[Outcome]:
        """The outcomes of a chunk; a case that ends the process is a failure, and the rest goes on in a new one."""
        number, end = chunk.first, chunk.first + chunk.count
        while number < end:
            process = self._started(f"{chunk.target} {number} {end - number}\n")
            while number < end:
                begun = time.perf_counter()
                answer = self._answer(process)
                if answer is None:
                    yield Outcome(chunk.target, number, FAILED, self._obituary(), time.perf_counter() - begun)
                    number += 1
                    break
                kind, detail, seconds = json.loads(answer)
                yield Outcome(chunk.target, number, kind, detail, seconds)
                number += 1

    def _started(self, request: str) -> subprocess.Popen[str]:
        if self._process is None:
            # Of this process alone.
            self._log.seek(0)
            self._log.truncate()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", *self._arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=_ROOT,
            )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(request)
        self._process.stdin.flush()
        return self._process

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> str | None:
        """One line; None where the process has ended. A case that hangs ends it by the worker's own alarm."""
        assert process.stdout is not None
        return process.stdout.readline() or None

    def _obituary(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._close()
        self._log.seek(0)
        return f"the worker ended with {code}\n{self._log.read()[-3000:]}"

    def _close(self) -> None:
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def stop(self) -> None:
        """Ends the worker."""
        if self._process is not None:
            process = self._process
            self._close()
            process.wait()
        self._log.close()


def outcomes(
    chunks: Iterable[Chunk],
    *,
    targets: str = "all",
    workers: int = 2,
    hang_seconds: float = HANG_SECONDS,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[Outcome]:
    """Runs chunks on several workers; outcomes come as they are ready.

    Args:
        chunks: May have no end: who asks for no more outcomes ends the workers.
        targets: `all`, or `planted` for those that fail on purpose.
        workers: How many processes.
        hang_seconds, memory_bytes: What a case may take.
    """
    waiting, found = iter(chunks), queue.Queue[Outcome | BaseException | None](maxsize=1000)
    lock, stopped = threading.Lock(), threading.Event()

    def work() -> None:
        process = _Process(targets, hang_seconds, memory_bytes)
        try:
            while not stopped.is_set():
                with lock:
                    chunk = next(waiting, None)
                if chunk is None:
                    break
                for outcome in process.run(chunk):
                    found.put(outcome)
        except BaseException as exc:
            found.put(exc)
        finally:
            process.stop()
            found.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    left = workers
    try:
        while left:
            outcome = found.get()
            if isinstance(outcome, BaseException):
                raise outcome
            if outcome is None:
                left -= 1
            else:
                yield outcome
    finally:
        stopped.set()
        while left:
            left -= found.get() is None
        for thread in threads:
            thread.join()


def tallies(found: Iterable[Outcome], names: Sequence[str]) -> dict[str, Tally]:
    """Counts outcomes by target."""
    by_name = {name: Tally() for name in names}
    for outcome in found:
        by_name[outcome.target].count(outcome)
    return by_name


def table(by_name: dict[str, Tally]) -> str:
    """The account as a Markdown table, and behind it the failures with the commands that run them anew."""
    rows = ["| target | cases | refused | accepted | failures | seconds | slowest |", "|---|--:|--:|--:|--:|--:|--:|"]
    for name, tally in by_name.items():
        rows.append(
            f"| {name} | {tally.cases:,} | {tally.refused:,} | {tally.accepted:,} | {len(tally.failures):,} "
            f"| {tally.seconds:.1f} | {tally.slowest:.2f} |"
        )
    every = list(by_name.values())
    sums = [sum(each) for each in zip(*((t.cases, t.refused, t.accepted, len(t.failures)) for t in every), strict=True)]
    seconds, slowest = sum(t.seconds for t in every), max(t.slowest for t in every)
    rows.append("| all | " + " | ".join(f"{each:,}" for each in sums) + f" | {seconds:.1f} | {slowest:.2f} |")
    failures = [failure for tally in every for failure in tally.failures]
    return "\n".join([*rows, *(f"\n{failure.command}\n{failure.detail}" for failure in failures)])

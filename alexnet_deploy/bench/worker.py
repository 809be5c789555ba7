"""An object in a process of its own that is asked over a pipe; its errors come back as what they were."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from alexnet_deploy.errors import (
    AlexnetDeployError,
    DataError,
    MissingDependencyError,
    RuntimeUnavailableError,
    SessionError,
)
from alexnet_deploy.interrupts import deferred
from alexnet_deploy.machine import keep_freed_memory

# A worker that takes longer than this to answer is taken for hung.
ANSWER_SECONDS = 600.0
# A worker that does not end by itself after it was told to is killed.
_GOODBYE_SECONDS = 10.0
_KINDS: dict[str, type[AlexnetDeployError]] = {
    "unavailable": RuntimeUnavailableError,
    "missing": MissingDependencyError,
    "data": DataError,
}


class Worker:
    """A fresh process, because thread pools and allocators of several runtimes in one process slow each other down;
    idle processes do not.

    Args:
        make: Makes the object there; it can be pickled, and is called with the first question.
        name: What messages call it.
    """

    def __init__(self, make: Callable[[], Any], name: str) -> None:
        self._make, self._name = make, name
        self._process: Any = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Starts the process."""
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._make), daemon=True)
        with deferred():
            start_process(process)
            self._pipe, self._process = pipe, process
        theirs.close()

    def ask(self, method: str, *arguments: object, seconds: float = ANSWER_SECONDS) -> Any:
        """Calls a method of the object and returns what it returns.

        Raises:
            AlexnetDeployError: The method raised it, or any other error, which becomes a `SessionError`.
            SessionError: The process ended, or did not answer in `seconds`.
        """
        if self._pipe is None:
            raise SessionError(f"the process of {self._name} is not running")
        try:
            self._pipe.send((method, arguments))
            if not self._pipe.poll(seconds):
                raise SessionError(f"{self._name} did not answer for {seconds:.0f} s")
            kind, value = self._pipe.recv()
        except (EOFError, OSError) as exc:
            self._process.join(_GOODBYE_SECONDS)
            raise SessionError(f"the process of {self._name} ended", got=f"exit code {self._process.exitcode}") from exc
        if kind == "done":
            return value
        raise _KINDS.get(kind, SessionError)(value)

    def release(self) -> None:
        """Tells the process to end, and does not wait for it; `close` does."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def close(self) -> None:
        """Ends the process; more than once is fine."""
        self.release()
        if self._process is not None:
            self._process.join(_GOODBYE_SECONDS)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None


def start_process(process: BaseProcess) -> None:
    """Starts it so that Ctrl-C, which reaches the whole group, does not end it while it is still importing: the parent
    decides when it ends, and is not torn out of this either."""
    with deferred():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, make: Callable[[], Any]) -> None:
    """In the process: answers until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whether glibc gives large tensors back after every run hangs on how a process's heap happens to lie, and is a
    # fifth of torch's time at batch 16: two processes of one session would differ by that.
    keep_freed_memory()
    made: Any = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            made = make() if made is None else made
            answer: tuple[str, Any] = ("done", getattr(made, method)(*arguments))
        except AlexnetDeployError as exc:
            answer = (_kind_of(exc), str(exc))
        except Exception as exc:  # a runtime's own error must reach the row, whatever its class
            answer = ("failed", f"{type(exc).__name__}: {exc}")
        try:
            pipe.send(answer)
        except OSError:
            # Nobody waits for it any more.
            return


def _kind_of(error: AlexnetDeployError) -> str:
    return next((kind for kind, known in _KINDS.items() if isinstance(error, known)), "failed")

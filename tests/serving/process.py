"""A real `alexnet-deploy serve`, with everything that it starts known by a mark in the environment."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from alexnet_deploy.serving.processes import Process, alive, descendants

ROOT = Path(__file__).parents[2]
_MARK = "ALEXNET_DEPLOY_TEST_MARK"
# Of a machine that does other things too; nothing is asserted of it.
_PATIENCE_S = 120.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Server:
    """The process, and what it wrote to standard error so far."""

    port: int
    process: subprocess.Popen[str]
    mark: str
    errors: Path
    url: str = ""
    seen: set[Process] = field(default_factory=set)
    tick: threading.Event = field(default_factory=threading.Event)

    def ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Message, bytes]:
        """Status, headers and body of a request; a POST where there is a body."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.headers, exc.read()

    def until_ready(self) -> None:
        """Waits for the address on standard output."""
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url == f"http://127.0.0.1:{self.port}", self.errors.read_text()

    def until_it_says(self, words: str) -> None:
        """Waits for words on standard error."""
        while words not in self.errors.read_text():
            assert self.process.poll() is None, self.errors.read_text()
            self.tick.wait(0.02)

    def end(self, number: signal.Signals, *, whole_group: bool = False) -> None:
        """Sends a signal to the process, or to everything that runs in its terminal."""
        self.seen = descendants(self.process.pid)
        if whole_group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def ended(self) -> int:
        """Waits for the end, and for that of everything that it started; gives the exit code."""
        code = self.process.wait(_PATIENCE_S)
        # After a kill nobody was there to wait for them.
        waited = 0.0
        while code < 0 and self.left() and waited < _PATIENCE_S:
            self.tick.wait(0.1)
            waited += 0.1
        return code

    def left(self) -> list[str]:
        """What runs of it: by the mark, and by what was below it, since Ray's workers overwrite theirs."""
        found = [str(pid) for pid, _ in alive(self.seen)]
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found


@contextlib.contextmanager
def served(folder: Path, *words: object) -> Iterator[Server]:
    """Starts a server; ends it, should the test not have."""
    port, mark, errors = free_port(), uuid.uuid4().hex, folder / f"errors-{uuid.uuid4().hex}.txt"
    # Ray's sockets do not fit below a long folder.
    environment = os.environ | {_MARK: mark, "OMP_NUM_THREADS": "2"}
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "alexnet_deploy", "serve", "--port", str(port), *map(str, words)],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=stream, start_new_session=True,
        )  # fmt: skip
    server = Server(port, process, mark, errors)
    try:
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()

"""A server in a process of its own, and closed loops of clients that ask it, for `benchmarks.serving`."""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_MARK = "ALEXNET_DEPLOY_BENCHMARK"
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Call:
    """One request, over and over."""

    path: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Burden:
    """CPU time taken in even bursts, as clients and Ray take it beside a server."""

    bursts_per_second: float
    burst_seconds: float
    seconds: float

    def carry(self) -> dict[str, float]:
        """Takes it, a burst that comes late too; what it took, and how long."""
        began, started, number = time.process_time(), time.perf_counter(), 0
        while time.perf_counter() - started < self.seconds:
            number += 1
            # From the beginning, so that what one burst took too much, the next ones take less.
            while time.process_time() - began < number * self.burst_seconds:
                pass
            time.sleep(max(0.0, started + number / self.bursts_per_second - time.perf_counter()))
        return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - began}


@dataclass
class Server:
    """A server with all its processes."""

    port: int
    model: str
    mark: str

    def cpu_seconds(self) -> dict[str, float]:
        """Of the replica, the proxy, and the rest of Ray."""
        found = {"replica": 0.0, "proxy": 0.0, "rest": 0.0}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    command = (folder / "cmdline").read_bytes()
                    kind = "replica" if b"ServeReplica" in command else "proxy" if b"ProxyActor" in command else "rest"
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    found[kind] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found


@contextlib.contextmanager
def served(words: Sequence[str]) -> Iterator[Server]:
    """Starts a server, and ends it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    mark = uuid.uuid4().hex
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "alexnet_deploy", "serve", "--json", "--port", str(port), *words],
            env=os.environ | {_MARK: mark}, text=True, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise RuntimeError(errors.read())
            yield Server(port, json.loads(line)["model"]["name"], mark)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE_S)


@dataclass
class Client:
    """Closed loops in a process of their own, which the session's process does not wait for."""

    pipe: Connection

    def load(
        self, call: Call, *, workers: int, count: int | None = None, seconds: float | None = None
    ) -> dict[str, Any]:
        """Latencies and statuses of so many requests, or of so many seconds."""
        self.pipe.send((call, workers, count, seconds))
        found: dict[str, Any] = self.pipe.recv()
        return found

    def beside(self, burden: Burden, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What `work` gives while this process carries a burden."""
        self.pipe.send(burden)
        found = work()
        self.pipe.recv()
        return found


@contextlib.contextmanager
def clients(port: int) -> Iterator[Client]:
    """Starts the process of the clients, and ends it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_loads, args=(theirs, port), daemon=True)
    process.start()
    try:
        yield Client(ours)
    finally:
        ours.send(None)
        process.join(_PATIENCE_S)


def _serve_loads(pipe: Connection, port: int) -> None:
    while (asked := pipe.recv()) is not None:
        pipe.send(asked.carry() if isinstance(asked, Burden) else closed_loops(port, *asked))


def closed_loops(port: int, call: Call, workers: int, count: int | None, seconds: float | None) -> dict[str, Any]:
    """Requests one after the other by each worker; statuses, or the names of errors where no answer came."""
    samples, statuses, lock = list[float](), dict[str, int](), threading.Lock()
    left = [count if count is not None else sys.maxsize]
    cpu, started = time.process_time(), time.perf_counter()
    end = started + (seconds if seconds is not None else _PATIENCE_S)

    def loop() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
        while time.perf_counter() < end:
            with lock:
                if left[0] == 0:
                    break
                left[0] -= 1
            began = time.perf_counter()
            try:
                connection.request("POST", call.path, call.body, call.headers)
                answer = connection.getresponse()
                answer.read()
                status = str(answer.status)
            except (OSError, http.client.HTTPException) as exc:
                status = type(exc).__name__
                connection.close()
            taken = 1e3 * (time.perf_counter() - began)
            with lock:
                statuses[status] = statuses.get(status, 0) + 1
                if status == "200":
                    samples.append(taken)
        connection.close()

    threads = [threading.Thread(target=loop) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "samples_ms": samples, "statuses": statuses, "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
    }  # fmt: skip

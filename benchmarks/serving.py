"""Measures `alexnet-deploy serve` on loopback against the same session in this process, in alternating rounds.

Each round, for each session: batch 1 in this process and then through the server, of an image that is uploaded (decode,
preprocess, infer, five classes) and of a tensor in binary (infer alone); then the session's own throughput at the
largest batch that the server makes, of tensors and of images that are decoded first, and the server's under closed
loops of clients on connections that are kept. Clients, Ray's proxy and the session share the machine. What a client's,
the proxy's and the replica's processes cost is read from /proc, so that throughput is reported as it is and per CPU
second of the replica:

    raw       = served images a second / the session's images a second
    share     = CPU seconds of the replica / (seconds * CPUs)
    corrected = (served images / CPU seconds of the replica) / (images in this process / CPU seconds of this process)

usage: python -m benchmarks.serving [--rounds N] [--seconds S] [--session RUNTIME/PRECISION ...] [--no-record]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import image_from_bytes
from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment, usable_cpus, version_of
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.prediction import top_classes
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import Session, SessionSpec
from alexnet_deploy.specs import Precision, Target
from alexnet_deploy.weights import ModelInfo
from benchmarks.blocks import DOCS, replace_block

RESULT = Path(__file__).parent / "results" / "serving.json"
SESSIONS = ("onnxruntime-cpu/fp32", "onnxruntime-cpu/int8", "openvino/int8")
LOADS = (("tensor", 8), ("tensor", 16), ("tensor", 32), ("image", 16), ("image", 32))
BATCH, SINGLES, WARM_UP = 16, 30, 8
_NAMES = {"image": "an image of 28x28 (PNG)", "photo": "an image of 500x375 (JPEG)", "tensor": "a tensor (602 kB)"}
_MARK = "ALEXNET_DEPLOY_BENCHMARK"
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Call:
    """One request, over and over."""

    path: str
    body: bytes
    headers: dict[str, str]


@dataclass
class Samples:
    """What one session took, by what was measured; one list a round."""

    singles: dict[str, list[list[float]]] = field(default_factory=dict)
    offline: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    loads: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--session", action="append", choices=SESSIONS)
    parser.add_argument("--workdir", type=Path, default=Path("artifacts"))
    parser.add_argument("--no-record", action="store_true")
    asked = parser.parse_args(arguments)
    deployment = Deployment(Workspace(folder=asked.workdir, voice=Voice()))
    rows = [
        _measured(name, deployment, asked.workdir, asked.rounds, asked.seconds) for name in asked.session or SESSIONS
    ]
    document = {
        "schema": 1,
        "what": "alexnet-deploy serve on loopback against the same session in one process, alternating rounds",
        "formulas": {
            "latency_ratio": "p50 served / p50 in process, of the same round",
            "raw": "served images/s / offline images/s, of the same round; of images, offline decodes too",
            "share": "CPU seconds of the replica / (seconds * cpus)",
            "corrected": "(served images / replica CPU seconds) / (offline images / offline CPU seconds)",
        },
        "rounds": asked.rounds,
        "seconds_of_a_load": asked.seconds,
        "batch": BATCH,
        "threads": usable_cpus(),
        "environment": environment() | {"ray": version_of("ray")},
        "rows": rows,
    }
    for row in rows:
        print(_words(row))
    if not asked.no_record:
        write_json(RESULT, document)
        replace_block(DOCS / "serving.md", "serving", _table(document))


def _measured(name: str, deployment: Deployment, workdir: Path, rounds: int, seconds: float) -> dict[str, Any]:
    runtime, precision = name.split("/")
    graph = deployment.graph(Precision(precision), Target(runtime))
    info = deployment.info
    spec = SessionSpec(runtime=runtime, precision=Precision(precision), path=graph.path, threads=usable_cpus())
    samples = Samples()
    load = os.getloadavg()[0]
    words = ["--runtime", runtime, "--precision", precision, "--workdir", str(workdir), "--max-batch", str(BATCH)]
    with open_session(spec) as session, served(words) as server, clients(server.port) as client:
        for round_ in range(rounds):
            _round(samples, session, info, server, client, seconds)
            print(f"{name}: round {round_ + 1} of {rounds}", file=sys.stderr)
        overload = _overload(server, client, session)
    return {
        "session": name,
        "lrn": graph.facts.get("lrn"),
        "load_before": round(load, 2),
        **_row(samples),
        "overload": overload,
    }


def _round(samples: Samples, session: Session, info: ModelInfo, server: Server, client: Client, seconds: float) -> None:
    data, photo = _shipped_png(), _photo()
    tensor = batch_from_images([image_from_bytes(data, "image")], info.preprocessing)

    def whole(body: bytes) -> None:
        top_classes(session.run(batch_from_images([image_from_bytes(body, "x")], info.preprocessing))[0], info.labels)

    upload = {"content-type": "application/octet-stream"}
    singles: dict[str, tuple[Callable[[], object], Call]] = {
        "image": (lambda: whole(data), Call("/v1/classify", data, upload)),
        "photo": (lambda: whole(photo), Call("/v1/classify", photo, upload)),
        "tensor": (lambda: session.run(tensor), _tensor_call(server.model, tensor)),
    }
    for name, (local, call) in singles.items():
        samples.singles.setdefault(f"{name}, in process", []).append(_timed(local))
        found = client.load(call, workers=1, count=SINGLES + WARM_UP)
        assert set(found["statuses"]) == {"200"}, found["statuses"]
        samples.singles.setdefault(f"{name}, served", []).append(found["samples_ms"][WARM_UP:])
    batch = np.repeat(tensor, BATCH, axis=0)

    def decoded() -> Any:
        return batch_from_images([image_from_bytes(data, "x") for _ in range(BATCH)], info.preprocessing)

    for name, make in (("tensor", lambda: batch), ("image", decoded)):
        samples.offline.setdefault(name, []).append(_offline(session, make, seconds))
    for name, workers in LOADS:
        found = _load(server, client, singles[name][1], workers, seconds)
        samples.loads.setdefault((name, workers), []).append(found)


def _timed(run: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(SINGLES + WARM_UP):
        started = time.perf_counter()
        run()
        taken.append(1e3 * (time.perf_counter() - started))
    return taken[WARM_UP:]


def _offline(session: Session, make: Callable[[], Any], seconds: float) -> dict[str, float]:
    session.run(make())
    images, cpu, started = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - started < seconds:
        images += len(session.run(make()))
    return {
        "images": images, "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu,
    }  # fmt: skip


def _load(server: Server, client: Client, call: Call, workers: int, seconds: float) -> dict[str, Any]:
    before = server.cpu_seconds()
    found = client.load(call, workers=workers, seconds=seconds)
    spent = {kind: after - before.get(kind, 0.0) for kind, after in server.cpu_seconds().items()}
    return found | {"cpu_seconds": spent | {"clients": found.pop("cpu_seconds")}}


def _overload(server: Server, client: Client, session: Session) -> dict[str, Any]:
    """Far more clients than there are places: everybody is answered."""
    tensor = np.zeros((1, *session.image_shape), np.float32)
    found = client.load(_tensor_call(server.model, tensor), workers=200, count=1000)
    answered = sum(found["statuses"].values())
    return {"sent": 1000, "answered": answered, "statuses": found["statuses"], "lost": 1000 - answered}


def _row(samples: Samples) -> dict[str, Any]:
    latency = {}
    for name in ("image", "photo", "tensor"):
        local, remote = samples.singles[f"{name}, in process"], samples.singles[f"{name}, served"]
        ratios = [statistics.median(b) / statistics.median(a) for a, b in zip(local, remote, strict=True)]
        latency[name] = {
            "in_process_ms": _percentiles(local), "served_ms": _percentiles(remote), "p50_ratio": _spread(ratios),
        }  # fmt: skip
    rates = {
        name: _spread([one["images"] / one["seconds"] for one in rounds]) for name, rounds in samples.offline.items()
    }
    throughput = {
        f"{name}, {workers} clients": {"offline": name} | _throughput(loads, samples.offline[name])
        for (name, workers), loads in samples.loads.items()
    }
    return {"latency": latency, "offline_images_per_second": rates, "throughput": throughput}


def _throughput(loads: list[dict[str, Any]], offline: list[dict[str, float]]) -> dict[str, Any]:
    rates, raw, share, corrected = [], [], [], []
    for load, local in zip(loads, offline, strict=True):
        images, replica = load["statuses"].get("200", 0), load["cpu_seconds"]["replica"]
        rates.append(images / load["seconds"])
        raw.append(rates[-1] / (local["images"] / local["seconds"]))
        share.append(replica / (load["seconds"] * usable_cpus()))
        corrected.append((images / replica) / (local["images"] / local["cpu_seconds"]))
    kinds = sorted({kind for load in loads for kind in load["cpu_seconds"]})
    return {
        "images_per_second": _spread(rates),
        "latency_ms": _percentiles([load["samples_ms"] for load in loads]),
        "statuses": {
            status: sum(load["statuses"].get(status, 0) for load in loads)
            for status in sorted({status for load in loads for status in load["statuses"]})
        },
        "raw": _spread(raw),
        "replica_share": _spread(share),
        "corrected": _spread(corrected),
        "cpu_seconds": {kind: round(sum(load["cpu_seconds"].get(kind, 0.0) for load in loads), 2) for kind in kinds},
    }


def _percentiles(rounds: list[list[float]]) -> dict[str, float]:
    every = np.array([sample for samples in rounds for sample in samples])
    return {f"p{q}": round(float(np.percentile(every, q)), 3) for q in (50, 90, 99)} | {"runs": len(every)}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def _words(row: dict[str, Any]) -> str:
    offline = {name: found["median"] for name, found in row["offline_images_per_second"].items()}
    lines = [f"{row['session']}: offline {offline} images/s"]
    for name, found in row["latency"].items():
        local, remote = found["in_process_ms"], found["served_ms"]
        lines.append(
            f"  {name}: p50 {remote['p50']:.2f} ms served, {local['p50']:.2f} in process, ratio "
            f"{_words_of(found['p50_ratio'])}; p99 {remote['p99']:.2f}, {local['p99']:.2f}"
        )
    for name, found in row["throughput"].items():
        lines.append(
            f"  {name}: {found['images_per_second']['median']:.1f} images/s, p99 {found['latency_ms']['p99']:.0f} ms, "
            f"raw {_words_of(found['raw'])}, share {found['replica_share']['median']:.2f}, "
            f"corrected {_words_of(found['corrected'])}"
        )
    return "\n".join([*lines, f"  overload: {row['overload']}"])


def _table(document: dict[str, Any]) -> str:
    """What docs/serving.md has of it."""
    lines = [
        f"Medians over {document['rounds']} rounds on {document['threads']} CPUs ({document['environment']['cpu']}), "
        "with the least and the most in brackets; [the record](../benchmarks/results/serving.json).",
        "",
        "| session | what is sent | in process p50 | served p50, p99 | ratio at p50 |",
        "|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        for name, found in row["latency"].items():
            local, remote = found["in_process_ms"], found["served_ms"]
            lines.append(
                f"| {row['session']} | {_NAMES[name]} | {local['p50']:.1f} ms | {remote['p50']:.1f}, "
                f"{remote['p99']:.1f} ms | {_words_of(found['p50_ratio'])} |"
            )
    lines += [
        "",
        f"| session | clients | images/s served (offline, batch {document['batch']}; of images with decoding) | p99 "
        "| raw | replica's share of the CPUs | corrected |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        for name, found in row["throughput"].items():
            served_, offline = found["images_per_second"], row["offline_images_per_second"][found["offline"]]
            share = found["replica_share"]["median"]
            lines.append(
                f"| {row['session']} | {name} | {served_['median']:.0f} ({offline['median']:.0f}) "
                f"| {found['latency_ms']['p99']:.0f} ms | {_words_of(found['raw'])} | {share:.2f} "
                f"| {_words_of(found['corrected'])} |"
            )
    lost = sum(row["overload"]["lost"] for row in document["rows"])
    sent = sum(row["overload"]["sent"] for row in document["rows"])
    statuses: dict[str, int] = {}
    for row in document["rows"]:
        for status, count in row["overload"]["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    answered = ", ".join(f"{count} with {status}" for status, count in sorted(statuses.items()))
    return "\n".join([*lines, "", f"Of {sent} requests by 200 clients at once, {lost} were lost: {answered}."])


def _words_of(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"


def _shipped_png() -> bytes:
    target = io.BytesIO()
    Image.fromarray(shipped_images(Split.EVALUATION).image(0)).save(target, "PNG")
    return target.getvalue()


def _photo() -> bytes:
    """As large as a picture of ImageNet commonly is; smooth, as photographs are."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(target, "JPEG", quality=90)
    return target.getvalue()


def _tensor_call(model: str, tensor: Any) -> Call:
    data = tensor.tobytes()
    entry = {
        "name": "input",
        "shape": list(tensor.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    return Call(f"/v2/models/{model}/infer", head + data, headers)


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
        call, workers, count, seconds = asked
        pipe.send(_closed_loops(port, call, workers, count, seconds))


def _closed_loops(port: int, call: Call, workers: int, count: int | None, seconds: float | None) -> dict[str, Any]:
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


if __name__ == "__main__":
    main(sys.argv[1:])

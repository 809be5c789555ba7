"""Measures `alexnet-deploy serve` on loopback against the same session in this process, in alternating rounds.

Each round, for each session: batch 1 in this process and then through the server, of an image that is uploaded (decode,
preprocess, infer, five classes) and of a tensor in binary (infer alone); then the session's own throughput at the
largest batch that the server makes, of tensors and of images that are decoded first, and the server's under closed
loops of clients on connections that are kept. Clients, Ray's proxy and the session share the machine. What a client's,
the proxy's and the replica's processes cost is read from /proc, so that throughput is reported as it is, for the share
of the CPUs that the replica had, and by what an image costs:

    raw            = served images a second / the session's images a second
    share          = CPU seconds of the replica / (seconds * CPUs)
    corrected      = raw / share: the served rate over what the session would give on that share of the CPUs
    per_cpu_second = (served images / CPU seconds of the replica) / (offline images / CPU seconds of this process)
    beside         = served images a second / the session's images a second while another process takes as much CPU
                     time as clients and Ray took, in as many bursts as there were requests

`corrected` and `per_cpu_second` differ where the session by itself leaves CPUs idle. `beside` measures what
`corrected` computes: threads of one session wait for each other, so that whoever takes an eighth of the CPUs for a
moment costs a session more than an eighth of its rate. One record is kept for each CPU.

usage: python -m benchmarks.serving [--rounds N] [--seconds S] [--session RUNTIME/PRECISION ...] [--no-record]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
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
from benchmarks.serving_clients import Burden, Call, Client, Server, clients, served
from benchmarks.serving_table import table, words_of

RESULT = Path(__file__).parent / "results" / "serving.json"
SESSIONS = ("onnxruntime-cpu/fp32", "onnxruntime-cpu/int8", "openvino/int8")
LOADS = (("tensor", 8), ("tensor", 16), ("tensor", 32), ("image", 16), ("image", 32))
BATCH, SINGLES, WARM_UP = 16, 30, 8
SCHEMA = 2


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
    record = {
        "what": "alexnet-deploy serve on loopback against the same session in one process, alternating rounds",
        "formulas": {
            "latency_ratio": "p50 served / p50 in process, of the same round",
            "raw": "served images/s / offline images/s, of the same round; of images, offline decodes too",
            "share": "CPU seconds of the replica / (seconds * cpus)",
            "corrected": "raw / share, of the same round",
            "per_cpu_second": "(served images / replica CPU seconds) / (offline images / offline CPU seconds)",
            "beside": "served images/s / offline images/s while a process takes what clients and Ray took of the CPUs",
            "lost": "requests without an HTTP status: the connection was refused, reset or ended",
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
        records = with_record(json.loads(RESULT.read_text())["records"] if RESULT.exists() else [], record)
        write_json(RESULT, {"schema": SCHEMA, "records": records})
        replace_block(DOCS / "serving.md", "serving", table(records))


def with_record(records: Sequence[dict[str, Any]], record: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of other CPUs, and this one, which is the first."""

    def cpu(one: dict[str, Any]) -> list[Any]:
        return [one["environment"][name] for name in ("cpu", "cpu_family", "cpu_flags", "cpus")]

    return [record, *(one for one in records if cpu(one) != cpu(record))]


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

    makes: dict[str, Callable[[], Any]] = {"tensor": lambda: batch, "image": decoded}
    for name, make in makes.items():
        samples.offline.setdefault(name, []).append(_offline(session, make, seconds))
    for name, workers in LOADS:
        found = _load(server, client, singles[name][1], workers, seconds)
        samples.loads.setdefault((name, workers), []).append(found)
        found["beside"] = client.beside(burden_of(found), partial(_offline, session, makes[name], seconds))


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


def burden_of(load: Mapping[str, Any]) -> Burden:
    """What clients and Ray took of the CPUs in a load, in as many bursts as there were answers."""
    count = answered(load["statuses"])
    taken = sum(seconds for kind, seconds in load["cpu_seconds"].items() if kind != "replica")
    return Burden(count / load["seconds"], taken / count, load["seconds"])


def _load(server: Server, client: Client, call: Call, workers: int, seconds: float) -> dict[str, Any]:
    before = server.cpu_seconds()
    found = client.load(call, workers=workers, seconds=seconds)
    spent = {kind: after - before.get(kind, 0.0) for kind, after in server.cpu_seconds().items()}
    return found | {"cpu_seconds": spent | {"clients": found.pop("cpu_seconds")}}


def _overload(server: Server, client: Client, session: Session) -> dict[str, Any]:
    """Far more clients than there are places: everybody is answered."""
    tensor = np.zeros((1, *session.image_shape), np.float32)
    found = client.load(_tensor_call(server.model, tensor), workers=200, count=1000)
    return {"sent": 1000, "answered": answered(found["statuses"]), "statuses": found["statuses"],
            "lost": 1000 - answered(found["statuses"])}  # fmt: skip


def answered(statuses: Mapping[str, int]) -> int:
    """Requests that an HTTP status came for; the others are counted by the name of their error."""
    return sum(count for status, count in statuses.items() if status.isdigit())


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
    loaded = {
        f"{name}, {workers} clients": {"offline": name} | throughput(loads, samples.offline[name])
        for (name, workers), loads in samples.loads.items()
    }
    return {"latency": latency, "offline_images_per_second": rates, "throughput": loaded}


def throughput(
    loads: list[dict[str, Any]], offline: list[dict[str, float]], cpus: int = usable_cpus()
) -> dict[str, Any]:
    """What the rounds of one load come to, each against the session's own rate in the same round."""
    rates, raw, share, corrected, costs, beside_rates = [], [], [], [], [], []
    for load, local in zip(loads, offline, strict=True):
        images, replica = load["statuses"].get("200", 0), load["cpu_seconds"]["replica"]
        rates.append(images / load["seconds"])
        raw.append(rates[-1] / (local["images"] / local["seconds"]))
        share.append(replica / (load["seconds"] * cpus))
        corrected.append(raw[-1] / share[-1])
        costs.append((images / replica) / (local["images"] / local["cpu_seconds"]))
        beside_rates.append(load["beside"]["images"] / load["beside"]["seconds"])
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
        "per_cpu_second": _spread(costs),
        "beside": _spread([rate / beside for rate, beside in zip(rates, beside_rates, strict=True)]),
        "beside_images_per_second": _spread(beside_rates),
        "beside_share": _spread([one["beside"]["cpu_seconds"] / (one["beside"]["seconds"] * cpus) for one in loads]),
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
            f"{words_of(found['p50_ratio'])}; p99 {remote['p99']:.2f}, {local['p99']:.2f}"
        )
    for name, found in row["throughput"].items():
        lines.append(
            f"  {name}: {found['images_per_second']['median']:.1f} images/s, p99 {found['latency_ms']['p99']:.0f} ms, "
            f"raw {words_of(found['raw'])}, share {found['replica_share']['median']:.2f}, "
            f"corrected {words_of(found['corrected'])}, per CPU second {words_of(found['per_cpu_second'])}, "
            f"beside {words_of(found['beside'])}"
        )
    return "\n".join([*lines, f"  overload: {row['overload']}"])


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


if __name__ == "__main__":
    main(sys.argv[1:])

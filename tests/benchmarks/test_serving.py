"""What `python -m benchmarks.serving` makes of what it measures: lost requests, ratios, a record for each CPU."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.serving import LOADS, RESULT, SCHEMA, Samples, _row, answered, burden_of, throughput, with_record
from benchmarks.serving_clients import Burden, Call, closed_loops
from benchmarks.serving_table import table


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every other request; of the others it ends the connection."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).asked += 1
        if self.asked % 2:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(503 if self.asked % 4 else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is written."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_connection_that_ends_without_an_answer_is_a_lost_request(port: int) -> None:
    found = closed_loops(port, Call("/", b"x", {}), 1, 12, None)
    statuses = found["statuses"]
    assert (statuses["200"], statuses["503"]) == (3, 3)
    assert sum(statuses.values()) == 12 and answered(statuses) == 6
    assert len(found["samples_ms"]) == 3


def test_the_served_rate_is_corrected_by_the_replicas_share_of_the_cpus() -> None:
    # The session alone leaves a fifth of the CPUs idle, so that what an image costs is another question.
    offline = {"images": 200.0, "seconds": 2.0, "cpu_seconds": 3.2}
    load = {
        "statuses": {"200": 120, "503": 7}, "seconds": 2.0, "samples_ms": [1.0],
        "cpu_seconds": {"replica": 3.0, "clients": 1.0},
        "beside": {"images": 150.0, "seconds": 2.0, "cpu_seconds": 2.8},
    }  # fmt: skip
    found = throughput([load], [offline], cpus=2)
    assert found["raw"]["median"] == 0.6 and found["replica_share"]["median"] == 0.75
    assert found["corrected"]["median"] == 0.8
    assert found["per_cpu_second"]["median"] == round((120 / 3.0) / (200 / 3.2), 3)
    assert found["beside"]["median"] == 0.8 and found["beside_share"]["median"] == 0.7


def test_a_burden_is_what_clients_and_ray_took_in_as_many_bursts_as_there_were_answers() -> None:
    load = {
        "statuses": {"200": 90, "503": 10, "ConnectionResetError": 3}, "seconds": 2.0,
        "cpu_seconds": {"replica": 3.0, "clients": 0.3, "proxy": 0.05, "rest": 0.05},
    }  # fmt: skip
    burden = burden_of(load)
    assert (burden.bursts_per_second, burden.seconds) == (50.0, 2.0)
    assert burden.burst_seconds == pytest.approx(0.004)


def test_a_burden_takes_its_cpu_time_and_sleeps_between() -> None:
    carried = Burden(bursts_per_second=100, burst_seconds=0.002, seconds=0.3).carry()
    # As many bursts as began, a burst late at most; a machine under load may lengthen it, not what it takes a burst.
    assert carried["cpu_seconds"] >= 0.002
    assert carried["seconds"] >= 0.3
    assert carried["cpu_seconds"] <= 0.5 * carried["seconds"]


def test_one_record_is_kept_for_each_cpu() -> None:
    def record(family: str, rounds: int) -> dict[str, Any]:
        environment = {"cpu": "A", "cpu_family": family, "cpu_flags": ["avx2"], "cpus": 2}
        return {"environment": environment, "rounds": rounds}

    kept = with_record([record("1", 1), record("2", 2)], record("2", 3))
    assert [(one["environment"]["cpu_family"], one["rounds"]) for one in kept] == [("2", 3), ("1", 1)]


def test_the_records_can_be_shown() -> None:
    document = json.loads(RESULT.read_text())
    assert document["schema"] == SCHEMA
    text = table(document["records"])
    assert text.count("Medians over") == len(document["records"])
    for record in document["records"]:
        for row in record["rows"]:
            assert answered(row["overload"]["statuses"]) == row["overload"]["sent"] - row["overload"]["lost"]
            assert text.count(f"| {row['session']} | tensor, 8 clients |") == len(document["records"])


def test_a_row_holds_every_latency_and_every_load() -> None:
    names = ("image", "photo", "tensor")
    load = {
        "statuses": {"200": 30}, "seconds": 2.0, "samples_ms": [40.0, 50.0],
        "cpu_seconds": {"replica": 3.0, "clients": 1.0},
        "beside": {"images": 30.0, "seconds": 2.0, "cpu_seconds": 3.0},
    }  # fmt: skip
    samples = Samples(
        singles={
            f"{name}, {where}": [[ms]] for name in names for where, ms in (("in process", 10.0), ("served", 12.0))
        },
        offline={name: [{"images": 40.0, "seconds": 2.0, "cpu_seconds": 4.0}] for name in ("tensor", "image")},
        loads={(name, workers): [load] for name, workers in LOADS},
    )
    row = _row(samples)
    assert [found["p50_ratio"]["median"] for found in row["latency"].values()] == [1.2, 1.2, 1.2]
    assert set(row["throughput"]) == {f"{name}, {workers} clients" for name, workers in LOADS}
    assert row["throughput"]["image, 32 clients"]["raw"]["median"] == 0.75
    assert row["throughput"]["image, 32 clients"]["offline"] == "image"

"""`alexnet-deploy serve` as a process: real clients, a real browser, too many requests at once, and its end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.data.catalog import FASHION_MNIST_CLASSES
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.optional import is_installed
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.prediction import top_classes
from alexnet_deploy.progress import SILENT
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import Session, SessionSpec
from alexnet_deploy.serving.processes import descendants
from alexnet_deploy.specs import Precision, Target
from benchmarks.chromium import NAMES, Browser, find_chromium
from tests.cli.conftest import Run, assert_refused, run
from tests.conftest import SMALL_SIDE, small_preprocessing
from tests.serving.process import ROOT, Server, free_port, served

pytestmark = pytest.mark.skipif(
    not is_installed("ray"), reason="ray is not installed: pip install 'alexnet-deploy[ray]'"
)
__all__ = ["run"]

TRITON = ROOT / ".venv-triton" / "bin" / "python"
MODEL, QUEUE = "small", 8
# A wait in which whatever comes goes together: what is refused does not hang on how fast the machine is.
OPTIONS = ("--threads", 2, "--max-queue", QUEUE, "--max-batch", 16, "--batch-wait-ms", 150, "--max-body", 4)
BURST, PATIENCE_S = 60, 120.0


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def common(work: Path, small_checkpoint: Path) -> list[object]:
    return ["--model", small_checkpoint, "--workdir", work]


@pytest.fixture(scope="module")
def session(work: Path, small_checkpoint: Path) -> Iterator[Session]:
    """The same session in this process; it makes the graph that the servers find."""
    deployment = Deployment(Workspace(folder=work, voice=SILENT), model=str(small_checkpoint))
    graph = deployment.graph(Precision.FP32, Target.ONNXRUNTIME_CPU)
    with open_session(
        SessionSpec(runtime="onnxruntime-cpu", precision=Precision.FP32, path=graph.path, threads=2)
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(work: Path, common: list[object], session: Session) -> Iterator[Server]:
    with served(work, *common, *OPTIONS) as found:
        found.until_ready()
        yield found


def noise(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 3, SMALL_SIDE, SMALL_SIDE)).astype(np.float32)


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (28, 28, 3), dtype=np.uint8)


def png() -> bytes:
    target = io.BytesIO()
    Image.fromarray(picture()).save(target, "PNG")
    return target.getvalue()


def expected_classes(session: Session) -> list[tuple[str, float]]:
    row = session.run(batch_from_images([picture()], small_preprocessing()))[0]
    return list(top_classes(row, FASHION_MNIST_CLASSES))


def json_body(images: NDArray[np.float32]) -> bytes:
    entry = {"name": "input", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}
    return json.dumps({"inputs": [entry]}).encode()


def binary_request(images: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    data = images.tobytes()
    entry = {
        "name": "input",
        "shape": list(images.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}


def test_curl_gets_what_the_session_gives(server: Server, session: Session, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl on PATH")
    images = noise(2)
    (tmp_path / "body.json").write_bytes(json_body(images))

    def called(*words: str) -> Any:
        done = subprocess.run([curl, "-sS", "--fail-with-body", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    address = f"{server.url}/v2/models/{MODEL}"
    assert called(f"{server.url}/v2/health/ready")["ready"] is True
    assert called(address)["inputs"] == [
        {"name": "input", "datatype": "FP32", "shape": [-1, 3, SMALL_SIDE, SMALL_SIDE]}
    ]
    # As it is typed: curl asks for leave to send what is large (Expect: 100-continue), and states a form as its type.
    (output,) = called("-d", f"@{tmp_path / 'body.json'}", f"{address}/infer")["outputs"]
    np.testing.assert_array_equal(np.array(output["data"], np.float32).reshape(2, -1), session.run(images))
    (tmp_path / "x.png").write_bytes(png())
    for words in (("-F", f"image=@{tmp_path / 'x.png'}"), ("--data-binary", f"@{tmp_path / 'x.png'}")):
        found = called(*words, f"{server.url}/v1/classify")["classes"]
        assert [(entry["label"], entry["probability"]) for entry in found] == expected_classes(session)


def test_tritons_client_gets_what_the_session_gives(server: Server, session: Session, tmp_path: Path) -> None:
    if not TRITON.exists():
        pytest.skip("no .venv-triton here: make setup makes it")
    images = noise(3, seed=1)
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [TRITON, Path(__file__).with_name("triton_client.py"), server.url.removeprefix("http://"), MODEL, tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = session.run(images)
    for name in ("binary", "json"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected)
        assert found[f"{name}_id"] == name
    assert found["live"] and found["ready"] and found["model_ready"] and not found["other_ready"]
    assert found["server"]["name"] == "alexnet-deploy" and found["model"]["name"] == MODEL
    assert found["plain_equal"]
    best = np.argsort(-expected, axis=1)[:, :2]
    assert [[text.split(":")[1:] for text in row] for row in found["classes"]] == [
        [[str(i), FASHION_MNIST_CLASSES[i]] for i in row] for row in best
    ]
    status, message = found["refused"]
    assert status == "400" and "got: [1, 3, 2, 2]; expected: [N, 3, 99, 99] with N from 1 to 16" in message


def test_a_body_that_is_too_large_is_refused(server: Server) -> None:
    status, _, body = server.ask("/v1/classify", bytes(4_000_001))
    assert status == 413 and "4000001 bytes" in json.loads(body)["error"]
    assert server.ask("/v1/classify", png())[0] == 200


def test_metrics_count_what_was_answered(server: Server) -> None:
    def answered() -> float:
        _, headers, body = server.ask("/metrics")
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        wanted = 'route="classify",code="200"'
        return next((float(line.split()[-1]) for line in body.decode().splitlines() if wanted in line), 0.0)

    before = answered()
    assert server.ask("/v1/classify", png())[0] == 200
    assert answered() == before + 1


def test_under_overload_every_request_is_answered(server: Server, session: Session) -> None:
    images = noise(1, seed=2)
    body, headers = binary_request(images)
    with concurrent.futures.ThreadPoolExecutor(BURST) as pool:
        futures = [pool.submit(server.ask, f"/v2/models/{MODEL}/infer", body, headers) for _ in range(BURST)]
        answers = [future.result() for future in futures]
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}
    for status, found, data in answers:
        if status == 503:
            assert found["retry-after"] == "1"
            assert "error" in json.loads(data) if found["content-type"] == "application/json" else data
        else:
            rows = np.frombuffer(data[int(found["inference-header-content-length"]) :], "<f4").reshape(1, -1)
            # Rows of a batch of another size may differ in the last bits.
            np.testing.assert_allclose(rows, session.run(images), rtol=1e-4, atol=1e-5)
    # Nothing of it is left behind.
    assert server.ask("/v1/classify", png())[0] == 200


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is on PATH (apt-get install chromium)")
    with Browser(executable) as opened:
        yield opened


SHOWN = """new Promise(done => { const look = () => {
  const rows = [...document.querySelectorAll('#classes li')];
  if (document.getElementById('result').hidden && !document.querySelector('#status.bad')) setTimeout(look, 20);
  else done({rows: rows.map(row => [row.childNodes[1].data, row.firstChild.textContent]),
             status: document.getElementById('status').textContent,
             picture: document.getElementById('preview').naturalWidth});
}; look() })"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_five_classes_of_an_image(
    server: Server, session: Session, browser: Browser, tmp_path: Path, scheme: str
) -> None:
    expected = [[label, f"{100 * share:.2f} %"] for label, share in expected_classes(session)]
    browser.look(360, 740, scheme=scheme)
    browser.open(f"{server.url}/")
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    # The keyboard reaches the field, and it can be seen that it did.
    browser.press("Tab", code=9)
    assert browser.evaluate("document.activeElement.id") == "file"
    assert browser.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    # A file that is chosen.
    (tmp_path / "x.png").write_bytes(png())
    node = browser.command("DOM.getDocument")["root"]["nodeId"]
    field = browser.command("DOM.querySelector", nodeId=node, selector="#file")["nodeId"]
    browser.command("DOM.setFileInputFiles", nodeId=field, files=[str(tmp_path / "x.png")])
    shown = browser.evaluate(SHOWN)
    assert shown["rows"] == expected and shown["picture"] == 28
    assert shown["status"].startswith("Answered in ")
    # One that is dropped, and is none.
    browser.evaluate(_dropped(b"hello", "<b>.png"))
    shown = browser.evaluate(SHOWN)
    assert "cannot be read as an image" in shown["status"]
    browser.evaluate(_dropped(png(), "x.png"))
    assert browser.evaluate(SHOWN)["rows"] == expected
    assert browser.evaluate("innerWidth >= document.documentElement.scrollWidth")
    # The answer that was refused is in the console, and a picture that is none; nothing else is.
    assert [problem for problem in browser.problems if "400" not in problem] == []
    # Nothing but this server was asked.
    asked = {address for address in browser.requested if not address.startswith(("blob:", "data:"))}
    assert asked == {f"{server.url}/", f"{server.url}/v1/classify"}


def _dropped(data: bytes, name: str) -> str:
    return (
        f"(() => {{ const moved = new DataTransfer(); moved.items.add(new File("
        f"[new Uint8Array({list(data)})], {name!r}, {{type: 'image/png'}})); "
        "document.getElementById('drop').dispatchEvent(new DragEvent('drop',"
        f"{{dataTransfer: moved, bubbles: true, cancelable: true}})) }})()"
    )


def test_nothing_was_written_but_the_address(server: Server) -> None:
    assert server.process.poll() is None
    lines = [line for line in server.errors.read_text().splitlines() if not line.startswith(("using ", "making "))]
    assert lines[-2:] == [
        "starting Ray Serve",
        f"{MODEL} (onnxruntime-cpu/fp32) is served at {server.url}: the page there, "
        f"{server.url}/v2/models/{MODEL} for clients; Ctrl-C ends it",
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_requests_in_flight_are_answered_at_the_end(
    number: signal.Signals, code: int, work: Path, common: list[object], session: Session
) -> None:
    options = [*OPTIONS, "--batch-wait-ms", 1000]
    body, headers = binary_request(noise(1))
    with served(work, *common, *options) as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        server.until_ready()
        futures = [pool.submit(server.ask, f"/v2/models/{MODEL}/infer", body, headers) for _ in range(4)]
        while 'alexnet_deploy_images_waiting{replica="0"} 4' not in _plain_metrics(server):
            assert not any(future.done() for future in futures), "the requests were answered before they were seen"
            server.tick.wait(0.01)
        # As a terminal sends it: to everything that runs in it.
        server.end(number, whole_group=number == signal.SIGINT)
        assert [future.result()[0] for future in futures] == [200] * 4
        assert server.ended() == code, server.errors.read_text()
        assert server.left() == []
        assert "requests in flight are finished first" in server.errors.read_text()
        assert "Traceback" not in server.errors.read_text()
        # The port is free again.
        with contextlib.closing(socket.create_server(("127.0.0.1", server.port))):
            pass


def test_clients_that_go_on_asking_lose_no_request_at_the_end(
    work: Path, common: list[object], session: Session
) -> None:
    """What the server took is answered, and what it does not take any more is refused before it is sent."""
    body, headers = binary_request(noise(1))
    ended = threading.Event()

    def asks(port: int) -> tuple[list[int], list[str]]:
        statuses, errors = list[int](), list[str]()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        while not errors and not ended.is_set():
            try:
                connection.request("POST", f"/v2/models/{MODEL}/infer", body, headers)
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
            except (OSError, http.client.HTTPException) as exc:
                errors.append(type(exc).__name__)
                connection.close()
        return statuses, errors

    # One image after the other, so that there is no moment without a request in flight.
    options = ("--threads", 2, "--max-batch", 1)
    with served(work, *common, *options) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        server.until_ready()
        futures = [pool.submit(asks, server.port) for _ in range(8)]
        try:
            while 'route="infer",code="200"' not in _plain_metrics(server):
                server.tick.wait(0.01)
            server.end(signal.SIGTERM)
            assert server.ended() == 143, server.errors.read_text()
        finally:
            ended.set()
        for statuses, errors in (future.result() for future in futures):
            assert set(statuses) <= {200, 503} and errors == ["ConnectionRefusedError"]


@pytest.mark.slow
def test_a_replica_that_is_gone_is_started_anew_at_the_same_port(
    work: Path, common: list[object], session: Session
) -> None:
    with served(work, *common, *OPTIONS) as server:
        server.until_ready()
        (replica,) = (pid for pid, _ in descendants(server.process.pid) if b"ServeReplica" in _command(pid))
        os.kill(replica, signal.SIGKILL)
        server.until_it_says("the model does not answer, and Serve starts it anew")
        server.until_it_says("the model answers again")
        assert server.ask("/v1/classify", png())[0] == 200
        assert "Traceback" not in server.errors.read_text()


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _plain_metrics(server: Server) -> str:
    """Without the replica's own name."""
    return re.sub(r'replica="[^"]*"', 'replica="0"', server.ask("/metrics")[2].decode())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_nothing_is_left_of_a_server_that_is_ended_while_it_starts(
    number: signal.Signals, code: int, work: Path, common: list[object], session: Session
) -> None:
    with served(work, *common, *OPTIONS) as server:
        server.until_it_says("starting Ray Serve")
        # Until Ray has begun.
        while len(descendants(server.process.pid)) < 2:
            assert server.process.poll() is None, server.errors.read_text()
            server.tick.wait(0.02)
        server.end(number)
        assert server.ended() == code, server.errors.read_text()
        assert server.left() == []
        assert "Traceback" not in server.errors.read_text()


def test_a_port_in_use_is_said(run: Run, common: list[object]) -> None:
    port = free_port()
    with contextlib.closing(socket.create_server(("127.0.0.1", port))):
        assert_refused(run("serve", *common, "--port", port), 2, f"port {port} is in use", "--port another one")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "192.0.2.1"), "cannot be listened on"),
        (("--name", "a/b"), "letters, digits"),
        (("--trust",), "--trust goes with --engine"),
        (("--engine", "x.engine", "--precision", "int8"), "--precision and --runtime go without --engine"),
    ],
)
def test_what_cannot_be_served_is_said(run: Run, common: list[object], words: tuple[str, ...], said: str) -> None:
    ended = run("serve", *common, *words)
    assert ended.code == 2 and said in ended.err and ended.out == "" and "Traceback" not in ended.err

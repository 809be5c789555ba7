"""The application without a server: what every path answers, and what it does when there is too much of it."""

from __future__ import annotations

import asyncio
import io
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.errors import SessionError
from alexnet_deploy.prediction import top_classes
from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.serving.application import Application
from alexnet_deploy.serving.options import MAX_HEAD_BYTES, ServeOptions
from tests.serving.asking import (
    CLASSIFY,
    INFER,
    MAX_BODY,
    SlowSession,
    application,
    ask,
    asked,
    binary,
    png,
    run_slow,
    until,
)
from tests.serving.models import CLASSES, LABELS, SIDE, binary_body, images, json_body, model


@pytest.fixture
def app() -> Iterator[Application]:
    found = application()
    yield found
    found.close()


def form(*parts: tuple[str, bytes], boundary: str = "edge") -> tuple[bytes, dict[str, str]]:
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="a"{rest}\r\n\r\n'.encode() + content + b"\r\n"
        for rest, content in parts
    )
    return body + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


def test_health_and_metadata(app: Application) -> None:
    assert asked(app, "GET", "/v2/health/live").document == {"live": True}
    for path in ("/v2/health/ready", "/v2/models/fake/ready", "/v2/models/fake/versions/1/ready"):
        assert asked(app, "GET", path).document["ready"] is True
    assert asked(app, "GET", "/v2").document["extensions"] == ["binary_tensor_data", "classification"]
    for path in ("/v2/models/fake", "/v2/models/fake/versions/1", "/v2/models/fake/"):
        assert asked(app, "GET", path).document == {
            "name": "fake",
            "versions": ["1"],
            "platform": "fake/fp32",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}],
        }
    head = asked(app, "HEAD", "/v2/health/live")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len('{"live":true}')))


@pytest.mark.parametrize("path", [INFER, "/v2/models/fake/versions/1/infer"])
def test_inference_gives_what_the_session_gives(app: Application, path: str) -> None:
    sent = images(2)
    expected = FakeSession((3, SIDE, SIDE), CLASSES).run(sent)
    answer = asked(app, "POST", path, json_body(sent))
    np.testing.assert_array_equal(
        np.array(answer.document["outputs"][0]["data"], np.float32).reshape(2, CLASSES), expected
    )
    body, head = binary_body(sent, parameters={"binary_data_output": True})
    # In parts, as a proxy may pass it on.
    parts = [body[:100], b"", body[100:]]
    answer = asked(app, "POST", path, parts, {"Inference-Header-Content-Length": head})
    tail = answer.body[int(answer.headers["inference-header-content-length"]) :]
    np.testing.assert_array_equal(np.frombuffer(tail, "<f4").reshape(2, CLASSES), expected)


def expected_classes(data: bytes) -> list[dict[str, Any]]:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    row = FakeSession((3, SIDE, SIDE), CLASSES).run(batch_from_images([pixels], model().preprocessing))[0]
    return [{"label": label, "probability": share} for label, share in top_classes(row, LABELS)]


@pytest.mark.parametrize("path", [CLASSIFY, "/v2/models/fake/classify", "/v2/models/fake/versions/1/classify"])
def test_an_image_is_classified_however_it_is_uploaded(app: Application, path: str) -> None:
    data = png()
    for body, headers in (
        (data, {"content-type": "image/png"}),
        (data, {}),
        form(('; filename="x.png"', data)),
        form(("", b"a field"), ("; filename*=UTF-8''x", data), boundary="a'()+_,-./:=?"),
        form(('; filename="x.png"', data), ('; filename=""', b"")),
    ):
        if "/:=" in str(headers):
            headers = {"content-type": 'multipart/form-data; boundary="a\'()+_,-./:=?"'}
        answer = asked(app, "POST", path, body, headers)
        assert answer.status == 200, answer.body
        assert answer.document == {
            "model_name": "fake", "model_version": "1", "classes": expected_classes(data),
        }  # fmt: skip
        assert len(answer.document["classes"]) == 5


BAD_UPLOADS: dict[str, tuple[bytes, dict[str, str], str]] = {
    "nothing": (b"", {}, "no image"),
    "no image": (b"hello", {}, "cannot be read as an image"),
    "a damaged image": (png()[:-40], {}, "cannot be read as an image"),
    "a GIF": (b"GIF89a" + bytes(60), {}, "no JPEG, PNG, BMP, WEBP, PPM"),
    "a form without a boundary": (b"x", {"content-type": "multipart/form-data"}, "no boundary"),
    "a form with a long boundary": (b"x", {"content-type": f"multipart/form-data; boundary={'x' * 71}"}, "no boundary"),
    "a form without an end": (b"--a\r\n\r\nx", {"content-type": "multipart/form-data; boundary=a"}, "no part"),
    "a form without a file": (*form(("", png())), "no file"),
    "a form of two files": (*form(*[('; filename="x"', png())] * 2), "several files"),
    "a form of many parts": (*form(*[("", b"x")] * 20, ('; filename="x"', png())), "too many parts"),
    "a form with an empty file": (*form(('; filename="x"', b"")), "cannot be read as an image"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_what_is_no_image_is_refused(app: Application, name: str) -> None:
    body, headers, words = BAD_UPLOADS[name]
    answer = asked(app, "POST", CLASSIFY, body, headers)
    assert answer.status == 400 and words in answer.error


def test_an_image_of_too_many_pixels_is_refused(app: Application) -> None:
    # A PNG's head alone: what it claims is enough.
    target = io.BytesIO()
    Image.new("1", (1, 1)).save(target, "PNG")
    data = bytearray(target.getvalue())
    data[16:24] = (8_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    answer = asked(app, "POST", CLASSIFY, bytes(data))
    assert answer.status == 400 and "8000x8000" in answer.error


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nothing", 404, "/nothing"),
        ("GET", "/v2/models", 404, "nothing here"),
        ("GET", "/v2/models/other", 404, "got: other; expected: fake"),
        ("POST", "/v2/models/other/infer", 404, "no such model"),
        ("GET", "/v2/models/fake/versions/2", 404, "no such version; got: 2; expected: 1"),
        ("GET", "/v2/models/fake/versions", 404, "no such version"),
        ("GET", "/v2/models/fake/stats", 404, "no such endpoint"),
        ("GET", INFER, 405, "got: GET; expected: POST"),
        ("POST", "/v2/health/live", 405, "got: POST; expected: GET, HEAD"),
        ("DELETE", "/v2/models/fake", 405, "DELETE"),
        ("GET", "/v2/models/" + "x" * 5000, 404, "no such model"),
        ("GET", "/v2/models/\u202e\x1b[31m", 404, "\\u202e\\x1b[31m"),
    ],
)
def test_a_path_that_is_none_is_said(app: Application, method: str, path: str, status: int, words: str) -> None:
    answer = asked(app, method, path)
    assert answer.status == status and words in answer.error and len(answer.error) < 2000
    assert ("allow" in answer.headers) == (status == 405)


def test_bodies_have_a_bound(app: Application) -> None:
    # By what the client says, before anything is read, and by what comes.
    stated = asked(app, "POST", INFER, b"", {"content-length": str(MAX_BODY + 1)})
    assert stated.status == 413 and str(MAX_BODY) in stated.error
    came = asked(app, "POST", INFER, [b" " * (MAX_BODY // 2)] * 3)
    assert came.status == 413
    assert asked(app, "POST", INFER, b" " * MAX_BODY).status == 400
    assert asked(app, "POST", INFER, b"x", {"content-encoding": "gzip"}).status == 415


def test_headers_have_a_bound(app: Application) -> None:
    answer = asked(app, "GET", "/v2", b"", {"x": "y" * MAX_HEAD_BYTES})
    assert answer.status == 431 and str(MAX_HEAD_BYTES) in answer.error


def test_a_request_that_is_wrong_is_said(app: Application) -> None:
    answer = asked(app, "POST", INFER, json_body(images(5)))
    assert answer.status == 400
    assert answer.error == (
        "the input 'input' has another shape; got: [5, 3, 8, 8]; expected: [N, 3, 8, 8] with N from 1 to 4"
    )


def test_a_session_that_fails_is_no_end() -> None:
    class Failing(FakeSession):
        errors: ClassVar = [SessionError("it failed", got="a secret path"), RuntimeError("a secret path")]

        def _run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
            if self.errors:
                raise self.errors.pop(0)
            return super()._run(values)

    app = application(Failing((3, SIDE, SIDE), CLASSES))
    for words in ("it failed", "the runtime failed on a batch"):
        answer = asked(app, "POST", INFER, json_body(images()))
        assert answer.status == 500 and answer.error == words
    assert asked(app, "POST", INFER, json_body(images())).status == 200
    app.close()


def test_under_overload_everybody_is_answered() -> None:
    async def scenario(app: Application, session: SlowSession) -> None:
        tasks = [asyncio.create_task(ask(app, "POST", INFER, *binary(0)))]
        await asyncio.to_thread(session.entered.acquire)
        tasks += [asyncio.create_task(ask(app, "POST", INFER, *binary(seed))) for seed in range(1, 30)]
        # One is computed, four wait; the places are eight.
        await until(lambda: sum(task.done() for task in tasks) == 25)
        text = (await ask(app, "GET", "/metrics")).body.decode()
        assert 'alexnet_deploy_images_waiting{replica="0"} 4' in text
        assert 'alexnet_deploy_requests_in_flight{replica="0"} 5' in text
        assert 'alexnet_deploy_requests_total{replica="0",route="infer",code="503"} 25' in text
        assert (await ask(app, "GET", "/v2/health/ready")).status == 200
        session.let_all_go()
        answers = await asyncio.gather(*tasks)
        assert sorted(answer.status for answer in answers) == [200] * 5 + [503] * 25
        for answer in answers:
            if answer.status == 503:
                assert answer.headers["retry-after"] == "1"
                assert "queue is full" in answer.error or "as many requests" in answer.error
        text = (await ask(app, "GET", "/metrics")).body.decode()
        assert 'alexnet_deploy_requests_total{replica="0",route="infer",code="200"} 5' in text
        assert 'alexnet_deploy_batch_images_bucket{replica="0",le="4"} 2' in text
        assert 'alexnet_deploy_batch_images_sum{replica="0"} 5' in text
        assert 'alexnet_deploy_request_seconds_count{replica="0",route="infer"} 30' in text

    run_slow(scenario)


def test_a_request_that_waits_too_long_is_answered() -> None:
    async def scenario(app: Application, session: SlowSession) -> None:
        answer = await ask(app, "POST", INFER, *binary(0))
        assert answer.status == 503 and "waited too long" in answer.error and answer.headers["retry-after"] == "1"

    run_slow(scenario, request_timeout_s=0.05)


def test_a_client_that_goes_away_leaves_no_place_taken() -> None:
    async def scenario(app: Application, session: SlowSession) -> None:
        session.let_all_go()
        for _ in range(20):
            assert (await ask(app, "POST", INFER, [b"{"], ends=False)).status == 0
        text = (await ask(app, "GET", "/metrics")).body.decode()
        assert 'alexnet_deploy_requests_in_flight{replica="0"} 0' in text
        assert 'alexnet_deploy_requests_total{replica="0",route="infer",code="499"} 20' in text
        assert (await ask(app, "POST", INFER, *binary(0))).status == 200

    run_slow(scenario)


def test_a_client_that_goes_away_while_it_waits_gives_its_place_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_deploy.serving.application.LISTEN_AFTER_SECONDS", 0)

    async def scenario(app: Application, session: SlowSession) -> None:
        first = asyncio.create_task(ask(app, "POST", INFER, *binary(0)))
        await asyncio.to_thread(session.entered.acquire)
        assert (await ask(app, "POST", INFER, *binary(1), stays=False)).status == 0
        text = (await ask(app, "GET", "/metrics")).body.decode()
        assert 'alexnet_deploy_requests_total{replica="0",route="infer",code="499"} 1' in text
        session.let_all_go()
        assert (await first).status == 200
        assert (await ask(app, "POST", INFER, *binary(2))).status == 200
        text = (await ask(app, "GET", "/metrics")).body.decode()
        assert 'alexnet_deploy_batch_images_sum{replica="0"} 2' in text
        assert 'alexnet_deploy_images_waiting{replica="0"} 0' in text

    run_slow(scenario)


def test_metrics_have_the_type_that_prometheus_asks_for(app: Application) -> None:
    answer = asked(app, "GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.body.decode()
    assert 'alexnet_deploy_model_info{replica="0",model="fake",version="1",platform="fake/fp32"' in text
    values = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith("process_")}
    assert values['process_cpu_seconds_total{replica="0"}'] > 0
    assert values['process_resident_memory_bytes{replica="0"}'] > 1e6


def test_the_page_carries_everything_and_allows_nothing_else() -> None:
    app = Application(
        FakeSession((3, SIDE, SIDE), CLASSES), model(name='<b>"&', platform="x\u202e"), ServeOptions(threads=1)
    )
    answer = asked(app, "GET", "/")
    html, policy = answer.body.decode(), answer.headers["content-security-policy"]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "<b>&lt;b&gt;&quot;&amp;</b>, x\\u202e." in html and "{{" not in html and "//" not in html
    app.close()


def test_the_lifespan_ends_the_session() -> None:
    session = FakeSession((3, SIDE, SIDE), CLASSES)
    app = application(session)
    coming, sent = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], []

    async def receive() -> dict[str, Any]:
        return coming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"] and session.closed

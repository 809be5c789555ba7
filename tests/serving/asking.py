"""The application asked without a server, and a session that waits until it is let go."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.serving.application import Application
from alexnet_deploy.serving.options import ServeOptions
from tests.serving.models import CLASSES, SIDE, binary_body, images, model

MAX_BODY = 100_000
# After which a test that waits fails instead of waiting for ever.
PATIENCE_S = 60
INFER, CLASSIFY = "/v2/models/fake/infer", "/v1/classify"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert list(self.document) == ["error"]
        return str(self.document["error"])


async def ask(
    app: Application,
    method: str,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    headers: Mapping[str, str] | None = None,
    *,
    ends: bool = True,
    stays: bool = True,
) -> Answer:
    """One request. A body in parts states no length; without an end, or where it does not stay, the client goes away
    after them."""
    whole = isinstance(body, bytes)
    parts = [body] if isinstance(body, bytes) else list(body)
    pairs = {"content-length": str(len(parts[0]))} if whole and method == "POST" else {}
    scope = {
        "type": "http", "method": method, "path": path,
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in (pairs | dict(headers or {})).items()],
    }  # fmt: skip
    coming = [
        {"type": "http.request", "body": part, "more_body": i < len(parts) - 1 or not ends}
        for i, part in enumerate(parts)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not coming and ends and stays:
            await asyncio.Event().wait()
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return Answer(0, {}, b"")
    start, content = sent
    found = {key.decode(): value.decode("latin-1") for key, value in start["headers"]}
    assert method == "HEAD" or int(found["content-length"]) == len(content["body"])
    return Answer(start["status"], found, content["body"])


class SlowSession(FakeSession):
    """Waits in every run until it is let go."""

    def __init__(self) -> None:
        super().__init__((3, SIDE, SIDE), CLASSES)
        self.entered, self.released = threading.Semaphore(0), threading.Semaphore(0)

    def _run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        self.entered.release()
        self.released.acquire()
        return super()._run(values)

    def let_all_go(self) -> None:
        for _ in range(1000):
            self.released.release()


def application(session: FakeSession | None = None, **changes: Any) -> Application:
    values: dict[str, Any] = {"max_batch": 4, "max_queue": 4, "max_body_bytes": MAX_BODY, "threads": 1}
    return Application(session or FakeSession((3, SIDE, SIDE), CLASSES), model(), ServeOptions(**values | changes))


def asked(app: Application, *arguments: Any, **named: Any) -> Answer:
    return asyncio.run(ask(app, *arguments, **named))


def png(side: int = 30, mode: str = "RGB") -> bytes:
    target = io.BytesIO()
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(target, "PNG")
    return target.getvalue()


Scenario = Callable[[Application, SlowSession], Coroutine[Any, Any, None]]


def run_slow(scenario: Scenario, **changes: Any) -> None:
    session = SlowSession()
    app = application(session, **changes)
    try:
        asyncio.run(scenario(app, session))
    finally:
        session.let_all_go()
        app.close()
    assert session.closed


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def binary(seed: int) -> tuple[bytes, dict[str, str]]:
    body, head = binary_body(images(seed=seed))
    return body, {"Inference-Header-Content-Length": head}

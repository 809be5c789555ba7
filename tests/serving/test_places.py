"""Places, room for bodies, and what is refused when a server ends or its session is broken."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import SessionError
from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.serving.application import Application
from alexnet_deploy.serving.options import BROKEN_AFTER, HELD_BODIES, SKIPPING_PLACES
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
from tests.serving.models import CLASSES, SIDE, images, json_body


class Slow:
    """A client whose body does not end, and what it was answered."""

    def __init__(self, app: Application, stated: int) -> None:
        self.sent: list[dict[str, Any]] = []
        self.ends = asyncio.Event()
        scope = {
            "type": "http", "method": "POST", "path": INFER,
            "headers": [(b"content-length", str(stated).encode())],
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        await self.ends.wait()
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


def test_bodies_that_are_held_have_a_bound() -> None:
    async def scenario(app: Application, session: SlowSession) -> None:
        # Four of the largest; none of them has come whole.
        slow = [Slow(app, MAX_BODY) for _ in range(4)]
        await asyncio.sleep(0)
        refused = await ask(app, "POST", INFER, *binary(0))
        assert refused.status == 503 and "as many requests" in refused.error
        for client in slow:
            client.ends.set()
        await asyncio.gather(*(client.task for client in slow))
        assert [client.sent[0]["status"] for client in slow] == [400] * 4
        session.let_all_go()
        assert (await ask(app, "POST", INFER, *binary(0))).status == 200

    run_slow(scenario)


def test_a_body_of_no_stated_length_has_the_room_that_it_takes() -> None:
    async def scenario(app: Application, session: SlowSession) -> None:
        body, headers = binary(0)
        parts = [body[:100], body[100:]]
        tasks = [asyncio.create_task(ask(app, "POST", INFER, parts, headers))]
        await asyncio.to_thread(session.entered.acquire)
        # More than there is room for of the largest.
        tasks += [asyncio.create_task(ask(app, "POST", INFER, parts, headers)) for _ in range(4)]
        await until(lambda: app._batcher.waiting == 4)
        assert app._places.held_bytes == 5 * len(body)
        session.let_all_go()
        assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 5
        assert app._places.held_bytes == 0

    run_slow(scenario)


def test_a_body_of_no_stated_length_is_refused_where_there_is_no_room_for_more() -> None:
    async def scenario(app: Application, session: SlowSession) -> None:
        app._places.held_bytes = HELD_BODIES * MAX_BODY - 150
        answer = await ask(app, "POST", INFER, [b" " * 100] * 2)
        assert answer.status == 503 and "as many requests" in answer.error
        assert app._places.held_bytes == HELD_BODIES * MAX_BODY - 150

    run_slow(scenario)


def test_a_body_that_does_not_come_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_deploy.serving.asgi.BODY_SECONDS", 0.05)
    limits: list[float | None] = []

    def remembered(when: float | None) -> asyncio.Timeout:
        limits.append(when)
        return asyncio.Timeout(when)

    monkeypatch.setattr("alexnet_deploy.serving.asgi.asyncio.timeout_at", remembered)

    async def scenario(app: Application, session: SlowSession) -> None:
        client = Slow(app, MAX_BODY)
        await client.task
        assert client.sent[0]["status"] == 408 and (b"connection", b"close") in client.sent[0]["headers"]
        # What is left of the body is not waited for anew.
        assert len(limits) == 2 and limits[0] == limits[1]

    run_slow(scenario)


@pytest.mark.parametrize(("replicas", "answered"), [(1, 0), (2, 4)])
def test_what_refused_requests_still_send_keeps_no_place_behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, replicas: int, answered: int
) -> None:
    async def scenario(app: Application, session: SlowSession) -> None:
        app.end_requests()
        slow = [Slow(app, MAX_BODY) for _ in range(SKIPPING_PLACES + 4)]
        await until(lambda: sum(client.task.done() for client in slow) >= answered)
        await asyncio.sleep(0)
        assert sum(client.task.done() for client in slow) == answered
        for client in slow:
            client.ends.set()
        await asyncio.gather(*(client.task for client in slow))
        assert {client.sent[0]["status"] for client in slow} == {503}

    run_slow(scenario, replicas=replicas)


def test_at_the_end_what_came_before_is_answered_and_nothing_else() -> None:
    async def scenario(app: Application, session: SlowSession) -> None:
        first = asyncio.create_task(ask(app, "POST", INFER, *binary(0)))
        await asyncio.to_thread(session.entered.acquire)
        app.end_requests()
        for refused in (
            await ask(app, "POST", INFER, *binary(1)),
            await ask(app, "POST", CLASSIFY, png()),
            await ask(app, "GET", "/v2/health/ready"),
            await ask(app, "GET", "/v2/models/fake/ready"),
        ):
            assert refused.status == 503 and "shutting down" in refused.error
            assert refused.headers["connection"] == "close" and refused.headers["retry-after"] == "1"
        assert (await ask(app, "GET", "/v2/health/live")).status == 200
        session.let_all_go()
        answer = await first
        assert answer.status == 200 and answer.headers["connection"] == "close"

    run_slow(scenario)


def test_a_session_that_is_broken_is_not_ready_until_it_computes_again() -> None:
    class Broken(FakeSession):
        broken = True

        def _run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
            if self.broken:
                raise RuntimeError("the device is gone")
            return super()._run(values)

    session = Broken((3, SIDE, SIDE), CLASSES)
    app = application(session)
    for _ in range(BROKEN_AFTER):
        assert asked(app, "GET", "/v2/health/ready").status == 200
        assert asked(app, "POST", INFER, json_body(images())).status == 500
    for refused in (
        asked(app, "GET", "/v2/health/ready"),
        asked(app, "GET", "/v2/models/fake/ready"),
        asked(app, "POST", INFER, json_body(images())),
    ):
        assert refused.status == 503 and "does not compute any more; got: the last 3 batches failed" in refused.error
    assert asked(app, "GET", "/v2/health/live").status == 200
    with pytest.raises(SessionError, match="does not compute"):
        asyncio.run(app.require_sound())
    session.broken = False
    asyncio.run(app.require_sound())
    assert asked(app, "GET", "/v2/health/ready").status == 200
    assert asked(app, "POST", INFER, json_body(images())).status == 200
    app.close()


def test_a_run_that_does_not_end_is_no_readiness() -> None:
    async def scenario(app: Application, session: SlowSession) -> None:
        first = asyncio.create_task(ask(app, "POST", INFER, *binary(0)))
        await asyncio.to_thread(session.entered.acquire)
        await app.require_sound()
        assert (await ask(app, "GET", "/v2/health/ready")).status == 200
        assert app._batcher.running_since is not None
        app._batcher.running_since -= app.options.hung_s + 1
        with pytest.raises(SessionError, match="more than 60 s"):
            await app.require_sound()
        assert (await ask(app, "GET", "/v2/health/ready")).status == 503
        session.let_all_go()
        assert (await first).status == 200
        await app.require_sound()
        assert (await ask(app, "GET", "/v2/health/ready")).status == 200

    run_slow(scenario)

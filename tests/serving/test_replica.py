"""What Serve asks of a replica beside HTTP, without Serve."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import SessionError
from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.serving.options import BROKEN_AFTER
from alexnet_deploy.serving.replica import Replica, answer_alone
from tests.serving.asking import INFER, application, ask
from tests.serving.models import CLASSES, SIDE, images, json_body


class Broken(FakeSession):
    def _run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RuntimeError("the device is gone")


def test_a_replica_whose_session_is_broken_is_not_healthy() -> None:
    replica = Replica()
    replica.app = application(Broken((3, SIDE, SIDE), CLASSES))

    async def scenario() -> None:
        await replica.check_health()
        for _ in range(BROKEN_AFTER):
            assert (await ask(replica.app, "POST", INFER, json_body(images()))).status == 500
        with pytest.raises(SessionError):
            await replica.check_health()

    asyncio.run(scenario())
    replica.app.close()


def test_a_replica_that_ends_listens_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    seen: list[Any] = []

    async def listen(app: Any, *arguments: Any, **named: Any) -> Any:
        await app({"type": "http", "headers": [(b"x-request-timeout-seconds", b"9"), (b"a", b"b")]}, None, None)
        assert named == {"enable_so_reuseport": True} and arguments == ("options",)
        return "task", SimpleNamespace(servers=[SimpleNamespace(close=lambda: closed.append("closed"))])

    async def serves(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])

    module = SimpleNamespace(start_asgi_http_server=listen)
    monkeypatch.setattr("alexnet_deploy.serving.replica.require", lambda name, feature: module)
    replica = Replica()
    replica.app = application()
    answer_alone(replica.app)

    async def scenario() -> None:
        assert (await module.start_asgi_http_server(serves, "options", enable_so_reuseport=False))[0] == "task"
        assert closed == []
        await replica.end_requests()
        assert closed == ["closed"]
        assert (await ask(replica.app, "POST", INFER, json_body(images()))).status == 503

    asyncio.run(scenario())
    # What Serve is told goes before what a client says.
    assert seen == [(b"a", b"b"), (b"x-request-disconnect-disabled", b"?1"), (b"x-request-timeout-seconds", b"0")]
    replica.app.close()

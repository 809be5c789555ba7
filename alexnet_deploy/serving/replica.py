"""What runs in a replica's process: the application, and what Ray Serve asks of it beside HTTP."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alexnet_deploy.machine import keep_freed_memory
from alexnet_deploy.optional import require

if TYPE_CHECKING:
    from alexnet_deploy.runtimes.session import SessionSpec
    from alexnet_deploy.serving.application import Application
    from alexnet_deploy.serving.model import ServedModel
    from alexnet_deploy.serving.options import ServeOptions

# By default a thread may keep the interpreter's lock for 5 ms, which is longer than quick sessions take.
_SWITCH_SECONDS = 0.5e-3
_UNWATCHED = {b"x-request-disconnect-disabled": b"?1", b"x-request-timeout-seconds": b"0"}


class Replica:
    """What Serve calls; it has the application as `app` once that is built."""

    app: Application

    async def check_health(self) -> None:
        """As Serve asks; after three errors one after the other it starts the replica anew.

        Raises:
            SessionError: The session does not compute any more.
        """
        await self.app.require_sound()

    async def end_requests(self) -> None:
        """Takes no new requests; those in flight go on."""
        self.app.end_requests()


def builder(spec: SessionSpec, model: ServedModel, options: ServeOptions) -> Callable[[], Any]:
    """What a replica calls when it starts."""

    def build() -> Any:
        import numpy as np

        from alexnet_deploy.runtimes.open import open_session
        from alexnet_deploy.serving.application import Application

        # Bodies, images and batches come and go by the megabyte.
        keep_freed_memory()
        sys.setswitchinterval(_SWITCH_SECONDS)
        context = require("ray.serve", "serve").get_replica_context()
        session = open_session(spec)
        # Runtimes do in their first run what no client should wait for.
        session.run(np.zeros((1, *session.image_shape), np.float32))
        application = Application(session, model, options, replica=context.replica_id.unique_id)
        if options.direct:
            answer_alone(application)
        return application

    return build


def answer_alone(application: Application) -> None:
    """Has a replica that answers HTTP itself listen as Serve's proxy does, and leaves requests to the application.

    Without SO_REUSEADDR, connections that were closed keep the port from whoever listens next for a minute: from a
    replica that is started anew, and from the next server. And around every request Serve would read the whole body
    into memory, before the application could refuse it, and set a limit to its time that overtakes the application's.
    Both are switched off by headers, which any client could send. At the end Serve would accept connections for as long
    as somebody asks, and then end those that are there: the application closes the door itself.
    """
    module: Any = require("ray.serve._private.replica", "serve")
    listen = module.start_asgi_http_server

    async def shared(app: Any, *arguments: Any, **named: Any) -> Any:
        async def unwatched(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                kept = [pair for pair in scope["headers"] if pair[0].lower() not in _UNWATCHED]
                scope = {**scope, "headers": [*kept, *_UNWATCHED.items()]}
            await app(scope, receive, send)

        task, server = await listen(unwatched, *arguments, **named | {"enable_so_reuseport": True})

        def close_the_door() -> None:
            for listener in server.servers:
                listener.close()

        application.at_the_end(close_the_door)
        return task, server

    module.start_asgi_http_server = shared

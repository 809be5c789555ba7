"""The server as an ASGI application: paths to answers, places for requests, counts of both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from alexnet_deploy import __version__
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.sources import image_from_bytes
from alexnet_deploy.errors import AlexnetDeployError, DataError, RequestError
from alexnet_deploy.machine import process_usage
from alexnet_deploy.prediction import top_classes
from alexnet_deploy.printable import printable
from alexnet_deploy.serving.asgi import (
    GoneError,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    answer,
    error_response,
    json_response,
    upload_from_body,
)
from alexnet_deploy.serving.batching import Batcher
from alexnet_deploy.serving.metrics import CONTENT_TYPE, IMAGES, SECONDS, Registry
from alexnet_deploy.serving.model import VERSION, ServedModel
from alexnet_deploy.serving.options import (
    HELD_BODIES,
    LISTEN_AFTER_SECONDS,
    RETRY_SECONDS,
    SKIPPING_PLACES,
    ServeOptions,
)
from alexnet_deploy.serving.page import page_of
from alexnet_deploy.serving.places import Places, Room
from alexnet_deploy.serving.protocol import BINARY_HEADER, request_from_body, response_from_output
from alexnet_deploy.serving.soundness import Soundness

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alexnet_deploy.runtimes.session import Session

Handler = Callable[[Request], Awaitable[Response]]
Made = TypeVar("Made")
_log = logging.getLogger("alexnet_deploy.serving")
_REQUESTS, _LATENCY = "alexnet_deploy_requests_total", "alexnet_deploy_request_seconds"
_IN_FLIGHT, _WAITING = "alexnet_deploy_requests_in_flight", "alexnet_deploy_images_waiting"
_BATCH, _COMPUTE = "alexnet_deploy_batch_images", "alexnet_deploy_batch_seconds"
_CPU, _MEMORY, _MODEL = "process_cpu_seconds_total", "process_resident_memory_bytes", "alexnet_deploy_model_info"
_STATUS_OF_A_FAULT, _STATUS_OF_A_SLOW_BODY = 500, 408
_DECODERS = 2


class Application:
    """Answers requests for one model.

    Args:
        session: Open; closed at the end.
        model: What clients know of it.
        options: Bounds and places.
        replica: Its number, which its metrics carry.
    """

    def __init__(self, session: Session, model: ServedModel, options: ServeOptions, *, replica: str = "0") -> None:
        self.model, self.options = model, options
        self._session, self._registry = session, _registry(model, replica)
        self._batcher = Batcher(
            session.run, max_batch=options.max_batch, max_queue=options.max_queue, wait_s=options.batch_wait_s,
            ran=self._ran,
        )  # fmt: skip
        self._soundness = Soundness(self._batcher, np.zeros((1, *model.image_shape), np.float32), options.hung_s)
        # One large picture does not hold up all others.
        self._decoder = ThreadPoolExecutor(max_workers=_DECODERS, thread_name_prefix="decode")
        # Python parses one JSON document at a time whatever it is told, and each takes several times its bytes.
        self._parser = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parse")
        self._places, self._skipping, self._ending = Places(options), 0, False
        self._at_the_end: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's event, as ASGI calls it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"no such protocol here: {scope['type']}")
        started = time.perf_counter()
        request = Request(scope, receive)
        route, response = "other", None
        try:
            route, handler = self._route(request)
            response = await handler(request)
        except RequestError as exc:
            response = error_response(exc)
            await self._skip(request)
        except GoneError:
            # As servers count what nobody waited for.
            self._count(route, 499, started)
            return
        except AlexnetDeployError as exc:
            _log.error("%s", exc)
            response = json_response({"error": printable(exc.problem)}, _STATUS_OF_A_FAULT)
        except Exception:  # one request is not the end of the server
            _log.exception("a request failed")
            response = json_response({"error": "the server failed on this request"}, _STATUS_OF_A_FAULT)
        self._count(route, response.status, started)
        last = self._ending or response.status == _STATUS_OF_A_SLOW_BODY
        await answer(response, send, head_only=request.method == "HEAD", last=last)

    def at_the_end(self, action: Callable[[], None]) -> None:
        """What is done when no more requests are taken: whoever listens for connections stops."""
        self._at_the_end = action

    def end_requests(self) -> None:
        """Refuses what comes from now on, and ends every connection with its next answer."""
        self._ending = True
        self._at_the_end()

    async def require_sound(self) -> None:
        """Whoever started the replica asks it now and then.

        Raises:
            SessionError: The session does not compute any more; the replica is of no use.
        """
        await self._soundness.require()

    def close(self) -> None:
        """Computes what waits, and frees the session."""
        self._batcher.close()
        self._decoder.shutdown()
        self._parser.shutdown()
        self._session.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _route(self, request: Request) -> tuple[str, Handler]:
        """The route's name, as metrics have it, and who answers.

        Raises:
            RequestError: 404, 405 or 431.
        """
        request.require_sound_head()
        parts = [part for part in request.path.split("/") if part]
        get: dict[tuple[str, ...], tuple[str, Handler]] = {
            (): ("page", self._page), ("metrics",): ("metrics", self._metrics), ("v2",): ("server", _server),
            ("v2", "health", "live"): ("health", _alive), ("v2", "health", "ready"): ("health", self._ready),
        }  # fmt: skip
        post: dict[tuple[str, ...], tuple[str, Handler]] = {("v1", "classify"): ("classify", self._classify)}
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            rest = self._within_model(parts[2:])
            key = ("v2", "models", *rest)
            get |= {("v2", "models"): ("model", self._metadata), ("v2", "models", "ready"): ("model", self._ready)}
            post |= {
                ("v2", "models", "infer"): ("infer", self._infer),
                ("v2", "models", "classify"): ("classify", self._classify),
            }
        else:
            key = tuple(parts)
            if key not in get and key not in post:
                raise RequestError(
                    404,
                    "there is nothing here",
                    got=request.path,
                    expected="/, /v1/classify, /v2, /v2/models/NAME, /metrics",
                )
        allowed = get if request.method in ("GET", "HEAD") else post if request.method == "POST" else {}
        if key in allowed:
            return allowed[key]
        if key not in get and key not in post:
            raise RequestError(404, "a model has no such endpoint", got=request.path, expected="ready, infer, classify")
        allow = "GET, HEAD" if key in get else "POST"
        raise RequestError(405, "this is not what the address is for", got=request.method, expected=allow)

    def _within_model(self, parts: list[str]) -> list[str]:
        name, *rest = parts
        if name != self.model.name:
            raise RequestError(404, "there is no such model", got=name[:80], expected=self.model.name)
        if rest[:1] == ["versions"]:
            if rest[1:2] != [VERSION]:
                raise RequestError(
                    404, "there is no such version", got=(rest[1:] or ["none"])[0][:80], expected=VERSION
                )
            rest = rest[2:]
        return rest

    async def _page(self, _request: Request) -> Response:
        return page_of(self.model)

    async def _ready(self, _request: Request) -> Response:
        self._require_open()
        return json_response({"name": self.model.name, "ready": True})

    async def _metadata(self, _request: Request) -> Response:
        return json_response(self.model.metadata())

    async def _infer(self, request: Request) -> Response:
        with self._place(request) as room:
            body = await request.body(self.options.max_body_bytes, room.holds)
            head = request.header(BINARY_HEADER)
            async with self._limit():
                if head is None:
                    # Of numbers as text, making an array of them at least does not hold up the others.
                    asked = await self._aside(
                        self._parser, request_from_body, body, head, self.model, self.options.max_batch
                    )
                else:
                    asked = request_from_body(body, head, self.model, self.options.max_batch)
                rows = await self._rows(asked.images, request)
            data, headers = response_from_output(rows, asked, self.model)
            return Response(body=data, headers=headers)

    async def _classify(self, request: Request) -> Response:
        with self._place(request) as room:
            body = await request.body(self.options.max_body_bytes, room.holds)
            data = upload_from_body(body, request.header("content-type"))
            async with self._limit():
                rows = await self._rows(await self._aside(self._decoder, self._decoded, data), request)
            classes = [
                {"label": label, "probability": probability}
                for label, probability in top_classes(rows[0], self.model.labels)
            ]
            return json_response({"model_name": self.model.name, "model_version": VERSION, "classes": classes})

    def _decoded(self, data: bytes) -> NDArray[np.float32]:
        try:
            return batch_from_images([image_from_bytes(data, "the upload")], self.model.preprocessing)
        except DataError as exc:
            raise RequestError(400, exc.problem, got=exc.got, expected=exc.expected) from exc

    async def _aside(self, pool: ThreadPoolExecutor, work: Callable[..., Made], *arguments: Any) -> Made:
        """Work on another thread, so that others are answered meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)

    async def _rows(self, images: NDArray[np.float32], request: Request) -> NDArray[np.float32]:
        """What the session makes of them, unless the client goes away meanwhile.

        Raises:
            GoneError: It has; its images are taken out of the queue.
        """
        rows = asyncio.ensure_future(self._batcher.submit(images))
        gone: asyncio.Future[None] | None = None
        try:
            # Listening for the end of a connection costs as much as a small request: only of those that wait.
            await asyncio.wait([rows], timeout=LISTEN_AFTER_SECONDS)
            if not rows.done():
                gone = asyncio.ensure_future(request.gone())
                await asyncio.wait([rows, gone], return_when=asyncio.FIRST_COMPLETED)
            if not rows.done():
                raise GoneError
            return rows.result()
        finally:
            rows.cancel()
            if gone is not None:
                gone.cancel()

    @contextlib.asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        """How long a request may take once its body is here: waiting for a decoder, and for the session."""
        try:
            async with asyncio.timeout(self.options.request_timeout_s):
                yield
        except TimeoutError as exc:
            raise RequestError(
                503,
                "the request waited too long",
                got=f"more than {self.options.request_timeout_s:g} s",
                retry_after_s=RETRY_SECONDS,
            ) from exc

    @contextlib.contextmanager
    def _place(self, request: Request) -> Iterator[Room]:
        """One of the places for requests, where they are answered at all."""
        self._require_open()
        with self._places.one(request) as room:
            yield room

    def _require_open(self) -> None:
        """Refuses where no request would be answered.

        Raises:
            RequestError: 503; the server ends, or its session is broken.
        """
        if self._ending:
            raise RequestError(503, "the server is shutting down", retry_after_s=RETRY_SECONDS)
        if (problem := self._soundness.problem) is not None:
            raise RequestError(503, "the session does not compute any more", got=problem, retry_after_s=RETRY_SECONDS)

    async def _skip(self, request: Request) -> None:
        """Reads what a refused request still sends, where that keeps no place from anybody."""
        if not self.options.direct and self._skipping >= SKIPPING_PLACES:
            return
        self._skipping += 1
        try:
            with contextlib.suppress(GoneError):
                await request.skip(HELD_BODIES * self.options.max_body_bytes)
        finally:
            self._skipping -= 1

    async def _metrics(self, _request: Request) -> Response:
        self._registry.set(_IN_FLIGHT, self._places.in_flight)
        self._registry.set(_WAITING, self._batcher.waiting)
        for name, value in zip((_CPU, _MEMORY), process_usage(), strict=True):
            self._registry.set(name, value)
        return Response(body=self._registry.text().encode(), headers={"content-type": CONTENT_TYPE})

    def _ran(self, images: int, seconds: float) -> None:
        self._registry.observe(_BATCH, images)
        self._registry.observe(_COMPUTE, seconds)

    def _count(self, route: str, status: int, started: float) -> None:
        self._registry.add(_REQUESTS, route=route, code=str(status))
        self._registry.observe(_LATENCY, time.perf_counter() - started, route=route)


def _registry(model: ServedModel, replica: str) -> Registry:
    registry = Registry({"replica": replica})
    registry.describe(_REQUESTS, "counter", "Requests that were answered, by route and HTTP status.")
    registry.describe(_LATENCY, "histogram", "Seconds from a request's head to its answer.", SECONDS)
    registry.describe(_IN_FLIGHT, "gauge", "Requests for inference that have a place.")
    registry.describe(_WAITING, "gauge", "Images that wait for the session.")
    registry.describe(_BATCH, "histogram", "Images in one run of the session.", IMAGES)
    registry.describe(_COMPUTE, "histogram", "Seconds of one run of the session.", SECONDS)
    registry.describe(_CPU, "counter", "CPU seconds of the replica's process.")
    registry.describe(_MEMORY, "gauge", "Memory of the replica's process.")
    registry.describe(_MODEL, "gauge", "What is served.")
    registry.set(_MODEL, 1, model=model.name, version=VERSION, platform=model.platform, package=__version__)
    return registry


async def _server(_request: Request) -> Response:
    extensions = ["binary_tensor_data", "classification"]
    return json_response({"name": "alexnet-deploy", "version": __version__, "extensions": extensions})


async def _alive(_request: Request) -> Response:
    return json_response({"live": True})

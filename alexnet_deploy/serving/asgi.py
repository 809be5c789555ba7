"""HTTP as ASGI servers hand it over: requests that are read within bounds, and answers.

The interface: https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from alexnet_deploy.errors import RequestError
from alexnet_deploy.serving.options import BODY_SECONDS, MAX_HEAD_BYTES

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON_TYPE = "application/json"
# As RFC 2046 (5.1.1) has it.
_LONGEST_BOUNDARY = 70
_MOST_PARTS = 16


class GoneError(Exception):
    """The client went away; nobody reads an answer."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A document as an answer."""
    body = json.dumps(document, separators=(",", ":")).encode()
    return Response(status=status, body=body, headers={"content-type": JSON_TYPE, **(headers or {})})


def error_response(error: RequestError) -> Response:
    """What the protocol answers a request with that is refused."""
    retry = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    allow = {"allow": str(error.expected)} if error.status == 405 else {}
    return json_response({"error": error.line}, error.status, retry | allow)


class Request:
    """One request; its body is read when it is asked for, and not beyond what was allowed."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method, self.path = str(scope["method"]), str(scope["path"])
        self._headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self._receive, self._read_all = receive, False
        self._until: float | None = None

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self._headers if key.lower() == wanted), None)

    @property
    def length(self) -> int | None:
        """Bytes of the body, as the client states them."""
        text = self.header("content-length")
        return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else None

    def require_sound_head(self) -> None:
        """Holds the headers against their bound.

        Raises:
            RequestError: 431.
        """
        size = sum(len(key) + len(value) for key, value in self._headers)
        if size > MAX_HEAD_BYTES:
            raise RequestError(431, "the headers are too long", got=f"{size} bytes", expected=f"up to {MAX_HEAD_BYTES}")

    def require_length(self, most: int) -> None:
        """Refuses a body by what the client says of it, before any of it is read.

        Raises:
            RequestError: 413, or 415 where it is compressed.
        """
        coding = self.header("content-encoding")
        if coding not in (None, "", "identity"):
            raise RequestError(415, "the body is compressed", got=coding, expected="a body as it is")
        if self.length is not None and self.length > most:
            raise _too_large(f"{self.length} bytes", most)

    async def body(self, most: int, came: Callable[[int], None] = lambda size: None) -> bytes:
        """The whole body.

        Args:
            most: Bytes that it may have.
            came: Told how many have come so far, before they are kept; may refuse.

        Raises:
            RequestError: 413, or 408 where it does not come.
            GoneError: The client went away.
        """
        self.require_length(most)
        parts: list[bytes] = []
        size = 0
        try:
            async with self._time():
                async for part in self._parts():
                    size += len(part)
                    if size > most:
                        raise _too_large("more bytes", most)
                    came(size)
                    parts.append(part)
        except TimeoutError as exc:
            raise RequestError(408, "the body did not come", got=f"{size} bytes in {BODY_SECONDS:g} s") from exc
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def gone(self) -> None:
        """Ends when the client has gone away; the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def skip(self, most: int) -> None:
        """Reads a body without keeping it: a client that still writes would not see an answer, only a reset.

        Not of one that asked whether it may send it, nor of one that states more than `most` bytes; and not for longer
        than a body may take altogether.
        """
        if self.length is None or self.length > most or self.header("expect") is not None:
            return
        with contextlib.suppress(TimeoutError):
            async with self._time():
                async for _ in self._parts():
                    pass

    def _time(self) -> asyncio.Timeout:
        """What is left of the time for the body, which begins when it is first asked for."""
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + BODY_SECONDS
        return asyncio.timeout_at(self._until)

    async def _parts(self) -> Any:
        while not self._read_all:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise GoneError
            self._read_all = not message.get("more_body", False)
            if part := message.get("body", b""):
                yield part


def upload_from_body(body: bytes, content_type: str | None) -> bytes:
    """The uploaded file: that of a form, or else the body itself.

    Raises:
        RequestError: 400; the form cannot be read, or does not hold one file.
    """
    head = Message()
    head["content-type"] = (content_type or "").replace("\r", " ").replace("\n", " ")
    if head.get_content_type() != "multipart/form-data":
        if not body:
            raise RequestError(400, "there is no image", got="an empty body", expected="an image, or a form with one")
        return body
    boundary = head.get_boundary()
    if not boundary or len(boundary) > _LONGEST_BOUNDARY or not boundary.isascii():
        raise RequestError(400, "the form has no boundary", got=boundary, expected="multipart/form-data; boundary=…")
    # With a line's end before it, as all but the first have; what follows the last one is "--".
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), _MOST_PARTS)
    if len(pieces) < 3:
        raise RequestError(400, "the form holds no part, or has no end", got=f"{len(body)} bytes", expected="one file")
    if len(pieces) > _MOST_PARTS:
        raise RequestError(400, "the form has too many parts", got=f"{_MOST_PARTS} or more", expected="one file")
    files = []
    for piece in pieces[1:-1]:
        fields, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        named = b"filename=" in fields.lower() or b"filename*=" in fields.lower()
        # A browser sends a field in which no file was chosen without a name and without a byte.
        if named and (content or b'filename=""' not in fields.lower()):
            files.append(content)
    if not files:
        raise RequestError(400, "the form holds no file", got=f"{len(pieces) - 2} fields", expected="one file")
    if len(files) > 1:
        raise RequestError(400, "the form holds several files", got=f"{len(files)}", expected="one file a request")
    return files[0]


async def answer(response: Response, send: Send, *, head_only: bool = False, last: bool = False) -> None:
    """Sends an answer; the last one ends the connection."""
    headers = {
        "content-length": str(len(response.body)), "x-content-type-options": "nosniff", "cache-control": "no-store",
        **({"connection": "close"} if last else {}), **response.headers,
    }  # fmt: skip
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": pairs})
    await send({"type": "http.response.body", "body": b"" if head_only else response.body})


def _too_large(got: str, most: int) -> RequestError:
    return RequestError(413, "the body is too large", got=got, expected=f"at most {most} bytes")

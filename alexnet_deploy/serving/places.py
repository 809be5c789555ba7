"""Places for requests, and room for their bodies: what there is too much of is refused before it costs anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from alexnet_deploy.errors import RequestError
from alexnet_deploy.serving.asgi import Request
from alexnet_deploy.serving.options import HELD_BODIES, RETRY_SECONDS, ServeOptions


class Places:
    """The requests for inference that one replica holds.

    Attributes:
        in_flight: Those that have a place.
        held_bytes: Of their bodies.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._most, self._body_bytes = options.places, options.max_body_bytes
        self.in_flight, self.held_bytes = 0, 0

    @contextlib.contextmanager
    def one(self, request: Request) -> Iterator[Room]:
        """A place, and room for the body that the request states, before any of it is read.

        Raises:
            RequestError: 503 where there is none, 413 or 415 where the body is refused anyway.
        """
        request.require_length(self._body_bytes)
        if self.in_flight >= self._most:
            raise self._refused()
        room = Room(self)
        room.holds(request.length or 0)
        self.in_flight += 1
        try:
            yield room
        finally:
            self.in_flight -= 1
            self.held_bytes -= room.size

    def take(self, size: int) -> None:
        """Room for so many more bytes; less where negative.

        Raises:
            RequestError: 503.
        """
        if size > 0 and self.held_bytes + size > HELD_BODIES * self._body_bytes:
            raise self._refused()
        self.held_bytes += size

    def _refused(self) -> RequestError:
        return RequestError(
            503,
            "the server has as many requests as it takes",
            got=f"{self.in_flight} of {self.held_bytes} bytes",
            expected=f"up to {self._most} of {HELD_BODIES * self._body_bytes} bytes",
            retry_after_s=RETRY_SECONDS,
        )


class Room:
    """What one request's body takes: as much as it states, or, where it states nothing, as much as has come."""

    def __init__(self, places: Places) -> None:
        self._places, self.size = places, 0

    def holds(self, size: int) -> None:
        """Sees to it that there is room for a body of so many bytes.

        Raises:
            RequestError: 503.
        """
        if size > self.size:
            self._places.take(size - self.size)
            self.size = size

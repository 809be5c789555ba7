"""What a server is told, and the bounds on what clients may send."""

from __future__ import annotations

from dataclasses import dataclass, field

from alexnet_deploy.machine import usable_cpus

# A batch of 16 FP32 images of 224 pixels is 9.6 MB, as JSON about five times as much.
DEFAULT_BODY_BYTES = 64_000_000
# Headers of browsers with cookies are some kilobytes; this is what most servers allow.
MAX_HEAD_BYTES = 32_768
# The request's own description, without its tensors: in the binary form it is a few hundred bytes.
MAX_BINARY_HEAD_BYTES = 65_536
# Bodies that are in memory at once, as a multiple of the largest one.
HELD_BODIES = 4
# A client that sends a byte now and then keeps a place; one on a slow line sends 64 MB in this time at 2 MB/s.
BODY_SECONDS = 30.0
# Whoever waits so long for the session is listened to: one that goes away gives its place to others.
LISTEN_AFTER_SECONDS = 1.0
# What a client that is refused for load is told to wait.
RETRY_SECONDS = 1
# Places beyond those of inference, so that health and metrics are answered under full load.
SPARE_PLACES = 32
# Of these, those in which the bodies of refused requests may be read to their end.
SKIPPING_PLACES = 16
# Batches that fail one after the other: one may hang on what was sent, or on memory that was short for a moment.
BROKEN_AFTER = 3
# A run that takes longer than this, and than two requests may wait, is taken for one that does not end.
HUNG_SECONDS = 60.0
# How often Serve asks whether the session is sound (it starts a replica anew after three times), and how long an image
# may take by which that is tried.
HEALTH_SECONDS, TRY_SECONDS = 5.0, 20.0


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve one model.

    Attributes:
        host: The address to listen on.
        port: Of HTTP.
        replicas: Sessions, each in a process of its own.
        threads: CPU threads of each session.
        max_batch: The most images in one run of the session, and in one request.
        batch_wait_s: How long a request may wait for others while the session is free. None of them waits by default: a
            batch is what came while the last one was computed.
        max_queue: Images that may wait in one replica; what comes then is refused.
        max_body_bytes: Of one request.
        request_timeout_s: After which a request that still waits is answered with an error.
        grace_s: How long requests in flight may take when the server ends.
        ray_address: Of a Ray cluster to serve on; None starts one of this process's own.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    threads: int = field(default_factory=usable_cpus)
    max_batch: int = 16
    batch_wait_s: float = 0.0
    max_queue: int = 64
    max_body_bytes: int = DEFAULT_BODY_BYTES
    request_timeout_s: float = 30.0
    grace_s: float = 20.0
    ray_address: str | None = None

    @property
    def url(self) -> str:
        """Where a client on this machine finds the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - read, not listened on
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def direct(self) -> bool:
        """Whether the one replica answers HTTP itself, without a proxy in front of it."""
        return self.replicas == 1 and self.ray_address is None

    @property
    def hung_s(self) -> float:
        """After which a run of the session is taken for one that does not end."""
        return max(HUNG_SECONDS, 2 * self.request_timeout_s)

    @property
    def places(self) -> int:
        """Requests for inference that one replica holds at once."""
        return self.max_queue + self.max_batch

"""The server on Ray Serve: Ray started for it alone, the model deployed, and everything ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import inspect
import logging
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alexnet_deploy.errors import AlexnetDeployError, InputError, ServingError, SessionError
from alexnet_deploy.interrupts import stoppable
from alexnet_deploy.optional import require
from alexnet_deploy.progress import OwnThread, Voice
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.scale.cluster import Node
from alexnet_deploy.serving.model import ServedModel, model_from_session
from alexnet_deploy.serving.options import BODY_SECONDS, HEALTH_SECONDS, RETRY_SECONDS, SPARE_PLACES, ServeOptions
from alexnet_deploy.serving.placement import Placement, placement_from_nodes
from alexnet_deploy.serving.processes import descendants, end
from alexnet_deploy.serving.replica import Replica, builder
from alexnet_deploy.serving.watch import State, Watch

if TYPE_CHECKING:
    from alexnet_deploy.runtimes.session import Session, SessionSpec
    from alexnet_deploy.weights import ModelInfo

_APPLICATION, _DEPLOYMENT = "alexnet-deploy", "model"
# Bodies of 100 kB and more pass between Ray's processes in shared memory, and are gone when they are read.
_OBJECT_STORE_BYTES = 256_000_000
_POLL_SECONDS = 0.1
# How long it may take until the model is found where it is said to be: on a cluster, whose Serve may listen elsewhere,
# and here, where nothing else is the matter than a slow machine.
_PATIENCE_SECONDS, _OWN_PATIENCE_SECONDS = 5.0, 60.0
# How long a replica may take to hear of the end.
_TOLD_SECONDS = 5.0
# What of Ray has not ended by itself after this long is killed.
_END_SECONDS = 5.0
_ENDED = "requests in flight were finished"
_NO_CLUSTER = "check the address, and set RAY_AUTH_TOKEN where the cluster asks for a token"
# The answer of the application is first; Ray's own is for what the application did not answer.
_RAY_TIMEOUT_AFTER_S = BODY_SECONDS + 15.0
# Of a replica that answers HTTP itself: the application has places for what costs memory or time, and refuses at once;
# Ray would have requests wait for a place before the application sees them, those for its health too.
_UNBOUNDED = 100_000
# Read by Ray's processes when they start. The model runs on a thread of its own already, so that Serve's threads
# around it only cost switches (docs/serving.md).
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # At the 15 that Ray gives its workers, clients on the same cores would take the session's time.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",
    # One whose session is broken answers nobody, and would keep the port from the next one while it is waited for.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
}
# Read when Serve is imported: not by this process, which has no loop that its router could run on.
_WORKERS_ENVIRONMENT = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}


def serve(
    spec: SessionSpec,
    info: ModelInfo,
    options: ServeOptions,
    voice: Voice,
    *,
    name: str | None = None,
    ready: Callable[[ServedModel], None] = lambda model: None,
) -> None:
    """Serves a model until a signal comes; then finishes what is in flight.

    Args:
        spec: What to run.
        info: Of the model.
        options: How to serve it.
        voice: For news.
        name: Of the model in paths; its own by default.
        ready: Called once requests are answered.

    Raises:
        Stopped: The signal came, and everything is ended.
        InputError: The port is taken, or cannot be listened on.
        MissingDependencyError: Ray is not installed.
        SessionError, RuntimeUnavailableError: The session does not open.
        ServingError: Ray or the replicas do not start.
    """
    if options.ray_address is None:
        require_free_port(options.host, options.port)
    # Here first: what is wrong with the session is said as it is, and not from inside a replica.
    with open_session(spec) as session:
        for note in session.notes:
            voice.warn(note)
        model = model_from_session(session, spec, info, name)
        options = _within(session, options, voice)
    voice.say("starting Ray Serve")
    with _ray(options):
        watch = Watch(_state, voice)
        _deploy(spec, model, options, watch, voice)
        with stoppable(voice.say, "ending: requests in flight are finished first", remedy=_ENDED) as request:
            ready(model)
            while not request:
                time.sleep(_POLL_SECONDS)
                with _as_ours("Ray Serve has ended", "start the command again"):
                    watch.look()
    request.obey()


def _within(session: Session, options: ServeOptions, voice: Voice) -> ServeOptions:
    """Options whose batches the session takes.

    Raises:
        SessionError: It does not take single images.
    """
    most = session.largest_batch
    if most is None or most >= options.max_batch:
        return options
    if not most:
        raise SessionError(
            "the engine takes no single image", remedy="build it with a --profile that takes a batch of 1"
        )
    voice.warn(f"batches are of up to {most} images and not {options.max_batch}: the engine takes no larger ones")
    return dataclasses.replace(options, max_batch=most)


def require_free_port(host: str, port: int) -> None:
    """Ray shares a port with whoever else shares it, so that two servers would answer in turns.

    Raises:
        InputError: The port is taken, or the address is none of this machine's.
    """

    try:
        _listened(host, port)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} is in use", got=f"{host}:{port}", expected="a free port", remedy="--port another one"
            ) from exc
        raise InputError(
            f"{host}:{port} cannot be listened on",
            got=exc.strerror or exc,
            expected="an address of this machine and a port that is allowed",
            remedy="check --host and --port",
        ) from exc


def _free_port(host: str) -> int:
    return _listened(host, 0)


def _listened(host: str, port: int) -> int:
    """Listens for a moment; gives the port."""

    async def listen() -> int:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, reuse_address=True)
        found: int = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return found

    return asyncio.run(listen())


def _environment(options: ServeOptions) -> dict[str, str]:
    if options.ray_address is not None:
        return _ENVIRONMENT
    found = _ENVIRONMENT | {
        # Whoever reaches Ray's ports can run programs in it; nobody but this process and its children has the token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # The only switch by which Ray's own ports are on the loopback address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    if not options.direct:
        return found
    return found | {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        # The range from which replicas take their ports: this one, and for a replica that is started anew at once.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(options.port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(options.port + 1),
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        # There is no load balancer that would have to hear of the end first.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }


@contextlib.contextmanager
def _ray(options: ServeOptions) -> Iterator[None]:
    """Ray and Serve: of this process's own, in a folder that goes with it, or those of a cluster."""
    own = options.ray_address is None
    os.environ.update(_environment(options))
    ray, serve_ = require("ray", "serve"), require("ray.serve", "serve")
    os.environ.update(_WORKERS_ENVIRONMENT)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    terminates = signal.getsignal(signal.SIGTERM)
    # Ray's sockets lie in it, whose paths are limited to 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="ad-ray-", ignore_cleanup_errors=True) as folder,
        contextlib.redirect_stdout(OwnThread(sys.stdout)),
    ):
        ours = own
        try:
            if own:
                with _as_ours("Ray does not start"):
                    ray.init(**_own_cluster(options, folder), **_QUIET)
            else:
                with _as_ours(f"no Ray cluster answers at {options.ray_address}", _NO_CLUSTER):
                    ray.init(address=options.ray_address, **_QUIET)
                _require_unserved(serve_)
            ours = True
            # Ray's handler would end its processes before they have answered.
            signal.signal(signal.SIGTERM, terminates)
            yield
            with _as_ours("the server does not end in order"):
                if options.direct:
                    _end_requests(serve_)
                serve_.delete(_APPLICATION)
        finally:
            # Without Ray, Serve would start one to ask it.
            if ray.is_initialized():
                with contextlib.suppress(Exception):
                    if own:
                        serve_.shutdown()
                    elif ours:
                        serve_.delete(_APPLICATION)
            started = descendants(os.getpid()) if own else set()
            ray.shutdown()
            end(started, _END_SECONDS)


def _end_requests(serve_: Any) -> None:
    """Tells the one replica that nothing new is taken; by itself it would go on for as long as somebody asks."""
    # One that is just being started anew, or dies, does not hear of it, and has nothing in flight.
    with contextlib.suppress(TimeoutError, require("ray.exceptions", "serve").RayError):
        serve_.get_app_handle(_APPLICATION).end_requests.remote().result(timeout_s=_TOLD_SECONDS)


def _require_unserved(serve_: Any) -> None:
    """Another command's model would be replaced, and end with this one.

    Raises:
        ServingError: The cluster serves already.
    """
    with _as_ours("the cluster does not say what it serves"):
        served = _APPLICATION in serve_.status().applications
    if served:
        raise ServingError(
            "the cluster serves for another alexnet-deploy already, which this one would replace",
            got=f"the application {_APPLICATION!r}",
            remedy="end that command first",
        )


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}


def _own_cluster(options: ServeOptions, folder: str) -> dict[str, Any]:
    return {
        "address": "local",
        "num_cpus": max(os.cpu_count() or 1, options.replicas + 1),
        "num_gpus": 0,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_temp_dir": folder,
        "_node_ip_address": "127.0.0.1",
    }


def _deploy(spec: SessionSpec, model: ServedModel, options: ServeOptions, watch: Watch, voice: Voice) -> None:
    """Starts Serve, and waits until every replica answers."""
    serve_ = require("ray.serve", "serve")
    resources, needs = {"num_cpus": 1.0}, f"{options.replicas} replicas"
    if options.ray_address is not None:
        placed = _placed(spec, options, voice)
        spec, needs = dataclasses.replace(spec, threads=placed.threads), placed.words
        resources = {"num_cpus": placed.threads, "num_gpus": placed.gpus}
    logs = {"log_level": "WARNING", "enable_access_log": False}
    http = {
        "host": options.host,
        # Serve starts its proxy whether or not anybody is behind it; then it is at a port of its own.
        "port": _free_port(options.host) if options.direct else options.port,
        "request_timeout_s": options.request_timeout_s + _RAY_TIMEOUT_AFTER_S,
    }
    with _as_ours("the replicas do not start"):
        serve_.start(proxy_location="HeadOnly", http_options=http, logging_config=logs)
        ingress = serve_.ingress(builder(spec, model, options))(Replica)
        deployment = serve_.deployment(**_settings(options, resources))(ingress)
        target = serve_.RunTarget(deployment.bind(), name=_APPLICATION, route_prefix="/", logging_config=logs)
        serve_.run_many([target], wait_for_applications_running=False)
        watch.until_running(needs)
        if _answers(options, model):
            return
    if options.ray_address is None:
        raise ServingError("the replicas do not answer", got=options.url, remedy="try another --host or --port")
    voice.warn(
        f"{options.url} does not answer from here: Serve listens on the cluster's nodes, and where it ran "
        "before, at the address that it was started with"
    )


def _settings(options: ServeOptions, resources: dict[str, float]) -> dict[str, Any]:
    """Of the deployment, as Serve has them."""
    settings: dict[str, Any] = {
        "name": _DEPLOYMENT,
        "num_replicas": options.replicas,
        "max_ongoing_requests": _UNBOUNDED if options.direct else options.places + SPARE_PLACES,
        "max_queued_requests": options.places,
        "graceful_shutdown_timeout_s": options.grace_s,
        "graceful_shutdown_wait_loop_s": _POLL_SECONDS,
        "health_check_period_s": HEALTH_SECONDS,
        "ray_actor_options": resources,
    }
    serve_ = require("ray.serve", "serve")
    if "backpressure_config" in inspect.signature(serve_.deployment).parameters:
        settings["backpressure_config"] = {"retry_after_s": RETRY_SECONDS}
    return settings


def _placed(spec: SessionSpec, options: ServeOptions, voice: Voice) -> Placement:
    """What the replicas ask of the cluster, held against its nodes.

    Raises:
        RuntimeUnavailableError: There is no room.
    """
    ray = require("ray", "serve")
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [Node(cpus=int(has["CPU"]), gpus=int(has.get("GPU", 0))) for has in found if has.get("CPU", 0) >= 1]
    placed = placement_from_nodes(nodes, spec, options.replicas)
    if placed.threads < spec.threads:
        voice.warn(f"each session gets {placed.threads} threads and not {spec.threads}: no node has room for more")
    return placed


def _state() -> State:
    """The state of the model and the reason, as Serve has them."""
    found = require("ray.serve", "serve").status().applications.get(_APPLICATION)
    if found is None:
        return "NOT_STARTED", ""
    reasons = [found.message, *(deployment.message for deployment in found.deployments.values())]
    return found.status.value, "\n".join(filter(None, reasons))


def _answers(options: ServeOptions, model: ServedModel) -> bool:
    """Whether the model is found where clients are told to ask."""
    url = urlsplit(options.url)

    async def ready() -> bool:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        with contextlib.closing(writer):
            request = f"GET /v2/models/{model.name}/ready HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            return (await reader.readline()).split()[1:2] == [b"200"]

    until = time.monotonic() + (_OWN_PATIENCE_SECONDS if options.ray_address is None else _PATIENCE_SECONDS)
    while time.monotonic() < until:
        with contextlib.suppress(OSError, TimeoutError):
            if asyncio.run(asyncio.wait_for(ready(), _PATIENCE_SECONDS)):
                return True
        time.sleep(_POLL_SECONDS)
    return False


@contextlib.contextmanager
def _as_ours(problem: str, remedy: str = "try again with less threads or replicas") -> Iterator[None]:
    """Ray's own errors, which have no class in common, as one of ours."""
    try:
        yield
    except AlexnetDeployError:
        raise
    except Exception as exc:
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        raise ServingError(problem, got=lines[-1] if lines else type(exc).__name__, remedy=remedy) from exc

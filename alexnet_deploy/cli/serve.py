"""`alexnet-deploy serve`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alexnet_deploy.cli.options import (
    deployment_from,
    json_option,
    model_option,
    quiet_option,
    threads_option,
    variant_option,
    workdir_option,
)
from alexnet_deploy.cli.session_options import SessionChoice, session_options
from alexnet_deploy.printable import printable
from alexnet_deploy.progress import Voice

if TYPE_CHECKING:
    from alexnet_deploy.serving.model import ServedModel

# A batch of more images than this is no reply to anybody who waits.
_LARGEST_BATCH = 1024


@click.command("serve")
@model_option
@variant_option
@session_options("Serve")
@click.option("--name", help="Of the model in paths: /v2/models/NAME.  [default: the model's own]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. There is no password and no encryption: whoever reaches it may ask.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--replicas",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Sessions, each in a process of its own.",
)
@threads_option("CPU threads of each replica; on a cluster no more than a node has.")
@click.option(
    "--max-batch",
    type=click.IntRange(1, _LARGEST_BATCH),
    default=16,
    show_default=True,
    help="The most images in one run, and in one request.",
)
@click.option(
    "--batch-wait-ms",
    type=click.FloatRange(0, 1000),
    default=0.0,
    show_default=True,
    help="How long a request may wait for others while the session is free.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(1, 100_000),
    default=64,
    show_default=True,
    help="Images that may wait in a replica; more are refused with 503.",
)
@click.option(
    "--max-body",
    type=click.FloatRange(0.001, 2000),
    default=64.0,
    show_default=True,
    metavar="MB",
    help="The largest request; larger ones are refused with 413.",
)
@click.option(
    "--request-timeout",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a request may wait for its answer.",
)
@click.option("--ray-address", help="Serve on this Ray cluster.  [default: Ray is started here, for this server alone]")
@json_option
@workdir_option
@quiet_option
def command(
    model: str, variant: str | None, session: SessionChoice, name: str | None, host: str, port: int, replicas: int,
    threads: int, max_batch: int, batch_wait_ms: float, max_queue: int, max_body: float, request_timeout: float,
    ray_address: str | None, as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Answer requests for classes over HTTP, until Ctrl-C or SIGTERM.

    Speaks the Open Inference Protocol (v2 REST), as Triton's client does; takes images at /v1/classify; shows a page at
    /, and what it counts at /metrics. Prints its address when it is ready.
    """
    from alexnet_deploy.optional import require_installed
    from alexnet_deploy.serving.deployment import require_free_port, serve
    from alexnet_deploy.serving.options import ServeOptions

    if name is not None and not _may_stand_in_a_path(name):
        raise click.BadParameter("letters, digits, '.', '-' and '_' alone.", param_hint="--name")
    # Before minutes of calibration.
    require_installed("ray", "serve")
    if ray_address is None:
        # On a cluster, Serve may listen there already, which is where it is to listen.
        require_free_port(host, port)
    spec, info = session.of(deployment_from(model, variant, workdir, voice), threads=threads, max_batch=max_batch)
    options = ServeOptions(
        host=host,
        port=port,
        replicas=replicas,
        threads=threads,
        max_batch=max_batch,
        batch_wait_s=batch_wait_ms / 1e3,
        max_queue=max_queue,
        max_body_bytes=round(max_body * 1e6),
        request_timeout_s=request_timeout,
        ray_address=ray_address,
    )

    def ready(served: ServedModel) -> None:
        if as_json:
            click.echo(json.dumps({"schema": 1, "url": options.url, "model": served.metadata()}))
        else:
            click.echo(options.url)
        voice.say(
            f"{printable(served.name)} ({served.platform}) is served at {options.url}: the page there, "
            f"{options.url}/v2/models/{served.name} for clients; Ctrl-C ends it"
        )

    serve(spec, info, options, voice, name=name, ready=ready)


def _may_stand_in_a_path(name: str) -> bool:
    return 0 < len(name) <= 128 and name.isascii() and all(letter.isalnum() or letter in "._-" for letter in name)

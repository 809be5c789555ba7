"""`--executor` and what belongs to it: who reads and computes many images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from alexnet_deploy.scale.executor import ScaleOptions

LOCAL, RAY = "local", "ray"


def executor_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the command `executor`, a function of the CPU threads that were asked for (None where none were)."""

    @click.option(
        "--executor",
        type=click.Choice([LOCAL, RAY]),
        default=LOCAL,
        show_default=True,
        help="Who reads and computes: this process, or the workers of a Ray cluster (extra `ray`).",
    )
    @click.option(
        "--workers",
        type=click.IntRange(1),
        help="Of ray: processes.  [default: one for every two CPUs, or for every GPU]",
    )
    @click.option(
        "--ray-address",
        metavar="HOST:PORT",
        help="Of ray: a cluster that is there; its nodes see the images at the same path.  [default: one on this "
        "machine, for this command]",
    )
    @functools.wraps(function)
    def wrapped(executor: str, workers: int | None, ray_address: str | None, **arguments: Any) -> Any:
        if executor == LOCAL and (workers is not None or ray_address is not None):
            raise click.UsageError("--workers and --ray-address go with --executor ray.")

        def options(threads: int | None = None) -> ScaleOptions:
            from alexnet_deploy.scale.executor import ExecutorName, ScaleOptions

            return ScaleOptions(executor=ExecutorName(executor), workers=workers, threads=threads, address=ray_address)

        return function(executor=options, **arguments)

    return wrapped


def given_threads(context: click.Context, threads: int) -> int | None:
    """What `--threads` says, where it says something: by default workers share the CPUs."""
    from click.core import ParameterSource

    return threads if context.get_parameter_source("threads") is ParameterSource.COMMANDLINE else None

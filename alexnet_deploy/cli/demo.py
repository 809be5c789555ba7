"""`alexnet-deploy demo`."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.options import (
    deployment_from,
    json_option,
    quiet_option,
    show_bench,
    threads_option,
    workdir_option,
)
from alexnet_deploy.progress import Voice

# Enough for a stable median and for half a point of accuracy; `bench` takes more of both.
_DEMO_RUNS, _DEMO_IMAGES = 24, 1000


@click.command("demo")
@threads_option("CPU threads, the same for every row.")
@json_option
@workdir_option
@quiet_option
def command(threads: int, as_json: bool, workdir: Path, voice: Voice) -> None:
    """Take the shipped model the whole way: export, calibrate, build engines, bench, report."""
    from alexnet_deploy.bench.candidate import BenchOptions
    from alexnet_deploy.pipeline.demo import demo

    deployment = deployment_from("shipped", None, workdir, voice)
    options = BenchOptions(runs=_DEMO_RUNS, threads=threads, images=_DEMO_IMAGES, details=True)
    document, report = demo(deployment, options)
    show_bench(document, as_json=as_json)
    voice.say(f"the report is {report}; open it in a browser")

"""`alexnet-deploy bench`."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.options import (
    batches_from_text,
    deployment_from,
    json_option,
    model_option,
    output_option,
    quiet_option,
    show_bench,
    threads_option,
    variant_option,
    workdir_option,
)
from alexnet_deploy.progress import Voice


@click.command("bench")
@model_option
@variant_option
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    help="Only this one; more than once for several: torch, onnxruntime-cpu, openvino, onnxruntime-cuda, "
    "onnxruntime-tensorrt, onnxruntime-tensorrt-rtx, tensorrt, tensorrt-rtx.",
)
@click.option("--batch", "batches", default="1,16", show_default=True, help="Batch sizes.")
@click.option("--runs", type=int, default=50, show_default=True, help="Samples for each row.")
@threads_option
@click.option(
    "--data",
    metavar="NAME[:FOLDER]|FOLDER",
    help="Evaluation images: the test split of this source.  [default: the shipped images]",
)
@click.option("--images", type=click.IntRange(1), help="Of how many of them the accuracy is.  [default: all]")
@click.option("--skip-bad", is_flag=True, help="Leave out damaged images and count them.")
@output_option("The JSON; the page lies beside it.  [default: WORKDIR/bench.json and WORKDIR/report.html]")
@json_option
@workdir_option
@quiet_option
def command(
    model: str, variant: str | None, runtimes: tuple[str, ...], batches: str, runs: int, threads: int,
    data: str | None, images: int | None, skip_bad: bool, output: Path | None, as_json: bool, workdir: Path,
    voice: Voice,
) -> None:  # fmt: skip
    """Measure latency and accuracy of every runtime that is here, on the same images.

    A runtime that cannot run here is a row with its reason. Nothing falls back to another device.
    """
    from alexnet_deploy.bench.bench import BenchOptions
    from alexnet_deploy.pipeline.bench import bench_document
    from alexnet_deploy.pipeline.demo import write_bench

    options = BenchOptions(
        batches=batches_from_text(batches), runs=runs, rounds=min(5, max(runs, 1)), threads=threads, images=images
    )
    deployment = deployment_from(model, variant, workdir, voice)
    document = bench_document(deployment, options, runtimes=runtimes, data=data, skip_bad=skip_bad)
    path, report = write_bench(document, workdir, output)
    voice.say(f"wrote {path} and {report}")
    show_bench(document, as_json=as_json)

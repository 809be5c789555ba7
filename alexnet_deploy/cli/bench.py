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
from alexnet_deploy.errors import EXIT_DONE, EXIT_ERROR
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Precision, Scope

_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_MOST_ROUNDS = 10


@click.command("bench")
@model_option
@variant_option
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    help="Only this one; more than once for several: torch, onnxruntime-cpu, openvino, onnxruntime-cuda, "
    "onnxruntime-tensorrt, onnxruntime-tensorrt-rtx, tensorrt, tensorrt-rtx; torch-compile only where it is named.",
)
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(_PRECISIONS), help="Only this one; repeatable."
)
@click.option("--batch", "batches", default="1,16", show_default=True, help="Batch sizes.")
@click.option("--runs", type=int, default=40, show_default=True, help="Samples for each row, in up to ten turns.")
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in Scope]),
    default=Scope.COPIES.value,
    show_default=True,
    help="What a time holds: the device's compute, the copies to and from it, or decoding and preprocessing too.",
)
@threads_option
@click.option(
    "--data",
    metavar="NAME[:FOLDER]|FOLDER",
    help="Evaluation images: the test split of this source.  [default: the shipped images]",
)
@click.option("--images", type=click.IntRange(1), help="Of how many of them the accuracy is.  [default: all]")
@click.option("--skip-bad", is_flag=True, help="Leave out damaged images and count them.")
@click.option(
    "--details/--no-details",
    default=True,
    show_default=True,
    help="Time the layers, and measure what other preprocessing does.",
)
@output_option("The JSON; the page lies beside it.  [default: WORKDIR/bench.json and WORKDIR/report.html]")
@json_option
@workdir_option
@quiet_option
def command(
    model: str, variant: str | None, runtimes: tuple[str, ...], precisions: tuple[str, ...], batches: str, runs: int,
    scope: str, threads: int, data: str | None, images: int | None, skip_bad: bool, details: bool,
    output: Path | None, as_json: bool, workdir: Path, voice: Voice,
) -> int:  # fmt: skip
    """Measure latency and accuracy of every runtime that is here, on the same images.

    A runtime that cannot run here is a row with its reason. Nothing falls back to another device. Exit code 1 where
    no row ran at all.
    """
    from alexnet_deploy.bench.candidate import BenchOptions
    from alexnet_deploy.pipeline.bench import bench_document
    from alexnet_deploy.pipeline.demo import write_bench

    options = BenchOptions(
        batches=batches_from_text(batches),
        runs=runs,
        rounds=min(_MOST_ROUNDS, max(runs, 1)),
        threads=threads,
        images=images,
        scope=Scope(scope),
        details=details,
    )
    deployment = deployment_from(model, variant, workdir, voice)
    document = bench_document(
        deployment,
        options,
        runtimes=runtimes,
        precisions=[Precision(precision) for precision in precisions],
        data=data,
        skip_bad=skip_bad,
    )
    path, report = write_bench(document, workdir, output)
    voice.say(f"wrote {path} and {report}")
    show_bench(document, as_json=as_json)
    return EXIT_DONE if any(row["status"] == "ok" for row in document["rows"]) else EXIT_ERROR

"""`alexnet-deploy bench`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from alexnet_deploy.bench.loadgen_options import LoadOptions, Scenario
from alexnet_deploy.cli.executor_options import executor_options, given_threads
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

if TYPE_CHECKING:
    from alexnet_deploy.pipeline.stages import Deployment
    from alexnet_deploy.scale.executor import ScaleOptions

_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8", "int4")
# What says how times are taken.
_TIMED = ("batches", "runs", "scope", "details")


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
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(_PRECISIONS),
    help="Only this one; repeatable. FP32, BF16, FP8 and INT4 of engines only where they are named.",
)
@click.option("--batch", "batches", default="1,16", show_default=True, help="Batch sizes.")
@click.option(
    "--runs",
    type=int,
    default=32,
    show_default=True,
    help="Samples for each row, in eight turns, or in one for every four where that is more, up to 64: more turns let "
    "`compare` tell smaller changes. A turn of a quick row takes more of them, for 0.1 s.",
)
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in Scope]),
    default=Scope.COPIES.value,
    show_default=True,
    help="What a time holds: the device's compute, the copies to and from it, or decoding and preprocessing too.",
)
@threads_option("CPU threads, the same for every row; of ray those of each worker, where it is given.")
@click.option(
    "--data",
    metavar="NAME[:FOLDER]|FOLDER",
    help="Evaluation images: the test split of this source, or a folder of images without classes.  [default: the "
    "shipped images]",
)
@click.option("--images", type=click.IntRange(1), help="Of how many of them the accuracy is.  [default: all]")
@click.option("--skip-bad", is_flag=True, help="Leave out damaged images and count them.")
@click.option(
    "--details/--no-details",
    default=True,
    show_default=True,
    help="Time the layers, and measure what other preprocessing does.",
)
@click.option(
    "--scenario",
    type=click.Choice([scenario.value for scenario in Scenario]),
    help="Measure with MLPerf's load generator instead: its queries, its rules, its logs in WORKDIR/loadgen.",
)
@click.option("--accuracy-only", is_flag=True, help="Evaluate the images and time nothing.")
@executor_options
@click.option("--valid-length", is_flag=True, help="Of a scenario: for MLPerf's 600 s.  [default: 10 s]")
@click.option("--target-qps", type=float, help="Of server: queries per second.  [default: what the session can take]")
@click.option(
    "--target-latency", type=float, metavar="MS", help="Of server: by when 99 % are to be answered.  [default: 15]"
)
@output_option(
    "The JSON; beside that of a bench lies the page.  [default: WORKDIR/bench.json and WORKDIR/report.html; of a "
    "scenario WORKDIR/load.SCENARIO.json, of --accuracy-only WORKDIR/accuracy.json]"
)
@json_option
@workdir_option
@quiet_option
@click.pass_context
def command(
    context: click.Context, model: str, variant: str | None, runtimes: tuple[str, ...],
    precisions: tuple[str, ...], batches: str, runs: int, scope: str, threads: int, data: str | None,
    images: int | None, skip_bad: bool, details: bool, accuracy_only: bool,
    executor: Callable[[int | None], ScaleOptions],
    scenario: str | None, valid_length: bool, target_qps: float | None, target_latency: float | None,
    output: Path | None, as_json: bool, workdir: Path, voice: Voice,
) -> int:  # fmt: skip
    """Measure latency and accuracy of every runtime that is here, on the same images.

    A runtime that cannot run here is a row with its reason. Nothing falls back to another device. Exit code 1 where
    no row ran at all.
    """
    deployment = deployment_from(model, variant, workdir, voice)
    narrowed: dict[str, Any] = {
        "runtimes": runtimes,
        "precisions": [Precision(precision) for precision in precisions],
        "data": data,
        "skip_bad": skip_bad,
    }
    working = executor(given_threads(context, threads))
    if working.elsewhere and not accuracy_only:
        raise click.UsageError("--executor ray goes with --accuracy-only: times are taken on this machine.")
    working.require_installed()
    if scenario is not None:
        _require_no(context, "with --scenario, which decides it", *_TIMED, "accuracy_only")
        load = LoadOptions(
            scenario=Scenario(scenario),
            valid_length=valid_length,
            target_qps=target_qps,
            target_latency_ms=target_latency,
        )
        return _run_scenario(deployment, load, narrowed, threads, images, output, as_json=as_json)
    if valid_length or target_qps is not None or target_latency is not None:
        raise click.UsageError("--valid-length, --target-qps and --target-latency belong to a --scenario.")
    if accuracy_only:
        _require_no(context, "with --accuracy-only, which times nothing", *_TIMED)
        return _run_accuracy(deployment, working, narrowed, threads, images, output, as_json=as_json)
    from alexnet_deploy.bench.candidate import BenchOptions, rounds_of
    from alexnet_deploy.pipeline.bench import bench_document
    from alexnet_deploy.pipeline.demo import write_bench

    options = BenchOptions(
        batches=batches_from_text(batches),
        runs=runs,
        rounds=rounds_of(runs),
        threads=threads,
        images=images,
        scope=Scope(scope),
        details=details,
    )
    document = bench_document(deployment, options, **narrowed)
    path, report = write_bench(document, workdir, output)
    voice.say(f"wrote {path} and {report}")
    show_bench(document, as_json=as_json)
    return _exit_code(document)


def _require_no(context: click.Context, why: str, *names: str) -> None:
    """Options that would be ignored must not be given."""
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)} cannot be given {why}.")


def _run_accuracy(
    deployment: Deployment,
    working: ScaleOptions,
    narrowed: dict[str, Any],
    threads: int,
    images: int | None,
    output: Path | None,
    *,
    as_json: bool,
) -> int:
    from alexnet_deploy.bench.candidate import BenchOptions
    from alexnet_deploy.files import write_json
    from alexnet_deploy.pipeline.accuracy import accuracy_document
    from alexnet_deploy.scale.executor import opened_executor

    options = BenchOptions(threads=threads, images=images)
    workspace = deployment.workspace
    with opened_executor(working, workspace.voice) as executing:
        document = accuracy_document(deployment, options, executing, **narrowed)
    path = output or workspace.folder / "accuracy.json"
    write_json(path, document)
    workspace.voice.say(f"wrote {path}")
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        from rich.console import Console

        from alexnet_deploy.report.accuracy_text import print_accuracy

        print_accuracy(document, Console())
    return _exit_code(document)


def _run_scenario(
    deployment: Deployment,
    options: LoadOptions,
    narrowed: dict[str, Any],
    threads: int,
    images: int | None,
    output: Path | None,
    *,
    as_json: bool,
) -> int:
    from alexnet_deploy.files import write_json
    from alexnet_deploy.pipeline.load import scenario_document

    document = scenario_document(deployment, options, threads=threads, images=images, **narrowed)
    workspace = deployment.workspace
    path = output or workspace.folder / f"load.{options.scenario.value}.json"
    write_json(path, document)
    workspace.voice.say(f"wrote {path}")
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        from rich.console import Console

        from alexnet_deploy.report.load_text import print_load

        print_load(document, Console())
    return _exit_code(document)


def _exit_code(document: dict[str, Any]) -> int:
    return EXIT_DONE if any(row["status"] == "ok" for row in document["rows"]) else EXIT_ERROR

"""`alexnet-deploy package`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from alexnet_deploy.cli.options import (
    deployment_from,
    json_option,
    model_option,
    quiet_option,
    variant_option,
    workdir_option,
)
from alexnet_deploy.printable import printable
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Precision


@click.command("package")
@model_option
@variant_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(["triton"]),
    default="triton",
    show_default=True,
    help="A model repository of Triton Inference Server.",
)
@click.option(
    "--runtime",
    type=click.Choice(["onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "openvino"]),
    default="onnxruntime-cpu",
    show_default=True,
    help="The server's backend, and where it computes.",
)
@click.option(
    "--precision",
    type=click.Choice([precision.value for precision in Precision]),
    help="Of the artifact.  [default: fp32; fp16 with tensorrt]",
)
@click.option(
    "--artifact",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Package this file, which has its passport beside it.  [default: made in WORKDIR]",
)
@click.option(
    "--bench",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `bench` wrote of this artifact: batches, waiting and instances follow from it.  "
    "[default: no waiting, one instance]",
)
@click.option(
    "--max-batch", type=click.IntRange(1), help="The largest batch.  [default: from the bench or the artifact]"
)
@click.option("--name", help="Of the model.  [default: from the artifact, its precision and runtime]")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The repository; a folder in a volume, not its mount point.  [default: WORKDIR/triton]",
)
@click.option("--force", is_flag=True, help="Put aside what is there and is not as this command left it.")
@json_option
@workdir_option
@quiet_option
def command(
    model: str, variant: str | None, format_: str, runtime: str, precision: str | None, artifact: Path | None,
    bench: Path | None, max_batch: int | None, name: str | None, output: Path | None, force: bool, as_json: bool,
    workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Write a model repository for a server, with everything the server and its clients need.

    The artifact with its passport, the configuration, labels, a warm-up and the preprocessing. Written whole or not at
    all. How the server batches follows from what was measured, and the configuration says why.
    """
    if artifact is not None and (model != "shipped" or variant is not None):
        raise click.UsageError("--model and --variant go without --artifact, whose passport says which model it is.")
    from alexnet_deploy.packaging.triton import PackageOptions, triton_model

    options = PackageOptions(
        runtime=runtime,
        precision=Precision(precision) if precision else None,
        artifact=artifact,
        bench=bench,
        name=name,
        max_batch=max_batch,
        force=force,
    )
    repository = output or workdir / format_
    package = triton_model(deployment_from(model, variant, workdir, voice), repository, options)
    folder = package.written.folder
    if package.written.aside is not None:
        voice.warn(f"what was there lies in {package.written.aside}")
    voice.say(f"reusing {folder}" if package.written.reused else f"wrote {folder}")
    voice.say(f"  tritonserver --model-repository={repository.resolve()}")
    click.echo(json.dumps(package.to_json(), indent=1) if as_json else printable(folder))

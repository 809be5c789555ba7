"""`alexnet-deploy calibrate`."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.options import (
    deployment_from,
    json_option,
    model_option,
    output_option,
    print_artifact,
    quiet_option,
    variant_option,
    workdir_option,
)
from alexnet_deploy.progress import Voice


@click.command("calibrate")
@model_option
@variant_option
@click.option("--images", type=click.IntRange(1), default=512, show_default=True, help="How many images.")
@click.option(
    "--data",
    metavar="NAME[:FOLDER]|FOLDER",
    help="Calibration images: the training split of this source.  [default: the shipped images]",
)
@click.option("--skip-bad", is_flag=True, help="Leave out damaged images and count them.")
@output_option("The table.  [default: WORKDIR/calibration.json]")
@json_option
@workdir_option
@quiet_option
def command(
    model: str, variant: str | None, images: int, data: str | None, skip_bad: bool,
    output: Path | None, as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Stream images through the FP32 graph and write the calibration table (max calibration).

    Memory does not grow with the number of images; the table is the only thing that later stages read.
    """
    deployment = deployment_from(model, variant, workdir, voice)
    artifact = deployment.calibration(data=data, images=images, output=output, skip_bad=skip_bad)
    print_artifact(artifact, as_json=as_json)

"""`alexnet-deploy calibrate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alexnet_deploy.cli.executor_options import executor_options
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

if TYPE_CHECKING:
    from alexnet_deploy.scale.executor import ScaleOptions


@click.command("calibrate")
@model_option
@variant_option
@click.option("--images", type=click.IntRange(1), default=512, show_default=True, help="How many images.")
@click.option(
    "--method",
    type=click.Choice(["max", "percentile", "entropy", "mse"]),
    default="max",
    show_default=True,
    help="How a range becomes a threshold; the table holds all four.",
)
@click.option("--percentile", type=float, default=99.99, show_default=True, help="Of the method of that name.")
@click.option(
    "--data",
    metavar="NAME[:FOLDER]|FOLDER",
    help="Calibration images: the training split of this source, or a folder of images without classes.  "
    "[default: the shipped images]",
)
@click.option(
    "--tensorrt-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write TensorRT's legacy calibration cache too, for calibrators of TensorRT 8 and 10.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out damaged images and count them.")
@executor_options
@output_option("The table.  [default: WORKDIR/calibration.json]")
@json_option
@workdir_option
@quiet_option
def command(
    model: str, variant: str | None, images: int, method: str, percentile: float, data: str | None,
    tensorrt_cache: Path | None, skip_bad: bool, executor: Callable[[], ScaleOptions], output: Path | None,
    as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Stream images through the FP32 graph and write the calibration table.

    One pass counts every activation; memory does not grow with the number of images. The table is the only thing that
    later stages read. A run that was interrupted goes on where it was. The workers of a Ray cluster make the same
    table, to the last digit.
    """
    if not 0 < percentile <= 100:
        raise click.BadParameter(f"{percentile:g} is not above 0 and at most 100.", param_hint="--percentile")
    deployment = deployment_from(model, variant, workdir, voice)
    from alexnet_deploy.precision.calibrate import CalibrationOptions
    from alexnet_deploy.precision.thresholds import Method
    from alexnet_deploy.scale.executor import opened_executor

    options = CalibrationOptions(method=Method(method), percentile=percentile)
    working = executor()
    working.require_installed()
    with opened_executor(working, voice) as executing:
        artifact = deployment.calibration(
            data=data,
            images=images,
            options=options,
            output=output,
            skip_bad=skip_bad,
            executor=executing if working.elsewhere else None,
        )
    if tensorrt_cache is not None:
        from alexnet_deploy.files import write_bytes
        from alexnet_deploy.precision.table import CalibrationTable
        from alexnet_deploy.precision.tensorrt_cache import cache_from_table

        write_bytes(tensorrt_cache, cache_from_table(CalibrationTable.read(artifact.path)).encode())
        voice.say(f"wrote {tensorrt_cache}")
    print_artifact(artifact, as_json=as_json)

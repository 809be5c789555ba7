"""`alexnet-deploy predict`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alexnet_deploy.cli.executor_options import executor_options, given_threads
from alexnet_deploy.cli.options import (
    deployment_from,
    json_option,
    model_option,
    output_option,
    quiet_option,
    threads_option,
    variant_option,
    workdir_option,
)
from alexnet_deploy.cli.session_options import SessionChoice, session_options
from alexnet_deploy.printable import printable
from alexnet_deploy.progress import Voice

if TYPE_CHECKING:
    from alexnet_deploy.data.batches import Skipped
    from alexnet_deploy.runtimes.session import SessionSpec
    from alexnet_deploy.scale.executor import ScaleOptions
    from alexnet_deploy.weights import ModelInfo

_PARQUET = "predictions.parquet"
_TOP = 5


@click.command("predict")
@click.argument("images", nargs=-1)
@click.option(
    "--data",
    metavar="NAME[:FOLDER]|FOLDER",
    help="Predict the test split of this source (or `shipped`), or the images of a folder without classes, instead, "
    "and write Parquet.",
)
@model_option
@variant_option
@session_options("Run")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="One label a line.  [default: those of the model]",
)
@click.option("--top", type=click.IntRange(1), default=_TOP, show_default=True, help="How many classes of an image.")
@click.option("--skip-bad", is_flag=True, help="Leave out damaged images and count them.")
@executor_options
@threads_option("CPU threads; of ray those of each worker, where it is given.")
@output_option(f"Of --data: the Parquet file.  [default: WORKDIR/{_PARQUET}]")
@json_option
@workdir_option
@quiet_option
@click.pass_context
def command(
    context: click.Context, images: tuple[str, ...], data: str | None, model: str, variant: str | None,
    session: SessionChoice, labels: Path | None, top: int, skip_bad: bool,
    executor: Callable[[int | None], ScaleOptions], threads: int, output: Path | None, as_json: bool, workdir: Path,
    voice: Voice,
) -> None:  # fmt: skip
    """Print the most likely classes of IMAGES (files, or folders of them), or write those of a whole source as Parquet.

    With --runtime, ONNX Runtime on the CPU by default, or with an engine on the GPU. What cannot run is an error, and
    nothing else runs instead.
    """
    from alexnet_deploy.data.batches import Skipped, say_skipped
    from alexnet_deploy.pipeline.predictions import images_to_predict, parquet_from_data
    from alexnet_deploy.prediction import image_paths, labels_from_file
    from alexnet_deploy.scale.executor import opened_executor
    from alexnet_deploy.scale.parquet import require_predictions_file

    if bool(images) == (data is not None):
        raise click.UsageError("Name either IMAGES or a --data source.")
    working = executor(given_threads(context, threads))
    if data is None and (output is not None or working.elsewhere):
        raise click.UsageError("--output and --executor ray go with --data.")
    path = output or workdir / _PARQUET
    # Before minutes of calibration.
    working.require_installed()
    names = labels_from_file(labels) if labels else None
    if data is None:
        paths = image_paths(images)
    else:
        image_set = images_to_predict(data)
        require_predictions_file(path)
    # A cluster that is there has its own devices, for which it is asked when it is given work.
    here = working.address is None
    spec, info = session.of(deployment_from(model, variant, workdir, voice), threads=threads, here=here)
    names = info.labels if names is None else names
    if data is None:
        skipped = Skipped() if skip_bad else None
        _print_images(spec, info, paths, names, top, skipped, as_json=as_json, voice=voice)
        say_skipped(skipped.names if skipped is not None else [], voice)
        return
    with opened_executor(working, voice) as executing:
        document = parquet_from_data(
            path, image_set, spec, info.preprocessing, names, executing, top=top, skip_bad=skip_bad, voice=voice
        )
    voice.say(f"{document['data']['images']} images of {printable(document['data']['name'])} predicted")
    click.echo(json.dumps(document, indent=1) if as_json else printable(path))


def _print_images(
    spec: SessionSpec,
    info: ModelInfo,
    paths: list[Path],
    names: tuple[str, ...],
    top: int,
    skipped: Skipped | None,
    *,
    as_json: bool,
    voice: Voice,
) -> None:
    from alexnet_deploy.prediction import predictions
    from alexnet_deploy.runtimes.open import open_session

    found = []
    with open_session(spec) as session:
        for note in session.notes:
            voice.warn(note)
        for prediction in predictions(session, info, paths, names, top=top, skipped=skipped):
            found.append({"path": str(prediction.path), "classes": [list(pair) for pair in prediction.classes]})
            if not as_json:
                click.echo(printable(prediction.path))
                for label, probability in prediction.classes:
                    click.echo(f"  {100 * probability:6.2f} %  {printable(label)}")
    if as_json:
        click.echo(json.dumps({"schema": 1, "predictions": found}, indent=1))

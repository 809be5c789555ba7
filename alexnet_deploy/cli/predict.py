"""`alexnet-deploy predict`."""

from __future__ import annotations

import json
from pathlib import Path

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
from alexnet_deploy.progress import Voice


@click.command("predict")
@click.argument("images", nargs=-1, required=True)
@model_option
@variant_option
@click.option("--precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="One label a line.  [default: those of the model]",
)
@threads_option
@json_option
@workdir_option
@quiet_option
def command(
    images: tuple[str, ...], model: str, variant: str | None, precision: str, labels: Path | None, threads: int,
    as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Print the five most likely classes of IMAGES (files, or folders of them) with ONNX Runtime on the CPU."""
    from alexnet_deploy.prediction import image_paths, labels_from_file, predictions
    from alexnet_deploy.runtimes.open import open_session
    from alexnet_deploy.runtimes.session import SessionSpec
    from alexnet_deploy.specs import Precision, Target

    paths = image_paths(images)
    deployment = deployment_from(model, variant, workdir, voice)
    graph = deployment.graph(Precision(precision), Target.ONNXRUNTIME_CPU)
    names = labels_from_file(labels) if labels else deployment.info.labels
    spec = SessionSpec(runtime="onnxruntime-cpu", precision=Precision(precision), path=graph.path, threads=threads)
    found = []
    with open_session(spec) as session:
        for prediction in predictions(session, deployment.info, paths, names):
            found.append({"path": str(prediction.path), "classes": [list(pair) for pair in prediction.classes]})
            if not as_json:
                click.echo(f"{prediction.path}")
                for label, probability in prediction.classes:
                    click.echo(f"  {100 * probability:6.2f} %  {label}")
    if as_json:
        click.echo(json.dumps({"schema": 1, "predictions": found}, indent=1))

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
from alexnet_deploy.printable import printable
from alexnet_deploy.progress import Voice


@click.command("predict")
@click.argument("images", nargs=-1, required=True)
@model_option
@variant_option
@click.option("--precision", type=click.Choice(["fp32", "int8"]), help="Of ONNX Runtime.  [default: fp32]")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="One label a line.  [default: those of the model]",
)
@click.option(
    "--engine",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Run this engine on the GPU instead; its passport says which model it is.",
)
@click.option(
    "--trust",
    is_flag=True,
    help="Open an engine without its passport, or with one that does not match. Engines are programs.",
)
@threads_option
@json_option
@workdir_option
@quiet_option
def command(
    images: tuple[str, ...], model: str, variant: str | None, precision: str | None, labels: Path | None,
    engine: Path | None, trust: bool, threads: int, as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Print the five most likely classes of IMAGES (files, or folders of them).

    With ONNX Runtime on the CPU, or with an engine on the GPU.
    """
    from alexnet_deploy.prediction import engine_spec, image_paths, labels_from_file, predictions
    from alexnet_deploy.runtimes.open import open_session
    from alexnet_deploy.runtimes.session import SessionSpec
    from alexnet_deploy.specs import Precision, Target

    if trust and engine is None:
        raise click.UsageError("--trust goes with --engine.")
    if engine is not None and precision is not None:
        raise click.UsageError("--precision goes without --engine, which has its own.")
    wanted = Precision(precision or "fp32")
    paths = image_paths(images)
    deployment = deployment_from(model, variant, workdir, voice)
    if engine is not None:
        spec, stated = engine_spec(engine, threads=threads, trust=trust)
        if stated is not None and model != "shipped":
            raise click.UsageError("--model goes without --engine, whose passport says which model it is.")
        info = stated or deployment.info
    else:
        graph, info = deployment.graph(wanted, Target.ONNXRUNTIME_CPU), deployment.info
        spec = SessionSpec(runtime="onnxruntime-cpu", precision=wanted, path=graph.path, threads=threads)
    names = labels_from_file(labels) if labels else info.labels
    found = []
    with open_session(spec) as session:
        for note in session.notes:
            voice.warn(note)
        for prediction in predictions(session, info, paths, names):
            found.append({"path": str(prediction.path), "classes": [list(pair) for pair in prediction.classes]})
            if not as_json:
                click.echo(printable(prediction.path))
                for label, probability in prediction.classes:
                    click.echo(f"  {100 * probability:6.2f} %  {printable(label)}")
    if as_json:
        click.echo(json.dumps({"schema": 1, "predictions": found}, indent=1))

"""`alexnet-deploy export`."""

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


@click.command("export")
@model_option
@variant_option
@click.option(
    "--lrn",
    type=click.Choice(["native", "banded"]),
    default="native",
    show_default=True,
    help="LRN as the standard node, or as a 1x1 convolution over the squares.",
)
@click.option("--opset", type=click.IntRange(18, 23), default=18, show_default=True, help="ONNX operator set.")
@click.option(
    "--preprocessing",
    metavar="imagenet|caffe|FILE",
    help="For ONNX files that do not say how their images are prepared.",
)
@output_option("The ONNX file.  [default: WORKDIR/alexnet.onnx; an ONNX file keeps its stem]")
@json_option
@workdir_option
@quiet_option
def command(
    model: str, variant: str | None, lrn: str, opset: int, preprocessing: str | None, output: Path | None,
    as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Turn a checkpoint or an ONNX file into normalised ONNX.

    Batch is dynamic, Local Response Normalization is the standard LRN node whatever the exporter made of it, and
    the result is compared with its source on real images before it is kept.
    """
    deployment = deployment_from(model, variant, workdir, voice, preprocessing=preprocessing, opset=opset)
    from alexnet_deploy.specs import Lowering, Precision, Target

    if lrn == "native":
        artifact = deployment.fp32_graph(output)
    else:
        artifact = deployment.graph(Precision.FP32, Target.ONNXRUNTIME_CPU, lowering=Lowering(lrn), output=output)
    print_artifact(artifact, as_json=as_json)

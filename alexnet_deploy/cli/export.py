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
    type=click.Choice(["native", "banded", "plugin", "auto"]),
    default="native",
    show_default=True,
    help="LRN as the standard node, as a band times the squares, or as the node of our TensorRT plugin, which carries "
    "its function body and runs in ONNX Runtime too; auto: what --target runs fastest.",
)
@click.option(
    "--target",
    type=click.Choice(["onnxruntime-cpu", "openvino", "tensorrt", "tensorrt-rtx"]),
    help="With --lrn auto: timed on this machine for the CPU runtimes, by rule for TensorRT.",
)
@click.option("--contain-nan", is_flag=True, help="With --lrn banded: a NaN stays in its window; slower.")
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
    model: str, variant: str | None, lrn: str, target: str | None, contain_nan: bool, opset: int,
    preprocessing: str | None, output: Path | None, as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Turn a checkpoint or an ONNX file into normalised ONNX.

    Batch is dynamic, Local Response Normalization is the standard LRN node whatever the exporter made of it, and
    the result is compared with its source on real images before it is kept.
    """
    if contain_nan and lrn != "banded":
        raise click.UsageError("--contain-nan goes with --lrn banded; the others contain a NaN anyway.")
    if (lrn == "auto") != (target is not None):
        raise click.UsageError("--lrn auto and --target go together.")
    deployment = deployment_from(model, variant, workdir, voice, preprocessing=preprocessing, opset=opset)
    from alexnet_deploy.specs import Lowering, Precision, Target

    if lrn == "native":
        artifact = deployment.fp32_graph(output)
    elif target is not None:
        artifact = deployment.graph(Precision.FP32, Target(target), measure=True, output=output)
    else:
        runs_on = Target.TENSORRT_RTX if lrn == "plugin" else Target.ONNXRUNTIME_CPU
        artifact = deployment.graph(
            Precision.FP32, runs_on, lowering=Lowering(lrn), contain_nan=contain_nan, output=output
        )
    print_artifact(artifact, as_json=as_json)

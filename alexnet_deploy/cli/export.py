"""`alexnet-deploy export`."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.options import (
    deployment_from,
    json_option,
    max_drop_option,
    model_option,
    output_option,
    print_artifact,
    quiet_option,
    rounding_options,
    variant_option,
    workdir_option,
)
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import QUANTIZED, GraphOptions, Lowering, Precision, RoundingOptions, Target


@click.command("export")
@model_option
@variant_option
@click.option(
    "--target",
    type=click.Choice(["onnxruntime-cpu", "openvino", "tensorrt", "tensorrt-rtx"]),
    help="Write the graph as this target runs it best.  [default: the form in which graphs are exchanged]",
)
@click.option(
    "--precision",
    type=click.Choice([precision.value for precision in Precision]),
    default="fp32",
    show_default=True,
    help="With --target. int8 reads the calibration table, and proves its layers where the target runs here; fp8 and "
    "int4 (weights of the fully connected layers) are for TensorRT.",
)
@click.option(
    "--lrn",
    type=click.Choice(["native", "banded", "plugin", "auto"]),
    help="LRN as the standard node, as a band times the squares, or as the node of our TensorRT plugin, which carries "
    "its function body and runs in ONNX Runtime too; auto: the fastest, timed on this machine for the CPU targets.  "
    "[default: native; with --target by rule]",
)
@click.option("--contain-nan", is_flag=True, help="With --lrn banded: a NaN stays in its window; slower.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A table for int8, fp8 and int4.  [default: made from the shipped images]",
)
@click.option("--allow-float", is_flag=True, help="Keep an int8 graph of which the target computes a layer in float.")
@click.option(
    "--placement",
    type=click.Choice(["rule", "measured"]),
    help="Where int8 quantizes beside the layers' inputs: by rule, or as a timing on this machine says, within the "
    "budget of --max-drop (0.2 points by default).  [default: rule]",
)
@max_drop_option
@rounding_options
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
    model: str, variant: str | None, target: str | None, precision: str, lrn: str | None, contain_nan: bool,
    calibration: Path | None, allow_float: bool, max_drop: float | None, placement: str | None,
    rounding: RoundingOptions | None, opset: int, preprocessing: str | None,
    output: Path | None, as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Turn a checkpoint or an ONNX file into normalised ONNX, or into the graph that a target runs best.

    Batch is dynamic, Local Response Normalization is the standard LRN node whatever the exporter made of it, and
    the result is compared with its source on real images before it is kept.
    """
    if contain_nan and lrn != "banded":
        raise click.UsageError("--contain-nan goes with --lrn banded; the others contain a NaN anyway.")
    if target is None and (lrn == "auto" or precision != "fp32"):
        raise click.UsageError("--lrn auto and --precision go with --target: graphs differ by where they run.")
    if precision != "int8" and (allow_float or any(said is not None for said in (max_drop, rounding, placement))):
        raise click.UsageError("--allow-float, --max-drop, --placement and rounding go with --precision int8.")
    if precision not in QUANTIZED and calibration is not None:
        raise click.UsageError("--calibration goes with --precision int8, fp8 and int4.")
    if precision in ("fp8", "int4") and target not in ("tensorrt", "tensorrt-rtx"):
        raise click.UsageError(f"--precision {precision} goes with --target tensorrt or tensorrt-rtx.")
    if lrn == "auto" and precision != "fp32":
        raise click.UsageError("--lrn auto times FP32 graphs; leave --lrn out to choose by rule.")
    if placement == "measured" and target not in ("onnxruntime-cpu", "openvino"):
        raise click.UsageError("--placement measured goes with a target that this machine can time: the CPU ones.")
    deployment = deployment_from(model, variant, workdir, voice, preprocessing=preprocessing, opset=opset)
    if target is None and lrn in (None, "native"):
        artifact = deployment.fp32_graph(output)
    else:
        runs_on = target or ("tensorrt-rtx" if lrn == "plugin" else "onnxruntime-cpu")
        artifact = deployment.graph(
            Precision(precision),
            Target(runs_on),
            calibration=calibration,
            lowering=Lowering(lrn) if lrn not in (None, "auto") else None,
            contain_nan=contain_nan,
            options=GraphOptions(
                measure=lrn == "auto",
                allow_float=allow_float,
                max_drop=None if max_drop is None else max_drop / 100,
                rounding=rounding or RoundingOptions(),
                place=placement == "measured",
            ),
            output=output,
        )
    print_artifact(artifact, as_json=as_json)

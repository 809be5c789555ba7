"""`alexnet-deploy build-engine`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from alexnet_deploy.cli.options import (
    artifact_document,
    deployment_from,
    json_option,
    max_drop_option,
    model_option,
    output_option,
    quiet_option,
    rounding_options,
    variant_option,
    workdir_option,
)
from alexnet_deploy.engines.options import DEFAULT_SMS, EngineOptions, sms_from_text
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import QUANTIZED, GraphOptions, Lowering, Precision, RoundingOptions

_PRECISIONS = (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.FP8, Precision.INT4)


@click.command("build-engine")
@model_option
@variant_option
@click.option("--fp32", is_flag=True, help="An FP32 engine.")
@click.option("--fp16", is_flag=True, help="An FP16 engine; the default.")
@click.option("--bf16", is_flag=True, help="A BF16 engine.")
@click.option("--int8", is_flag=True, help="An INT8 engine: every convolution and fully connected layer.")
@click.option("--fp8", is_flag=True, help="An FP8 engine: every layer that TensorRT computes in it, the rest in FP16.")
@click.option("--int4", is_flag=True, help="FP16 with the weights of the fully connected layers in INT4.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]),
    default="auto",
    show_default=True,
    help="auto: TensorRT where it and a GPU are here, else TensorRT-RTX, which needs no GPU to build.",
)
@click.option(
    "--sm",
    help="GPU architectures, as sm86,sm89, or all that hold the precision (TensorRT-RTX).  "
    f"[default: {', '.join(f'sm{sm}' for sm in DEFAULT_SMS)}, as far as they hold it]",
)
@click.option(
    "--lrn",
    type=click.Choice(["auto", "native", "plugin"]),
    default="auto",
    show_default=True,
    help="TensorRT's own LRN layer, or our plugin, fused with the max pool behind it; auto: its own where it can.",
)
@click.option("--min-batch", type=int, default=1, show_default=True)
@click.option("--opt-batch", type=int, default=1, show_default=True)
@click.option("--max-batch", type=int, default=16, show_default=True)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A calibration table for --int8, --fp8 and --int4.  [default: made from the shipped images]",
)
@click.option("--allow-float", is_flag=True, help="Keep an engine in which a layer did not get the precision.")
@max_drop_option
@rounding_options
@output_option("The engine, where one precision is built.  [default: in WORKDIR]")
@json_option
@workdir_option
@quiet_option
def command(
    model: str, variant: str | None, fp32: bool, fp16: bool, bf16: bool, int8: bool, fp8: bool, int4: bool,
    backend: str, sm: str | None, lrn: str,
    min_batch: int, opt_batch: int, max_batch: int, calibration: Path | None, allow_float: bool,
    max_drop: float | None, rounding: RoundingOptions | None,
    output: Path | None, as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Build engines, without a GPU too, and prove their precision.

    After a build the plan is read back: exit code 3 where a layer did not get the precision that was asked for.
    """
    chosen = [p for p, wanted in zip(_PRECISIONS, (fp32, fp16, bf16, int8, fp8, int4), strict=True) if wanted] or [
        Precision.FP16
    ]
    if output is not None and len(chosen) > 1:
        raise click.UsageError("--output names one file, but several precisions are asked for.")
    if (max_drop is not None or rounding is not None) and Precision.INT8 not in chosen:
        raise click.UsageError("--max-drop and rounding go with --int8.")
    if calibration is not None and not QUANTIZED & set(chosen):
        raise click.UsageError("--calibration goes with --int8, --fp8 and --int4.")
    requests = [
        EngineOptions(
            precision=precision,
            backend=backend,
            sms=sms_from_text(sm, precision),
            min_batch=min_batch,
            opt_batch=opt_batch,
            max_batch=max_batch,
        )
        for precision in chosen
    ]
    deployment = deployment_from(model, variant, workdir, voice)
    engines = []
    for request in requests:
        engines.append(
            deployment.engine(
                request,
                calibration=calibration if request.precision in QUANTIZED else None,
                output=output,
                graph_options=GraphOptions(
                    allow_float=allow_float,
                    max_drop=None if max_drop is None else max_drop / 100,
                    rounding=rounding or RoundingOptions(),
                ),
                lowering=None if lrn == "auto" else Lowering(lrn),
            )
        )
        if not as_json:
            click.echo(engines[-1].path)
    if as_json:
        click.echo(json.dumps({"schema": 1, "engines": [artifact_document(engine) for engine in engines]}, indent=1))

"""`alexnet-deploy build-engine`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from alexnet_deploy.cli.engine_options import engine_options, precision_options, timing_cache_option
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
from alexnet_deploy.engines.options import EngineOptions, resolved_here
from alexnet_deploy.printable import printable
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import QUANTIZED, GraphOptions, Lowering, Precision, RoundingOptions


@click.command("build-engine")
@model_option
@variant_option
@precision_options
@engine_options
@click.option(
    "--lrn",
    type=click.Choice(["auto", "native", "plugin"]),
    default="auto",
    show_default=True,
    help="TensorRT's own LRN layer, or our plugin, fused with the max pool behind it; auto: its own where it can.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A calibration table for --int8, --fp8 and --int4.  [default: made from the shipped images]",
)
@click.option("--allow-float", is_flag=True, help="Keep an engine in which a layer did not get the precision.")
@max_drop_option
@rounding_options
@timing_cache_option
@output_option("The engine, where one precision is built.  [default: in WORKDIR]")
@json_option
@workdir_option
@quiet_option
def command(
    model: str, variant: str | None, precisions: list[Precision], request: Callable[[Precision], EngineOptions],
    lrn: str, calibration: Path | None, allow_float: bool, max_drop: float | None, rounding: RoundingOptions | None,
    timing_cache: Path | None, output: Path | None, as_json: bool, workdir: Path, voice: Voice,
) -> None:  # fmt: skip
    """Build engines, without a GPU too, and prove their precision.

    After a build the engine is read back: exit code 3 where a layer did not get the precision that was asked for.
    """
    if output is not None and len(precisions) > 1:
        raise click.UsageError("--output names one file, but several precisions are asked for.")
    if (max_drop is not None or rounding is not None) and Precision.INT8 not in precisions:
        raise click.UsageError("--max-drop and rounding go with --int8.")
    if calibration is not None and not QUANTIZED & set(precisions):
        raise click.UsageError("--calibration goes with --int8, --fp8 and --int4.")
    # All of them before the first is made: what one cannot have is an error of the whole command.
    requests = [resolved_here(request(precision)) for precision in precisions]
    deployment = deployment_from(model, variant, workdir, voice)
    engines = []
    for asked in requests:
        engines.append(
            deployment.engine(
                asked,
                calibration=calibration if asked.precision in QUANTIZED else None,
                output=output,
                graph_options=GraphOptions(
                    allow_float=allow_float,
                    max_drop=None if max_drop is None else max_drop / 100,
                    rounding=rounding or RoundingOptions(),
                ),
                lowering=None if lrn == "auto" else Lowering(lrn),
                timing_cache=timing_cache,
            )
        )
        if not as_json:
            click.echo(printable(engines[-1].path))
    if as_json:
        click.echo(json.dumps({"schema": 1, "engines": [artifact_document(engine) for engine in engines]}, indent=1))

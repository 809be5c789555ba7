"""Options that several commands share."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alexnet_deploy.machine import usable_cpus
from alexnet_deploy.printable import printable
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import RoundingOptions, WeightRounding
from alexnet_deploy.variants import VARIANTS

if TYPE_CHECKING:
    from alexnet_deploy.pipeline.stages import Deployment
    from alexnet_deploy.pipeline.workspace import Artifact

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

DEFAULT_WORKDIR = Path("artifacts")


def workdir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--workdir`: where artifacts are kept and looked for."""
    return click.option(
        "--workdir",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_WORKDIR,
        show_default=True,
        help="Where artifacts are kept and reused.",
    )(function)


def model_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--model`: what to work on."""
    return click.option(
        "--model",
        default="shipped",
        show_default=True,
        metavar="FILE|NAME",
        help="A checkpoint, an ONNX file, `shipped`, or `torchvision`.",
    )(function)


def variant_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--variant`, for weight files that do not say."""
    return click.option(
        "--variant",
        type=click.Choice(list(VARIANTS)),
        help="The variant, for weight files that do not say it themselves.",
    )(function)


def output_option(help_text: str) -> Decorator:
    """`--output`: another file name."""
    return click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help=help_text)


def quiet_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--quiet`: warnings and results only. Gives the command a `voice`."""

    def to_voice(_context: click.Context, _parameter: click.Parameter, value: bool) -> Voice:
        return Voice(quiet=value)

    return click.option(
        "--quiet", "voice", is_flag=True, callback=to_voice, help="Say nothing but warnings and results."
    )(function)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`: one document on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")(function)


def max_drop_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--max-drop`: the accuracy guard's budget, in points."""
    return click.option(
        "--max-drop",
        type=click.FloatRange(0, 100),
        metavar="POINTS",
        help="Of int8: points of top-1 that it may cost on the guard images; the most sensitive layers "
        "go back to float until that holds.  [default: every layer is quantized]",
    )(function)


def rounding_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How int8 weights are rounded. Gives the command `rounding`; None where nothing was said."""

    @click.option(
        "--rounding",
        "weight_rounding",
        type=click.Choice([way.value for way in WeightRounding]),
        help="Of int8 weights: to the nearest integer, or by GPTQ, which lets later weights make up for the errors of "
        f"earlier ones.  [default: {RoundingOptions().rounding.value}]",
    )
    @click.option(
        "--bias-correction/--no-bias-correction",
        default=None,
        help="Move biases by what rounding the weights moves the mean output.  [default: with gptq]",
    )
    @click.option(
        "--weight-thresholds/--no-weight-thresholds",
        default=None,
        help="Saturate a channel's largest weights where that costs less than coarser steps.  [default: no]",
    )
    @functools.wraps(function)
    def wrapped(
        weight_rounding: str | None, bias_correction: bool | None, weight_thresholds: bool | None, **arguments: Any
    ) -> Any:
        chosen = None
        if any(said is not None for said in (weight_rounding, bias_correction, weight_thresholds)):
            way = WeightRounding(weight_rounding or RoundingOptions().rounding)
            chosen = RoundingOptions(
                rounding=way,
                bias_correction=way is WeightRounding.GPTQ if bias_correction is None else bias_correction,
                weight_thresholds=bool(weight_thresholds),
            )
        return function(rounding=chosen, **arguments)

    return wrapped


def deployment_from(
    model: str,
    variant: str | None,
    workdir: Path,
    voice: Voice,
    *,
    preprocessing: str | None = None,
    opset: int | None = None,
) -> Deployment:
    """The model and the work directory that the common options name."""
    from alexnet_deploy.normalise import DEFAULT_OPSET
    from alexnet_deploy.pipeline.stages import Deployment
    from alexnet_deploy.pipeline.workspace import Workspace

    return Deployment(
        workspace=Workspace(folder=workdir, voice=voice),
        model=model,
        variant=variant,
        preprocessing=preprocessing,
        opset=opset or DEFAULT_OPSET,
    )


def artifact_document(artifact: Artifact) -> dict[str, Any]:
    """An artifact with its passport, for `--json`."""
    from alexnet_deploy.artifacts import read_passport

    passport = read_passport(artifact.path)
    return {
        "schema": 1,
        "path": str(artifact.path),
        "reused": artifact.reused,
        "passport": passport.to_json() if passport else None,
    }


def print_artifact(artifact: Artifact, *, as_json: bool) -> None:
    """The result of a command that makes one file: its path, or its passport."""
    click.echo(json.dumps(artifact_document(artifact), indent=1) if as_json else printable(artifact.path))


def threads_option(help_text: str) -> Decorator:
    """`--threads`: CPU threads."""
    return click.option(
        "--threads", type=click.IntRange(1), default=usable_cpus, show_default="all usable CPUs", help=help_text
    )


def batches_from_text(text: str) -> tuple[int, ...]:
    """Parses `1,16`."""
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is not a list of batch sizes such as 1,16.", param_hint="--batch") from exc


def show_bench(document: dict[str, Any], *, as_json: bool) -> None:
    """The document as JSON, or as a table."""
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    from rich.console import Console

    from alexnet_deploy.report.terminal import print_bench

    print_bench(document, Console())

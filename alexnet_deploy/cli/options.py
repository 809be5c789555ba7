"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from alexnet_deploy.progress import Voice

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
        type=click.Choice(["paper", "unpadded", "bvlc", "caffenet", "owt"]),
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
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")(
        function
    )

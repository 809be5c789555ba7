"""The options of `build-engine` that say what engine to build, gathered into one request."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from alexnet_deploy.engines.options import (
    DEFAULT_SMS,
    HARDWARE_COMPATIBILITY,
    EngineOptions,
    Profile,
    profile_from_text,
    sms_from_text,
)
from alexnet_deploy.machine import gpu_sm
from alexnet_deploy.specs import Precision

Command = Callable[..., Any]
_HELP = {
    Precision.FP32: "An FP32 engine.",
    Precision.FP16: "An FP16 engine; the default.",
    Precision.BF16: "A BF16 engine.",
    Precision.INT8: "An INT8 engine: every convolution and fully connected layer.",
    Precision.FP8: "An FP8 engine: every layer that TensorRT computes in it, the rest in FP16.",
    Precision.INT4: "FP16 with the weights of the fully connected layers in INT4.",
}
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Bytes(click.ParamType[int]):
    """`512M` or `2G`: powers of 1,024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,12})([KMG]?)(?:i?B)?", value.strip(), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is not a size such as 512M or 2G.", param, ctx)
        return int(found[1]) * _UNITS[found[2].upper()]


def precision_options(command: Command) -> Command:
    """`--fp32` to `--int4`. Gives the command `precisions`; FP16 where nothing was said."""

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> Any:
        chosen = [precision for precision in _HELP if arguments.pop(precision.value)]
        return command(precisions=chosen or [Precision.FP16], **arguments)

    decorated: Command = wrapped
    for precision in reversed(_HELP):
        decorated = click.option(f"--{precision.value}", is_flag=True, help=_HELP[precision])(decorated)
    return decorated


def engine_options(command: Command) -> Command:
    """What is built besides the precision. Gives the command `request`, which makes the options of a precision."""

    @click.option(
        "--backend",
        type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]),
        default="auto",
        show_default=True,
        help="auto: TensorRT where it and a GPU are here and --sm names no other, else TensorRT-RTX, which needs no "
        "GPU to build.",
    )
    @click.option(
        "--sm",
        "sms",
        multiple=True,
        help="GPU architectures: sm86,sm89, or all that hold the precision, or native, the GPU at hand.  "
        f"[default: {', '.join(f'sm{sm}' for sm in DEFAULT_SMS)}, as far as they hold it; native for TensorRT]",
    )
    @click.option("--min-batch", type=int, help="Of the batch profile.  [default: 1]")
    @click.option("--opt-batch", type=int, help="The batch that is tuned for.  [default: 1]")
    @click.option("--max-batch", type=int, help="Of the batch profile.  [default: 16]")
    @click.option(
        "--profile",
        "profiles",
        multiple=True,
        metavar="MIN:OPT:MAX",
        help="A batch profile; several for one engine tuned for several batches. In place of the three above.",
    )
    @click.option("--workspace", type=Bytes(), metavar="SIZE", help="The most scratch memory of a layer, as 512M.")
    @click.option(
        "--optimization-level",
        type=click.IntRange(0, 5),
        help="Of TensorRT: how long the builder looks for fast kernels.",
    )
    @click.option("--version-compatible", is_flag=True, help="Of TensorRT: opens in later versions.")
    @click.option(
        "--hardware-compatible",
        type=click.Choice(HARDWARE_COMPATIBILITY),
        help="Of TensorRT: runs on every GPU from SM80 on, or on all of one compute capability.",
    )
    @click.option("--refit", is_flag=True, help="Weights can be exchanged later. TensorRT-RTX needs a GPU for it.")
    @click.option(
        "--strip", is_flag=True, help="Leave the weights out; they are put back from the graph beside the engine."
    )
    @functools.wraps(command)
    def wrapped(
        backend: str, sms: tuple[str, ...], min_batch: int | None, opt_batch: int | None, max_batch: int | None,
        profiles: tuple[str, ...], workspace: int | None, optimization_level: int | None, version_compatible: bool,
        hardware_compatible: str | None, refit: bool, strip: bool, **arguments: Any,
    ) -> Any:  # fmt: skip
        sm = ",".join(sms) or None
        batches = _profiles(profiles, min_batch, opt_batch, max_batch)

        def request(precision: Precision) -> EngineOptions:
            return EngineOptions(
                precision=precision,
                backend=backend,
                sms=sms_from_text(sm, precision, gpu_sm()),
                profiles=batches,
                workspace_bytes=workspace,
                optimization_level=optimization_level,
                version_compatible=version_compatible,
                hardware_compatible=hardware_compatible,
                refit=refit,
                strip=strip,
            )

        return command(request=request, **arguments)

    return wrapped


def timing_cache_option(command: Command) -> Command:
    """`--timing-cache`: what TensorRT measured in earlier builds."""
    return click.option(
        "--timing-cache",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Of TensorRT: kernels' times from earlier builds, read and written.  [default: in WORKDIR]",
    )(command)


def _profiles(texts: tuple[str, ...], least: int | None, best: int | None, most: int | None) -> tuple[Profile, ...]:
    if texts and any(size is not None for size in (least, best, most)):
        raise click.UsageError("--profile takes the place of --min-batch, --opt-batch and --max-batch.")
    if texts:
        return tuple(profile_from_text(text) for text in texts)
    least = 1 if least is None else least
    best = least if best is None else best
    return (Profile(min=least, opt=best, max=max(16, best) if most is None else most),)

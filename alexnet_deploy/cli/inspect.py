"""`alexnet-deploy inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from alexnet_deploy.cli.options import json_option, quiet_option, variant_option
from alexnet_deploy.printable import printable
from alexnet_deploy.progress import Voice


@click.command("inspect")
@click.argument("file", required=False)
@variant_option
@click.option("--classes", type=int, default=1000, show_default=True, help="With --variant.")
@click.option("--width", type=float, default=1.0, show_default=True, help="With --variant.")
@click.option("--image-size", type=int, default=0, help="With --variant; the variant's own by default.")
@click.option(
    "--draw",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the network of --variant (SVG), or the histograms of a calibration table (SVG, PNG, PDF).",
)
@click.option("--kernel", is_flag=True, help="The LRN kernel: registers, spills and shared memory for every SM.")
@json_option
@quiet_option
def command(
    file: str | None, variant: str | None, classes: int, width: float, image_size: int, draw: Path | None,
    kernel: bool, as_json: bool, voice: Voice,
) -> None:  # fmt: skip
    """Say what FILE is, layer by layer: a checkpoint, an ONNX file, an engine or a calibration table.

    Without FILE: the shipped model, or with --variant the network as a textbook prints it.
    """
    if draw is not None and (file is None) == (variant is None):
        raise click.UsageError("--draw goes with --variant, or with a calibration table.")
    if kernel and (file is not None or variant is not None):
        raise click.UsageError("--kernel is about the plugin's kernel alone; leave FILE and --variant out.")
    if kernel:
        from alexnet_deploy.inspection import inspect_kernel

        document = inspect_kernel(voice=voice)
    elif file is None and variant is not None:
        from alexnet_deploy.inspection import inspect_variant
        from alexnet_deploy.variants import NetworkSpec

        spec = NetworkSpec(variant=variant, classes=classes, width=width, image_size=image_size)
        document = inspect_variant(spec)
    else:
        from alexnet_deploy.inspection import inspect_file

        document = inspect_file(file or "shipped", variant)
    if draw is not None:
        from alexnet_deploy.files import write_bytes

        write_bytes(draw, _drawn(document, draw))
        click.echo(f"drew {printable(draw)}", err=True)
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    from rich.console import Console

    from alexnet_deploy.report.inspect_text import print_inspection

    print_inspection(document, Console(width=None if Console().is_terminal else 160))


def _drawn(document: dict[str, Any], path: Path) -> bytes:
    if document["kind"] == "calibration":
        from alexnet_deploy.report.histograms import picture_from_table

        return picture_from_table(document, path)
    if document["kind"] != "variant":
        raise click.UsageError("--draw goes with --variant, or with a calibration table.")
    from alexnet_deploy.report.drawing import svg_from_layers

    return svg_from_layers(document).encode()

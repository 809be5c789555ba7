"""`alexnet-deploy compare`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from alexnet_deploy.cli.options import json_option
from alexnet_deploy.errors import EXIT_DONE, EXIT_GATE


@click.command("compare")
@click.argument("old", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("new", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--max-slower",
    type=click.FloatRange(0, 1000),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="A row is a regression where it is slower by more than this, and its whole interval is above 1.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=0.25,
    show_default=True,
    metavar="POINTS",
    help="A row is a regression where its top-1 fell by more than this.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(50, 99.99),
    default=99.0,
    show_default=True,
    metavar="PERCENT",
    help="Of the intervals of the ratios.",
)
@click.option(
    "--anyway", is_flag=True, help="Compare benches of different machines, threads or images, then without the anchor."
)
@click.option("--markdown", is_flag=True, help="Print a table in Markdown, for a pull request.")
@json_option
def command(
    old: Path, new: Path, max_slower: float, max_drop: float, confidence: float, anyway: bool, markdown: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Compare two benches row by row: faster, slower or the same, and is the accuracy kept.

    OLD and NEW are documents that `bench` wrote. Times are taken relative to fixed work that every bench measures
    between its rows, so that a machine that is slower today is no regression. Exit code 3 on a regression.
    """
    from alexnet_deploy.bench.compare import Bounds, comparison
    from alexnet_deploy.bench.documents import read_bench

    bounds = Bounds(slower=max_slower / 100, drop=max_drop / 100, confidence=confidence / 100)
    document = comparison(read_bench(old), read_bench(new), bounds, anyway=anyway)
    if as_json:
        click.echo(json.dumps(document, indent=1))
    elif markdown:
        from alexnet_deploy.report.comparison import markdown_from_comparison

        click.echo(markdown_from_comparison(document), nl=False)
    else:
        from rich.console import Console

        from alexnet_deploy.report.comparison import print_comparison

        print_comparison(document, Console())
    return EXIT_GATE if document["regressions"] else EXIT_DONE

"""Against what a user would otherwise take: torch's default export, and the vendors' own ways to INT8.

Our artifacts beside the graph with LRN nodes and torch's export in FP32, and beside ONNX Runtime's quantize_static,
NNCF and modelopt in INT8, all rows of a runtime in turns; what each tool's calibration costs; accuracy of everything.
NNCF and modelopt get environments of their own, which are made once, unless interpreters are named.

A run that was cut goes on where it was: graphs stay in the work directory, measurements until the run is through.

usage: python -m benchmarks.peers [--without TOOL] [--runs N] [--rounds N] [--json FILE|-]   (or: make peers)
       python -m benchmarks.peers --render   (the Markdown file of a document that is there)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from alexnet_deploy.bench.candidate import BenchOptions
from alexnet_deploy.errors import AlexnetDeployError, InputError
from alexnet_deploy.files import write_bytes, write_json
from alexnet_deploy.machine import usable_cpus
from benchmarks.peer_environments import FOLDER
from benchmarks.peer_run import TOOLS, Asked, Run
from benchmarks.peer_tables import SCHEMA, markdown, summary

RESULT = Path(__file__).parent / "results" / "peers.json"


@click.command()
@click.option("--nncf-python", help="Interpreter of an environment with nncf and openvino; none is made then.")
@click.option("--modelopt-python", help="Interpreter of an environment with nvidia-modelopt[onnx]; none is made then.")
@click.option("--environments", type=click.Path(path_type=Path), default=FOLDER, help="Where environments are made.")
@click.option("--without", multiple=True, type=click.Choice(TOOLS), help="Leave a tool out; the document says so.")
@click.option("--workdir", type=click.Path(path_type=Path), default=Path("artifacts/peers"), show_default=True)
@click.option("--data", default="shipped", show_default=True, help="Evaluation images.")
@click.option("--limit", type=click.IntRange(1), help="Evaluation images at most; all by default.")
@click.option("--images", default=512, show_default=True, type=click.IntRange(1, 512), help="Calibration images.")
@click.option("--runs", default=24, show_default=True, help="Samples a row.")
@click.option("--rounds", default=8, show_default=True, help="In how many turns.")
@click.option("--turns", default=3, show_default=True, type=click.IntRange(1), help="Of every tool's calibration.")
@click.option("--json", "target", default=str(RESULT), help="Where the document goes; - is standard output.")
@click.option("--markdown", "page", type=click.Path(path_type=Path), help="The table; beside the document by default.")
@click.option("--render", is_flag=True, help="Measure nothing: write the table of the document that is there.")
def main(target: str, page: Path | None, render: bool, **values: Any) -> None:
    """Quantizes with every tool, measures all results in turns, and writes document and table."""
    try:
        run = None if render else Run(_asked(**values))
        document = recorded(Path(target)) if run is None else run.document()
    except AlexnetDeployError as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(exc.exit_code)
    if target == "-":
        click.echo(json.dumps(document, indent=1))
    elif run is not None:
        write_json(Path(target), document)
    page = page or (Path(target).with_suffix(".md") if target != "-" else None)
    if page is not None:
        write_bytes(page, markdown(document).encode())
    if run is not None:
        run.work.forget_measured()
    for line in summary(document):
        click.echo(line, err=True)


def _asked(
    runs: int, rounds: int, without: tuple[str, ...], nncf_python: str | None, modelopt_python: str | None, **rest: Any
) -> Asked:
    named = {"nncf": nncf_python, "modelopt": modelopt_python}
    return Asked(
        bench=BenchOptions(runs=runs, rounds=rounds, threads=usable_cpus()),
        without=without,
        pythons={tool: python for tool, python in named.items() if python is not None},
        **rest,
    )


def recorded(path: Path) -> dict[str, Any]:
    """A document that was written before.

    Raises:
        InputError: It is not there, or of another schema.
    """
    if not path.is_file():
        raise InputError(f"there is no document {path}", remedy="measure first, or name another with --json")
    document: dict[str, Any] = json.loads(path.read_text())
    if document.get("schema") != SCHEMA:
        raise InputError(
            f"{path} cannot be rendered",
            got=f"schema {document.get('schema')}",
            expected=f"schema {SCHEMA}",
            remedy="measure anew with `python -m benchmarks.peers`",
        )
    return document


if __name__ == "__main__":
    main()

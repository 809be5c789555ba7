"""`alexnet-deploy doctor`."""

from __future__ import annotations

import dataclasses
import json

import click

from alexnet_deploy.cli.options import json_option

_MARKS = {"ok": "ok      ", "limited": "limited ", "missing": "missing "}


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Say what this machine can run, what is missing and how to get it."""
    from alexnet_deploy.doctor import diagnose

    environment, findings = diagnose()
    if as_json:
        document = {
            "schema": 1,
            "environment": environment,
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        click.echo(json.dumps(document, indent=1))
        return
    click.echo(
        f"{environment['cpu']}, {environment['cpus']} CPUs, {environment['memory_bytes'] / 1e9:.0f} GB, "
        f"{environment['system']}, Python {environment['python']}"
    )
    for finding in findings:
        click.echo(f"{_MARKS[finding.state]} {finding.subject:16} {finding.detail}")
        if finding.remedy:
            click.echo(f"{'':26}{finding.remedy}")

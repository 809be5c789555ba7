"""Passports of files that a test has made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alexnet_deploy.artifacts import Passport, write_artifact


def write_passport(artifact: Path, *, kind: str, **known: Any) -> Passport:
    """Gives a file that is there its passport; arguments as of `write_artifact`."""
    return write_artifact(artifact, artifact.read_bytes(), kind=kind, **known)

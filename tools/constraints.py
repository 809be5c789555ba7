"""Writes down the version of everything that this environment holds because of us, for `pip install --constraint`.

usage: python -m tools.constraints [FILE]   (or: make constraints, which writes constraints/measured.txt)
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import write_bytes
from tools.declared import OWN, ROOT, Installed, closure, dependencies, installed

FOLDER = ROOT / "constraints"
MEASURED, LOWEST = FOLDER / "measured.txt", FOLDER / "lowest.txt"


def main(arguments: list[str]) -> None:
    """Writes the file."""
    path = Path(arguments[0]) if arguments else MEASURED
    text = constraints_from_environment(installed())
    write_bytes(path, text.encode())
    print(f"{path}: {len(pins_from_text(text))} packages")


def constraints_from_environment(environment: Installed) -> str:
    """One `name==version` a line, below the interpreter and the system that they were installed for."""
    names = sorted(closure(dependencies(), environment) - {OWN})
    head = f"# CPython {platform.python_version()}, {platform.system()} {platform.machine()}; {len(names)} packages."
    return "\n".join([head, *(f"{name}=={_public(environment[name].version)}" for name in names), ""])


def _public(version: str) -> str:
    """Without the label of a local build, which an index does not have."""
    return Version(version).public


def pins_from_text(text: str) -> dict[NormalizedName, Version]:
    """The versions that a constraints file names.

    Raises:
        InputError: A line is no `name==version`.
    """
    pins: dict[NormalizedName, Version] = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        requirement = Requirement(line)
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==" or requirement.url:
            raise InputError("a constraint is not one version", got=line, expected="name==version")
        pins[canonicalize_name(requirement.name)] = Version(specifiers[0].version)
    return pins


if __name__ == "__main__":
    main(sys.argv[1:])

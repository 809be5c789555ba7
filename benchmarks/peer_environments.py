"""Environments of their own for the peers that do not share one with this project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import InputError, RuntimeUnavailableError
from alexnet_deploy.files import write_json
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import fingerprint
from benchmarks.peer_worker import last_lines

FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "alexnet-deploy" / "peers"
_READY = "ready.json"
Run = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What an environment is made of.

    Attributes:
        package: The peer's own distribution.
        pins: What pip is told; the rest follows from the peer's own requirements and is recorded.
        size_bytes: Free space that it takes, measured once, with a margin for pip's downloads.
    """

    package: str
    pins: tuple[str, ...]
    size_bytes: int


RECIPES = {
    "nncf": Recipe(
        package="nncf", pins=("nncf==3.4.0", "openvino==2026.4.1", "onnx==1.23.2", "numpy==2.4.6"), size_bytes=2 * 10**9
    ),
    "modelopt": Recipe(
        package="nvidia-modelopt",
        pins=("nvidia-modelopt[onnx]==0.47.0", "torch==2.14.1", "numpy==2.4.6"),
        size_bytes=12 * 10**9,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An interpreter that has a peer.

    Attributes:
        python: The interpreter.
        facts: For the document: `named` or `made` here, and the version of everything in it.
    """

    python: str
    facts: dict[str, Any]


def plain_run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, keeping what it says."""
    return subprocess.run(command, capture_output=True, text=True)


def named_environment(name: str, python: str, run: Run = plain_run) -> Environment:
    """One that the user has.

    Raises:
        InputError: The peer is not in it; who names an interpreter does not want another.
    """
    packages = _packages(python, run)
    package = RECIPES[name].package
    if package not in packages:
        raise InputError(
            f"{python} has no {package}",
            got=f"{len(packages)} other packages" if packages else "no interpreter that answers",
            expected=f"an environment with {' '.join(RECIPES[name].pins)}",
            remedy=f"leave --{name}-python out, so that one is made, or leave {name} out with --without {name}",
        )
    return Environment(python=python, facts={"from": "named", "packages": packages})


def made_environment(name: str, folder: Path, voice: Voice, run: Run = plain_run) -> Environment:
    """One that is made below `folder`, or that a run before this one made.

    Raises:
        RuntimeUnavailableError: It cannot be made: no space, no index, no such versions.
    """
    recipe = RECIPES[name]
    place = folder / f"{name}-{fingerprint([recipe.pins, sys.version_info[:2]])}"
    python, ready = place / "bin" / "python", place / _READY
    if ready.is_file():
        voice.say(f"{name}: reusing {place}")
        return Environment(python=str(python), facts=json.loads(ready.read_text()))
    _require_space(name, recipe, folder)
    voice.say(f"{name}: making {place} with {' '.join(recipe.pins)}; minutes, once")
    # What a run that was cut left behind is not to be mended.
    shutil.rmtree(place, ignore_errors=True)
    for command in commands(recipe, place):
        ended = run(command)
        if ended.returncode:
            shutil.rmtree(place, ignore_errors=True)
            raise RuntimeUnavailableError(
                f"no environment for {name}",
                got=f"`{' '.join(command[1:])}`: {'; '.join(last_lines(ended.stderr))}",
                expected="a package index with those versions",
                remedy=f"make one by hand and name it with --{name}-python",
            )
    facts = {"from": "made", "pins": list(recipe.pins), "packages": _packages(str(python), run)}
    write_json(ready, facts)
    return Environment(python=str(python), facts=facts)


def commands(recipe: Recipe, place: Path) -> list[list[str]]:
    """What makes an environment."""
    pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    return [[sys.executable, "-m", "venv", str(place)], [*pip, "install", "--quiet", *recipe.pins]]


def _require_space(name: str, recipe: Recipe, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < recipe.size_bytes:
        raise RuntimeUnavailableError(
            f"no space for an environment with {name}",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{recipe.size_bytes / 1e9:.0f} GB",
            remedy="name a folder on another disk with --environments",
        )


def _packages(python: str, run: Run) -> dict[str, str]:
    """Name and version of all that is installed; nothing where the interpreter does not answer."""
    try:
        ended = run([python, "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"])
    except OSError:
        return {}
    found = json.loads(ended.stdout) if ended.returncode == 0 else []
    return {package["name"]: package["version"] for package in found}

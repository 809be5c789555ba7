"""What pyproject.toml declares, and what is installed of it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from alexnet_deploy.errors import InputError

ROOT = Path(__file__).parents[1]
OWN = canonicalize_name("alexnet-deploy")
DEV = "dev"
Installed = dict[NormalizedName, metadata.Distribution]


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """One requirement of ours.

    Attributes:
        name: The distribution, normalised.
        extra: The extra that brings it; None for what every installation has.
        requirement: As pyproject.toml writes it.
        lower: The lowest version that it admits.
        upper: The first version that it does not admit any more; None where one version alone is admitted.
    """

    name: NormalizedName
    extra: str | None
    requirement: Requirement
    lower: Version
    upper: Version | None

    def admits(self, version: Version) -> bool:
        """Whether the bounds hold."""
        return self.requirement.specifier.contains(version, prereleases=True)

    @property
    def applies(self) -> bool:
        """Whether the requirement is one on this machine."""
        return self.requirement.marker is None or self.requirement.marker.evaluate()


def dependencies(path: Path = ROOT / "pyproject.toml") -> list[Dependency]:
    """Everything that a pyproject.toml requires, extras and what builds the package included.

    Raises:
        InputError: A requirement lacks a bound.
    """
    document = tomllib.loads(path.read_text())
    project = document["project"]
    found = [_dependency(line, None) for line in project["dependencies"]]
    for extra, lines in project["optional-dependencies"].items():
        found += [_dependency(line, extra) for line in lines]
    return found + [_dependency(line, "build") for line in document["build-system"]["requires"]]


def _dependency(line: str, extra: str | None) -> Dependency:
    requirement = Requirement(line)
    bounds = {specifier.operator: Version(specifier.version) for specifier in requirement.specifier}
    if set(bounds) == {"=="}:
        lower, upper = bounds["=="], None
    elif set(bounds) == {">=", "<"}:
        lower, upper = bounds[">="], bounds["<"]
    else:
        raise InputError(
            f"a requirement of {extra or 'the package'} lacks a bound",
            got=line,
            expected=f"{requirement.name}>=LOWEST,<NEXT, or one version with ==",
            remedy="bound it by the lowest and the highest version that were tried",
        )
    name = canonicalize_name(requirement.name)
    return Dependency(name=name, extra=extra, requirement=requirement, lower=lower, upper=upper)


def installed(path: list[str] | None = None) -> Installed:
    """Every distribution of an environment, of this one by default.

    Raises:
        InputError: One is there twice, so that nobody knows which files are whose.
    """
    found: Installed = {}
    for distribution in metadata.distributions() if path is None else metadata.distributions(path=path):
        name = canonicalize_name(distribution.metadata["Name"])
        # The same folder may stand in sys.path twice; another one of the same name is a leftover.
        if name in found and found[name].locate_file("") == distribution.locate_file(""):
            raise InputError(
                f"{name} is installed twice",
                got=f"{found[name].version} and {distribution.version}",
                expected="one of them",
                remedy="make the environment anew: make clean setup",
            )
        found.setdefault(name, distribution)
    return found


def requirements_of(distribution: metadata.Distribution, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """What an installed distribution requires on this machine, with those of its extras."""
    for line in distribution.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def closure(roots: Iterable[Dependency], environment: Installed) -> set[NormalizedName]:
    """Names of all that an environment holds because of `roots`, themselves included."""
    waiting = [(root.name, frozenset(root.requirement.extras)) for root in roots if root.applies]
    seen: set[tuple[NormalizedName, frozenset[str]]] = set()
    while waiting:
        item = waiting.pop()
        name, extras = item
        if item in seen or name not in environment:
            continue
        seen.add(item)
        for requirement in requirements_of(environment[name], extras):
            waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen}

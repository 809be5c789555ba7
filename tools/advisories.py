"""Known vulnerabilities of what we depend on, in a file of the OSV form, against pins and bounds; no network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from tools.declared import Dependency
from tools.records import Finding

FILE = Path(__file__).with_name("advisories.json")
_FIRST = Version("0.dev0")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Versions from `introduced` up to `end`, which is affected itself where `end_affected`; no end: all later ones."""

    introduced: Version
    end: Version | None
    end_affected: bool

    def holds(self, version: Version) -> bool:
        """Whether a version is affected."""
        if version < self.introduced:
            return False
        return self.end is None or version < self.end or (self.end_affected and version == self.end)

    def meets(self, dependency: Dependency) -> bool:
        """Whether a version that the bounds admit is affected."""
        # The first version that both know, if there is one.
        start = max(self.introduced, dependency.lower)
        return self.holds(start) and (
            start == dependency.lower if dependency.upper is None else start < dependency.upper
        )


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """One package of one record.

    Attributes:
        identifier: The record's own, of GitHub's or PyPA's database.
        aliases: Its CVE numbers.
        package: The distribution.
        ranges: Affected versions.
        summary: What goes wrong.
    """

    identifier: str
    aliases: tuple[str, ...]
    package: NormalizedName
    ranges: tuple[Range, ...]
    summary: str

    def words(self) -> str:
        """For a finding."""
        return f"{self.identifier} ({', '.join(self.aliases)}): {self.summary}"


@dataclass(frozen=True, kw_only=True)
class Advisories:
    """The file: the day on which it was last held against its sources, and what it has."""

    reviewed: str
    records: tuple[Advisory, ...]


def advisories_from_file(path: Path = FILE) -> Advisories:
    """Reads a file of OSV records."""
    document = json.loads(path.read_text())
    return Advisories(
        reviewed=document["reviewed"],
        records=tuple(one for record in document["records"] for one in _advisories(record)),
    )


def _advisories(record: Mapping[str, Any]) -> Iterator[Advisory]:
    for affected in record["affected"]:
        yield Advisory(
            identifier=record["id"],
            aliases=tuple(record["aliases"]),
            package=canonicalize_name(affected["package"]["name"]),
            ranges=tuple(_range(one["events"]) for one in affected["ranges"]),
            summary=record["summary"],
        )


def _range(events: list[dict[str, str]]) -> Range:
    facts = {key: value for event in events for key, value in event.items()}
    introduced = _FIRST if facts["introduced"] == "0" else Version(facts["introduced"])
    end = facts.get("fixed") or facts.get("last_affected")
    return Range(introduced=introduced, end=Version(end) if end else None, end_affected="last_affected" in facts)


def pin_findings(records: Iterable[Advisory], pins: Mapping[NormalizedName, Version], where: str) -> list[Finding]:
    """Pinned or installed versions that are affected."""
    return [
        Finding(subject=f"{one.package} {pins[one.package]} in {where}", problem=one.words())
        for one in records
        if one.package in pins and any(affected.holds(pins[one.package]) for affected in one.ranges)
    ]


def bound_findings(records: Iterable[Advisory], declared: Iterable[Dependency]) -> list[Finding]:
    """Bounds that admit an affected version."""
    declared = list(declared)
    return [
        Finding(subject=f"{dependency.requirement} in pyproject.toml admits", problem=one.words())
        for one in records
        for dependency in declared
        if dependency.name == one.package and any(affected.meets(dependency) for affected in one.ranges)
    ]

"""Compares what is installed with what each distribution says that it installed: the hashes of its RECORD."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tools.declared import OWN, Installed

# Beyond this a file is compared by its size alone, unless all are asked for: libraries of hundreds of megabytes would
# take most of the time, and a changed line of Python is what an intruder and a careless hand leave behind.
LARGE_BYTES = 32 * 2**20
_NOT_RECORDED = ("__pycache__",)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong, and with what."""

    subject: str
    problem: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}"


def record_findings(environment: Installed, *, complete: bool = False) -> tuple[list[Finding], int]:
    """Files that are not as their distribution recorded them, and how many files were compared."""
    findings, compared = [], 0
    for name, distribution in sorted(environment.items()):
        if distribution.files is None:
            findings.append(Finding(subject=name, problem="has no RECORD, so its files are nobody's"))
            continue
        for file in distribution.files:
            if file.hash is None:
                continue
            compared += 1
            problem = _difference(Path(str(distribution.locate_file(file))), file, complete)
            if problem:
                findings.append(Finding(subject=f"{name} {distribution.version}", problem=f"{file} {problem}"))
    return findings, compared


def _difference(path: Path, file: metadata.PackagePath, complete: bool) -> str | None:
    try:
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            return f"has {size} bytes, and {file.size} were installed"
        if size > LARGE_BYTES and not complete:
            return None
        assert file.hash is not None
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, file.hash.mode).digest()
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"
    recorded = base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4))
    return None if digest == recorded else "has other bytes than were installed"


def stray_findings(environment: Installed, folder: Path) -> list[Finding]:
    """Files below a site-packages folder that no distribution recorded: a `.pth` there runs at every start."""
    recorded = {
        Path(str(distribution.locate_file(file)))
        for distribution in environment.values()
        for file in distribution.files or ()
    }
    return [
        Finding(subject=str(path.relative_to(folder)), problem="belongs to no distribution")
        for path in sorted(_files(folder))
        if path not in recorded
    ]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name not in _NOT_RECORDED:
                yield from _files(path)
        else:
            yield path


def origin_findings(environment: Installed) -> list[Finding]:
    """Distributions that came from an address or a folder instead of an index; ours may."""
    findings = []
    for name, distribution in sorted(environment.items()):
        origin = distribution.read_text("direct_url.json")
        if origin and name != OWN:
            address = json.loads(origin).get("url", "?")
            findings.append(Finding(subject=f"{name} {distribution.version}", problem=f"came from {address}"))
    return findings

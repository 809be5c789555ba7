"""Passports: what is known of an artifact, beside it in a file of its own, and how the two are written together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_deploy import __version__
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.files import atomic_path, fill, sha256_of, write_json
from alexnet_deploy.limits import MAX_PASSPORT_BYTES, bounded_json

PASSPORT_SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Passport:
    """What is known of an artifact, beside it as `<name>.json`.

    Attributes:
        kind: checkpoint, onnx, calibration, engine or bench.
        sha256: Hash of the artifact.
        parents: `(path, sha256)` of what it was made from.
        request: Fingerprint of everything that was asked for; the same request reuses the artifact.
        facts: Model, preprocessing, classes, precision, lowering, targets, parity figures and the like.
        tools: Versions of what made it.
    """

    kind: str
    sha256: str
    parents: tuple[tuple[str, str], ...] = ()
    request: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; `digest` is over all the others, so that a changed passport is noticed."""
        values = {
            "schema": PASSPORT_SCHEMA,
            "kind": self.kind,
            "sha256": self.sha256,
            "parents": [{"path": path, "sha256": digest} for path, digest in self.parents],
            "request": self.request,
            "facts": self.facts,
            "tools": self.tools,
        }
        return values | {"digest": _digest_of(values)}


def _digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of a passport as canonical JSON, without its own digest."""
    rest = {key: value for key, value in values.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def passport_path(artifact: Path) -> Path:
    """Where the passport of `artifact` lies."""
    return artifact.with_name(artifact.name + ".json")


def write_artifact(
    artifact: Path,
    data: bytes,
    *,
    kind: str,
    parents: Sequence[Path] = (),
    request: str = "",
    facts: dict[str, Any] | None = None,
    tools: dict[str, str] | None = None,
) -> Passport:
    """Writes a file and its passport, which has the hashes of the file and of its parents.

    The passport comes first, since two files cannot change at once: whatever ends the command in between, the file that
    is there does not match, and is made again. The other way round it would be a file that nobody vouches for.

    Raises:
        ArtifactError: One of them cannot be written.
    """
    with atomic_path(artifact) as temporary:
        fill(temporary, artifact, data)
        passport = Passport(
            kind=kind,
            sha256=sha256_of(temporary),
            parents=tuple((parent.name, sha256_of(parent)) for parent in parents),
            request=request,
            facts=facts or {},
            tools={"alexnet-deploy": __version__, **(tools or {})},
        )
        write_json(passport_path(artifact), passport.to_json())
    return passport


def read_passport(artifact: Path) -> Passport | None:
    """Reads the passport, or None where there is none, it is not one, or it was changed."""
    try:
        values = bounded_json(passport_path(artifact), MAX_PASSPORT_BYTES)
        if values["schema"] != PASSPORT_SCHEMA or values["digest"] != _digest_of(values):
            return None
        return Passport(
            kind=str(values["kind"]),
            sha256=str(values["sha256"]),
            parents=tuple((str(p["path"]), str(p["sha256"])) for p in values["parents"]),
            request=str(values["request"]),
            facts=dict(values["facts"]),
            tools=dict(values["tools"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InputError):
        return None


def matching_passport(artifact: Path) -> Passport | None:
    """The passport of a file that is there and whole; None otherwise."""
    passport = read_passport(artifact) if artifact.is_file() else None
    return passport if passport is not None and passport.sha256 == sha256_of(artifact) else None


def require_passport(artifact: Path, *, because: str) -> Passport:
    """Reads the passport of a file that the user named, and checks the file against it.

    Args:
        artifact: The file.
        because: What the passport is needed for, for the message.

    Raises:
        InputError: There is no such file.
        ArtifactError: It has no passport, a changed one, or its hash is another.
    """
    passport = stated_passport(artifact, because=because)
    require_hash(artifact, passport, sha256_of(artifact))
    return passport


def stated_passport(artifact: Path, *, because: str) -> Passport:
    """Reads the passport of a file that the user named; the file itself is not read.

    Args:
        artifact: The file.
        because: What the passport is needed for, for the message.

    Raises:
        InputError: There is no such file.
        ArtifactError: It has no passport, or a changed one.
    """
    if not artifact.is_file():
        raise InputError(f"{artifact} is not there", remedy="check the path")
    passport = read_passport(artifact)
    if passport is None:
        beside = passport_path(artifact)
        raise ArtifactError(
            f"{artifact} has no passport, which {because}",
            got=f"{beside.name} is damaged, changed, or from another version" if beside.exists() else "none",
            expected=f"a readable {beside.name} beside it",
            remedy="make it with this tool, or copy its passport along with it",
        )
    return passport


def require_hash(artifact: Path, passport: Passport, digest: str) -> None:
    """Holds a file's hash against its passport.

    Raises:
        ArtifactError: It is another.
    """
    if digest != passport.sha256:
        raise ArtifactError(
            f"{artifact} is not the file its passport describes",
            got=f"sha256 {digest}",
            expected=f"sha256 {passport.sha256}",
            remedy="make it again, or copy file and passport together",
        )

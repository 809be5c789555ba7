"""Files that the stages hand to each other: written whole, hashed, and with a passport beside them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from alexnet_deploy import __version__
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.limits import MAX_PASSPORT_BYTES, bounded_json

_CHUNK_BYTES = 1 << 20
PASSPORT_SCHEMA = 2


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; read once for as long as its size, time and inode stay the same."""
    status = path.stat()
    return _sha256_of(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256_of(path: Path, *_identity: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder, which becomes `path` when the block ends well.

    A reader sees the old file or the new one, never half of one; on an error nothing is left behind.

    Raises:
        ArtifactError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as exc:
        raise _cannot_write(path, exc) from exc
    temporary = Path(name)
    try:
        yield temporary
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Makes the folder and checks that a file can be written there: before the work, not after it.

    Raises:
        ArtifactError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".probe", dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as exc:
        raise _cannot_write(folder, exc) from exc


def _publish(temporary: Path, path: Path) -> None:
    try:
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        raise _cannot_write(path, exc) from exc


def _cannot_write(path: Path, exc: OSError) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be written", got=exc.strerror or exc, remedy="name another folder with --workdir or --output"
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole."""
    with atomic_path(path) as temporary:
        try:
            temporary.write_bytes(data)
        except OSError as exc:
            raise _cannot_write(path, exc) from exc


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON document whole."""
    write_bytes(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


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


def write_passport(
    artifact: Path,
    *,
    kind: str,
    parents: Sequence[Path] = (),
    request: str = "",
    facts: dict[str, Any] | None = None,
    tools: dict[str, str] | None = None,
) -> Passport:
    """Hashes `artifact` and writes its passport."""
    passport = Passport(
        kind=kind,
        sha256=sha256_of(artifact),
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


def fits(artifact: Path, request: str) -> bool:
    """Whether `artifact` is there, whole, and was made for this request."""
    passport = matching_passport(artifact)
    return passport is not None and passport.request == request


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

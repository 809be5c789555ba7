"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import ArtifactError

_CHUNK_BYTES = 1 << 20
# Of a temporary file: `.alexnet.onnx.k3j5h2l1.partial.onnx`. A name may have 255 bytes in all.
_PARTIAL = re.compile(r"\..+\.\w{8}\.partial(\.[^.]*)?")
_LONGEST_PREFIX = 100


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

    A reader sees the old file or the new one, never half of one; on an error nothing is left behind. What a process
    left that was killed is removed by the next one that writes into the folder.

    Raises:
        ArtifactError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        handle, temporary = _temporary(path)
    except OSError as exc:
        raise cannot_write(path, exc) from exc
    try:
        yield temporary
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _temporary(path: Path) -> tuple[int, Path]:
    """A new file that is locked for as long as its handle is open: whoever can lock it knows that it was left."""
    while True:
        prefix = f".{path.name[:_LONGEST_PREFIX]}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=f".partial{path.suffix}", dir=path.parent)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        if is_at(handle, Path(name)):
            return handle, Path(name)
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Removes temporary files that nobody writes any more."""
    with os.scandir(folder) as entries:
        names = [entry.path for entry in entries if _PARTIAL.fullmatch(entry.name)]
    for name in names:
        with contextlib.suppress(OSError):
            handle = os.open(name, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name)
            finally:
                os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


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
        raise cannot_write(path, exc) from exc


def require_writable(folder: Path) -> None:
    """Makes the folder and checks that a file can be written there: before the work, not after it.

    Raises:
        ArtifactError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".probe.", suffix=".partial", dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as exc:
        raise cannot_write(folder, exc) from exc


def cannot_write(path: Path, exc: OSError) -> ArtifactError:
    """The error of a file that could not be written."""
    full = exc.errno in {errno.ENOSPC, errno.EDQUOT}
    return ArtifactError(
        f"{path} cannot be written",
        got=exc.strerror or exc,
        remedy="make room there, or name another folder with --workdir or --output"
        if full
        else "name another folder with --workdir or --output",
    )


def fill(temporary: Path, path: Path, data: bytes) -> None:
    """Writes into the temporary file of `path`.

    Raises:
        ArtifactError: It cannot be written; the disk is full, say.
    """
    try:
        temporary.write_bytes(data)
    except OSError as exc:
        raise cannot_write(path, exc) from exc


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole."""
    with atomic_path(path) as temporary:
        fill(temporary, path, data)


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON document whole."""
    write_bytes(path, json_bytes(values))


def json_bytes(values: Any) -> bytes:
    """A JSON document as it is written."""
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()

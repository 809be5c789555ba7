"""Files that travel with a job, so that no node needs a disk that it shares with another."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.files import cannot_write, is_at, sha256_of, write_bytes
from alexnet_deploy.limits import MAX_ENGINE_BYTES, bounded_bytes

# Of at most 250 MB each: a node's disk holds one gigabyte of them.
KEPT = 4
_BUNDLE = re.compile(r"[0-9a-f]{64}")


def packed_files(paths: Sequence[Path]) -> dict[str, bytes]:
    """The content of files by their names.

    Raises:
        ArtifactError: One cannot be read.
    """
    try:
        return {path.name: bounded_bytes(path, MAX_ENGINE_BYTES) for path in paths}
    except OSError as exc:
        raise ArtifactError(f"{exc.filename} cannot be read", got=exc.strerror or exc) from exc


@contextlib.contextmanager
def unpacked_files(files: Mapping[str, bytes], folder: Path) -> Iterator[Path]:
    """Writes files below `folder`, in one that is called by their content; those that are there are left alone.

    They stay as long as the block runs. Afterwards the `KEPT` that were used last stay, to be found again, and whoever
    comes next removes the others.

    Yields:
        The folder that holds them.

    Raises:
        ArtifactError: They cannot be written.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    own = folder / hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()
    with _held(own):
        for name, data in files.items():
            path = own / name
            if not path.is_file() or sha256_of(path) != digests[name]:
                write_bytes(path, data)
        os.utime(own)
        _forget(folder)
        yield own


@contextlib.contextmanager
def _held(own: Path) -> Iterator[None]:
    """Makes a folder that nobody removes before the block ends. The lock is the kernel's, and goes with the process."""
    while True:
        try:
            own.mkdir(parents=True, exist_ok=True)
            handle = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            # Removed between the two.
            continue
        except OSError as exc:
            raise cannot_write(own, exc) from exc
        # Where the file system has no locks, nothing is removed either.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        if is_at(handle, own):
            break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _forget(folder: Path) -> None:
    """Removes the bundles that nobody holds, but those that were used last."""
    found = []
    for path in folder.iterdir():
        # Another worker may be removing them too.
        with contextlib.suppress(FileNotFoundError):
            if _BUNDLE.fullmatch(path.name) and not path.is_symlink():
                found.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(found, reverse=True)[KEPT:]:
        # What cannot be removed now is tried again by the next worker.
        with contextlib.suppress(OSError):
            _remove(path)


def _remove(bundle: Path) -> None:
    handle = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in bundle.iterdir():
            path.unlink()
        bundle.rmdir()
    finally:
        os.close(handle)


def private_folder() -> Path:
    """Where this user's files lie on a node; nobody else can have put any there.

    Raises:
        ArtifactError: Somebody else has that name, or it cannot be made.
    """
    folder = Path(tempfile.gettempdir()) / f"alexnet-deploy-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as exc:
        raise cannot_write(folder, exc) from exc
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ArtifactError(
            f"{folder} is not this user's alone",
            got=f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):03o}",
            expected=f"a folder of user {os.getuid()}, mode 700",
            remedy="remove it on that node, or set TMPDIR there",
        )
    return folder

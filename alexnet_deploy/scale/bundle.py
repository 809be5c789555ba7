"""Files that travel with a job, so that no node needs a disk that it shares with another."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.files import cannot_write, sha256_of, write_bytes
from alexnet_deploy.limits import MAX_ENGINE_BYTES, bounded_bytes


def packed_files(paths: Sequence[Path]) -> dict[str, bytes]:
    """The content of files by their names.

    Raises:
        ArtifactError: One cannot be read.
    """
    try:
        return {path.name: bounded_bytes(path, MAX_ENGINE_BYTES) for path in paths}
    except OSError as exc:
        raise ArtifactError(f"{exc.filename} cannot be read", got=exc.strerror or exc) from exc


def unpacked_files(files: Mapping[str, bytes], folder: Path) -> Path:
    """Writes files below `folder`, in one that is called by their content; those that are there are left alone.

    Returns:
        The folder that holds them.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    own = folder / hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()
    for name, data in files.items():
        path = own / name
        if not path.is_file() or sha256_of(path) != digests[name]:
            write_bytes(path, data)
    return own


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

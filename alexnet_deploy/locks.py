"""Locks of the files that several commands may want to write: one makes it, the others wait and say for whom."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import cannot_write, is_at
from alexnet_deploy.limits import bounded_json
from alexnet_deploy.progress import SILENT, Voice

_SECONDS_BETWEEN_TRIES = 0.1
_LONGEST_BYTES = 4096
# What a file system answers that has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def lock_path(path: Path) -> Path:
    """Where the lock of a file lies while somebody holds it."""
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def locked(path: Path, voice: Voice = SILENT) -> Iterator[None]:
    """Holds the lock of a file, so that one command makes it and the others wait for that one.

    The lock is the kernel's: it goes with the process that held it, however that one ended, and the file that is left
    says nothing. Its content is for people.

    Args:
        path: The file that is going to be written.
        voice: Hears who is waited for, and where the file system has no locks.

    Raises:
        ArtifactError: The folder cannot be written.
    """
    lock = lock_path(path)
    handle = _acquired(lock, path, voice)
    try:
        yield
    finally:
        if handle is not None:
            lock.unlink(missing_ok=True)
            os.close(handle)


def _acquired(lock: Path, path: Path, voice: Voice) -> int | None:
    told = False
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as exc:
            raise cannot_write(path, exc) from exc
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one before may have removed it in the meantime: a lock on a file that is gone keeps nobody out.
            if is_at(handle, lock):
                os.ftruncate(handle, 0)
                os.write(handle, json.dumps(_owner()).encode())
                return handle
        except BlockingIOError:
            if not told:
                voice.warn(f"waiting for {_owner_text(lock)}, which is making {path}")
            told = True
            time.sleep(_SECONDS_BETWEEN_TRIES)
        except OSError as exc:
            lock.unlink(missing_ok=True)
            os.close(handle)
            if exc.errno not in _NO_LOCKS:
                raise cannot_write(path, exc) from exc
            voice.warn(f"{path.parent} is on a file system without locks: run one command at a time there")
            return None
        os.close(handle)


def _owner() -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
    return {
        "command": command,
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "since": datetime.now(UTC).isoformat(),
    }


def _owner_text(lock: Path) -> str:
    try:
        owner = bounded_json(lock, _LONGEST_BYTES)
        age = (datetime.now(UTC) - datetime.fromisoformat(owner["since"])).total_seconds()
        return f"{owner['command']} (process {owner['pid']} on {owner['host']}, for {max(age, 0):.0f} s)"
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return "another command"

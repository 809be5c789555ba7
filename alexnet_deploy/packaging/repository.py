"""A model's folder in a repository, written whole or not at all, and known again by its manifest."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.files import cannot_write, json_bytes, sha256_of
from alexnet_deploy.limits import MAX_PASSPORT_BYTES, bounded_json
from alexnet_deploy.locks import locked
from alexnet_deploy.progress import SILENT, Voice

MANIFEST = "package.json"
MANIFEST_SCHEMA = 1
_PARTIAL, _NEW, _OLD, _PROBE = ".partial", "new", "old", "probe"
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
# Bytes, or a file to copy.
Content = bytes | Path


@dataclass(frozen=True, kw_only=True)
class Written:
    """A model's folder.

    Attributes:
        reused: Whether it was there already, with the same content.
        aside: Where what was there before lies, where --force put it away.
    """

    folder: Path
    reused: bool
    aside: Path | None = None


def write_model(
    folder: Path,
    files: Mapping[str, Content],
    known: Mapping[str, Any],
    *,
    force: bool = False,
    voice: Voice = SILENT,
) -> Written:
    """Makes the folder, or finds it again: the same files are the same package.

    A folder that this tool wrote and nobody touched is replaced. Anything else is left alone, or with `force` put
    beside the repository. It is made beside the repository and not inside, where a running server would take it for a
    model.

    Args:
        folder: The model's, in the repository.
        files: By path inside it.
        known: What the manifest says besides the files' hashes.
        force: Replace whatever is there.
        voice: Hears who is waited for.

    Raises:
        InputError: Something else is there.
        ArtifactError: It cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise cannot_write(folder, exc) from exc
    with locked(folder, voice):
        return _written(folder, files, known, force=force)


def _written(folder: Path, files: Mapping[str, Content], known: Mapping[str, Any], *, force: bool) -> Written:
    hashes = {name: _hash_of(content) for name, content in sorted(files.items())}
    manifest = {"schema": MANIFEST_SCHEMA, **known, "files": hashes}
    present = os.path.lexists(folder)
    wrong = _wrong_with(folder) if present else None
    if present and wrong is None and _manifest(folder) == manifest:
        return Written(folder=folder, reused=True)
    if wrong is not None and not force:
        raise InputError(
            f"{folder} is there, and is not as this tool left it",
            got=wrong,
            expected="a package of this tool that nobody changed, or nothing",
            remedy="name another with --name or --output, or --force, which puts what is there beside the repository",
        )
    try:
        with _staging(folder) as staging:
            new = staging / _NEW
            for name, content in {**files, MANIFEST: json_bytes(manifest)}.items():
                _put(new / name, content)
            for each in [*(path for path in new.rglob("*") if path.is_dir()), new]:
                _sync(each)
            aside = _aside(folder) if wrong is not None else None
            _publish(new, folder, aside or staging / _OLD)
    except OSError as exc:
        raise cannot_write(folder, exc) from exc
    return Written(folder=folder, reused=False, aside=aside)


def _hash_of(content: Content) -> str:
    return sha256_of(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        found = bounded_json(folder / MANIFEST, MAX_PASSPORT_BYTES)
    except (OSError, ValueError, InputError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None


def _wrong_with(folder: Path) -> str | None:
    """What is not as this tool wrote it; None where all is."""
    if folder.is_symlink() or not folder.is_dir():
        return "a file or a link"
    manifest = _manifest(folder)
    if manifest is None:
        return f"no {MANIFEST} of this tool"
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    for name in sorted(there ^ {*manifest["files"], MANIFEST}):
        return f"{name} was {'added' if name in there else 'removed'}"
    for name, digest in manifest["files"].items():
        if (folder / name).is_symlink() or sha256_of(folder / name) != digest:
            return f"{name} was changed"
    return None


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside the repository that goes when the block ends; those of killed commands go first.

    The lock of `folder` is held, so that whatever bears its name was left.

    Raises:
        ArtifactError: There is no place beside the repository from which a folder can be renamed into it.
    """
    repository = folder.parent.resolve()
    home = repository.parent
    if home == repository:
        raise _no_place(repository, "the root of all folders")
    prefix = f".{repository.name}.{folder.name}."
    for left in home.glob(f"{_literal(prefix)}????????{_PARTIAL}"):
        _remove(left)
    for probe in repository.glob(f"{_literal(prefix)}????????{_PARTIAL}.{_PROBE}"):
        probe.unlink(missing_ok=True)
    try:
        path = Path(tempfile.mkdtemp(prefix=prefix, suffix=_PARTIAL, dir=home))
    except OSError as exc:
        if exc.errno not in _NOT_WRITABLE:
            raise
        raise _no_place(repository, f"{home} cannot be written: {exc.strerror}") from exc
    try:
        _require_renames(path, repository)
        yield path
    finally:
        _remove(path)


def _require_renames(staging: Path, repository: Path) -> None:
    """Tries it with a file, of which a server makes no model: of bind mounts nothing else tells."""
    probe = staging / _PROBE
    probe.touch()
    there = repository / f"{staging.name}.{_PROBE}"
    try:
        os.rename(probe, there)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        raise _no_place(repository, "a mount point, into which nothing can be renamed") from exc
    there.unlink()


def _no_place(repository: Path, got: str) -> ArtifactError:
    return ArtifactError(
        f"there is no place beside {repository} to make a package in",
        got=got,
        expected="a repository in a folder that can be written: whatever lies inside one, a server takes for a model",
        remedy=f"name a folder in it as the repository (--output {repository / 'models'}), to tritonserver too",
    )


def _literal(text: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def _remove(folder: Path) -> None:
    """Of this module's own making: files and folders, and links as links."""
    for root, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(root, name))
        for name in folders:
            path = os.path.join(root, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()


def _put(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside(folder: Path) -> Path:
    """A free name beside the repository."""
    repository = folder.parent.resolve()
    for number in range(1, 1000):
        path = repository.parent / f"{repository.name}.{folder.name}.before-{number}"
        if not os.path.lexists(path):
            return path
    raise ArtifactError(
        f"{repository.parent} holds a thousand packages that were put away", remedy="remove some of them"
    )


def _publish(new: Path, folder: Path, old: Path) -> None:
    """Two renames where something is there: for the moment between them the model is missing, and never mixed."""
    present = os.path.lexists(folder)
    if present:
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if present:
            os.rename(old, folder)
        raise
    _sync(folder.parent)

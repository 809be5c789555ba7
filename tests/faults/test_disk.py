"""A disk that is full, or may not be written, is an error that says so, and costs nothing that was there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Driver, content, copy_of

NOBODY = 65534
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system or become somebody else")
COMMANDS: dict[str, tuple[object, ...]] = {
    "export": ("export",),
    "export-fp16": ("export", "--precision", "fp16", "--target", "tensorrt-rtx"),
    "calibrate": ("calibrate", "--images", 16),
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount command")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run([umount, "--lazy", folder], check=True)


def fill_up(folder: Path, free_bytes: int) -> Path:
    """A file that leaves so much room."""
    status = os.statvfs(folder)
    filler = folder / "filler"
    filler.write_bytes(b"\0" * max(status.f_bavail * status.f_frsize - free_bytes, 0))
    return filler


def let_everybody_read(folder: Path, checkpoint: Path) -> None:
    """Whatever the umask is."""
    for path in (folder, *folder.parents, checkpoint, checkpoint.parent, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


def assert_said(err: str, *words: str) -> None:
    assert "Traceback" not in err, err
    assert err.startswith("error: "), err
    for word in ("got:", "remedy:", *words):
        assert word in err, err


@ROOT_ONLY
@pytest.mark.parametrize("free_bytes", [0, 8192, 200_000])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(name: str, free_bytes: int, driver: Driver, small_checkpoint: Path, small_disk: Path) -> None:
    work = small_disk / "work"
    command = [*COMMANDS[name], "--model", small_checkpoint, "--workdir", work, "--quiet"]
    if name != "export":
        assert driver(work, "export", "--model", small_checkpoint, "--workdir", work, "--quiet").code == 0
    before = content(work) if work.exists() else {}
    filler = fill_up(small_disk, free_bytes)
    ended = driver(work, *command)
    if ended.code:
        assert ended.code == 1, ended.err
        assert_said(ended.err, "No space left on device", "make room")
        assert {path: data for path, data in content(work).items() if path in before} == before
        assert not [path for path in content(work) if ".partial" in path or path.endswith(".lock")]
    else:
        assert free_bytes, "nothing can be written on a full disk"
    filler.unlink()
    assert driver(work, *command).code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_limit_on_the_size_of_files(name: str, driver: Driver, small_checkpoint: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [*COMMANDS[name], "--model", small_checkpoint, "--workdir", work, "--quiet"]
    ended = driver(work, *command, file_bytes=1024)
    assert ended.code == 1
    assert_said(ended.err, "File too large")
    assert not [path for path in content(work) if ".partial" in path or path.endswith(".lock")]
    assert driver(work, *command).code == 0


@ROOT_ONLY
@pytest.mark.parametrize("name", [*COMMANDS, "build-engine"])
def test_a_folder_that_may_not_be_written(name: str, driver: Driver, small_checkpoint: Path, tmp_path: Path) -> None:
    """As another user, since root may write everywhere. What is there already can still be used."""
    work = tmp_path / "work"
    words = COMMANDS.get(name, ("build-engine", "--fp16", "--backend", "tensorrt-rtx", "--sm", 89))
    command = [*words, "--model", small_checkpoint, "--workdir", work, "--quiet"]
    work.mkdir()
    let_everybody_read(tmp_path, small_checkpoint)
    ended = driver(work, *command, user=NOBODY)
    assert ended.code == 1
    assert_said(ended.err, "Permission denied", "--workdir")
    assert not content(work)
    if name == "build-engine":
        pytest.importorskip("tensorrt_rtx")
    assert driver(work, *command).code == 0
    let_everybody_read(tmp_path, small_checkpoint)
    before = content(work)
    again = driver(work, *command, user=NOBODY)
    assert again.code == 0, again.err
    assert content(work) == before


@ROOT_ONLY
def test_a_folder_that_can_be_read_only_in_part(driver: Driver, small_checkpoint: Path, tmp_path: Path) -> None:
    """An artifact that may not be read is an error with its name, and not one of Python's."""
    work = copy_of(tmp_path / "nothing", tmp_path / "work")
    command = ["export", "--model", small_checkpoint, "--workdir", work, "--quiet"]
    assert driver(work, *command).code == 0
    let_everybody_read(tmp_path, small_checkpoint)
    (work / "alexnet.onnx").chmod(0o600)
    ended = driver(work, *command, user=NOBODY)
    assert ended.code == 1
    assert_said(ended.err, "alexnet.onnx", "Permission denied")

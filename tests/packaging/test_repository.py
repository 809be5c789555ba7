"""A model's folder appears whole, is known again, and nobody's work is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.packaging.repository import MANIFEST, Content, Written, write_model

KNOWN = {"kind": "test"}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"graph")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "repository" / "model"


def files(artifact: Path, config: bytes = b"name") -> dict[str, Content]:
    return {"1/model.onnx": artifact, "config.pbtxt": config}


def write(folder: Path, artifact: Path, config: bytes = b"name", *, force: bool = False) -> Written:
    return write_model(folder, files(artifact, config), KNOWN, force=force)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_files_are_there_and_the_manifest_has_their_hashes(folder: Path, artifact: Path) -> None:
    assert write(folder, artifact) == Written(folder=folder, reused=False)
    found = tree(folder)
    manifest = json.loads(found.pop(MANIFEST))
    assert found == {"1/model.onnx": b"graph", "config.pbtxt": b"name"}
    assert manifest["kind"] == "test" and set(manifest["files"]) == set(found)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert {path.name for path in folder.parent.parent.iterdir()} == {"repository", "graph.onnx"}
    assert oct(folder.stat().st_mode & 0o777) == oct(folder.parent.stat().st_mode & 0o777)


def test_the_same_package_is_found_again_and_left_alone(folder: Path, artifact: Path) -> None:
    write(folder, artifact)
    before = folder.stat().st_ino
    assert write(folder, artifact).reused
    assert folder.stat().st_ino == before


def test_another_package_of_ours_is_replaced(folder: Path, artifact: Path) -> None:
    write(folder, artifact)
    assert write(folder, artifact, b"other") == Written(folder=folder, reused=False)
    assert tree(folder)["config.pbtxt"] == b"other"
    assert {path.name for path in folder.parent.parent.iterdir()} == {"repository", "graph.onnx"}


def change(folder: Path) -> None:
    (folder / "config.pbtxt").write_bytes(b"mine")


def add(folder: Path) -> None:
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").write_bytes(b"newer")


def remove(folder: Path) -> None:
    (folder / "config.pbtxt").unlink()


def link(folder: Path) -> None:
    (folder / "config.pbtxt").rename(folder.parent / "elsewhere")
    (folder / "config.pbtxt").symlink_to(folder.parent / "elsewhere")


def forget(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


TOUCHED = {
    "config.pbtxt was changed": change,
    "2/model.onnx was added": add,
    "config.pbtxt was removed": remove,
    "config.pbtxt was changed (link)": link,
    f"no {MANIFEST} of this tool": forget,
}


@pytest.mark.parametrize("words", TOUCHED)
def test_what_somebody_touched_is_refused_and_with_force_put_aside(words: str, folder: Path, artifact: Path) -> None:
    write(folder, artifact)
    TOUCHED[words](folder)
    before = tree(folder)
    with pytest.raises(InputError) as caught:
        write(folder, artifact, b"other")
    assert caught.value.got == words.removesuffix(" (link)")
    assert tree(folder) == before
    written = write(folder, artifact, b"other", force=True)
    assert written.aside == folder.parent.parent / "repository.model.before-1"
    assert tree(written.aside) == before
    assert tree(folder)["config.pbtxt"] == b"other"


def test_a_changed_copy_is_not_taken_for_the_same(folder: Path, artifact: Path) -> None:
    """Neither where the files that were asked for are the ones that were written."""
    write(folder, artifact)
    (folder / "1" / "model.onnx").write_bytes(b"grown")
    with pytest.raises(InputError, match="not as this tool left it"):
        write(folder, artifact)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_in_the_way_is_refused_and_put_aside(kind: str, folder: Path, artifact: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("note") if kind == "file" else folder.symlink_to(folder.parent)
    with pytest.raises(InputError) as caught:
        write(folder, artifact)
    assert caught.value.got == "a file or a link"
    written = write(folder, artifact, force=True)
    assert written.aside is not None and os.path.lexists(written.aside)
    assert tree(folder)["config.pbtxt"] == b"name"


def test_two_that_are_put_aside_have_names_of_their_own(folder: Path, artifact: Path) -> None:
    write(folder, artifact)
    for number in (1, 2):
        change(folder)
        written = write(folder, artifact, force=True)
        assert written.aside is not None and written.aside.name == f"repository.model.before-{number}"


def test_a_copy_that_fails_leaves_what_was_there(folder: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, artifact)
    before = tree(folder)

    def full(_source: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ArtifactError, match="cannot be written") as caught:
        write(folder, artifact, b"other")
    assert "make room" in str(caught.value.remedy)
    assert tree(folder) == before
    assert {path.name for path in folder.parent.parent.iterdir()} == {"repository", "graph.onnx"}


def test_a_rename_that_fails_puts_the_old_one_back(
    folder: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, artifact)
    before = tree(folder)
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(ArtifactError):
        write(folder, artifact, b"other")
    assert tree(folder) == before


@pytest.fixture
def mounted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository is a mount point: nothing is renamed into it or out of it, whatever device it says it is on."""
    rename = os.rename

    def bound(source: Path, target: Path) -> None:
        inside = [Path(path).resolve().is_relative_to(folder.parent) for path in (source, target)]
        if inside[0] != inside[1]:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    folder.parent.mkdir()
    monkeypatch.setattr(os, "rename", bound)


@pytest.mark.usefixtures("mounted")
def test_a_repository_that_is_a_mount_point_is_refused_and_a_folder_in_it_is_not(folder: Path, artifact: Path) -> None:
    with pytest.raises(ArtifactError, match="no place beside") as caught:
        write(folder, artifact)
    assert "a mount point" in str(caught.value.got)
    assert f"--output {folder.parent / 'models'}" in str(caught.value.remedy)
    assert list(folder.parent.iterdir()) == []
    assert {path.name for path in folder.parent.parent.iterdir()} == {"repository", "graph.onnx"}
    inner = folder.parent / "models" / "model"
    write(inner, artifact)
    change(inner)
    aside = write(inner, artifact, force=True).aside
    assert aside == folder.parent / "models.model.before-1" and aside.is_dir()


@pytest.mark.usefixtures("mounted")
def test_nothing_is_put_aside_out_of_a_mount_point(folder: Path, artifact: Path) -> None:
    folder.mkdir()
    (folder / "config.pbtxt").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="no place beside"):
        write(folder, artifact, force=True)
    assert tree(folder.parent) == {"model/config.pbtxt": b"mine"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_repository_in_a_folder_that_cannot_be_written_is_refused(
    folder: Path, artifact: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_arguments: Any) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    with pytest.raises(ArtifactError, match="no place beside") as caught:
        write(folder, artifact)
    assert str(folder.parent.parent) in str(caught.value.got)
    assert list(folder.parent.iterdir()) == []


def test_what_a_killed_command_left_is_removed(folder: Path, artifact: Path) -> None:
    left = folder.parent.parent / ".repository.model.abcdefgh.partial"
    (left / "new" / "1").mkdir(parents=True)
    (left / "new" / "1" / "model.onnx").write_bytes(b"half")
    (left / "new" / "link").symlink_to(artifact.parent)
    others = folder.parent.parent / ".repository.another.abcdefgh.partial"
    others.mkdir()
    write(folder, artifact)
    assert not left.exists() and others.exists() and artifact.exists()


def test_a_repository_is_made_in_the_folder_at_hand(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(Path("model"), artifact)
    assert set(tree(tmp_path / "here" / "model")) == {"1/model.onnx", "config.pbtxt", MANIFEST}
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["model"]

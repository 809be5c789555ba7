"""Files arrive as they were, in a folder that is called by their content and is this user's alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from alexnet_deploy.artifacts import passport_path, write_artifact
from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.scale.bundle import packed_files, private_folder, unpacked_files
from alexnet_deploy.scale.jobs import artifact_files


def test_files_arrive_under_their_names_and_are_written_once(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"graph")
    (tmp_path / "a.onnx.json").write_bytes(b"passport")
    files = packed_files([tmp_path / "a.onnx", tmp_path / "a.onnx.json"])
    folder = unpacked_files(files, tmp_path / "there")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    before = (folder / "a.onnx").stat().st_mtime_ns
    assert unpacked_files(files, tmp_path / "there") == folder
    assert (folder / "a.onnx").stat().st_mtime_ns == before


def test_a_file_that_was_changed_there_is_written_again(tmp_path: Path) -> None:
    files = {"a.onnx": b"graph"}
    folder = unpacked_files(files, tmp_path)
    (folder / "a.onnx").write_bytes(b"other")
    assert (unpacked_files(files, tmp_path) / "a.onnx").read_bytes() == b"graph"
    assert unpacked_files({"a.onnx": b"other"}, tmp_path) != folder


def test_an_artifact_travels_with_its_passport_and_an_engine_with_its_graph(tmp_path: Path) -> None:
    graph, engine, plain = tmp_path / "a.onnx", tmp_path / "a.engine", tmp_path / "b.onnx"
    write_artifact(graph, b"graph", kind="onnx")
    write_artifact(engine, b"engine", kind="engine", parents=[graph])
    plain.write_bytes(b"x")
    assert artifact_files(plain) == (plain,)
    assert artifact_files(graph) == (graph, passport_path(graph))
    assert artifact_files(engine) == (engine, passport_path(engine), graph)


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = private_folder()
    assert folder.parent == tmp_path and private_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(ArtifactError, match="alone") as caught:
        private_folder()
    assert "777" in str(caught.value.got)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="alone"):
        private_folder()

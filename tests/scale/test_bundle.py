"""Files arrive as they were, in a folder that is called by their content and is this user's alone."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from alexnet_deploy.artifacts import passport_path, write_artifact
from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.scale.bundle import KEPT, packed_files, private_folder, unpacked_files
from alexnet_deploy.scale.jobs import artifact_files


def test_files_arrive_under_their_names_and_are_written_once(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"graph")
    (tmp_path / "a.onnx.json").write_bytes(b"passport")
    files = packed_files([tmp_path / "a.onnx", tmp_path / "a.onnx.json"])
    with unpacked_files(files, tmp_path / "there") as folder:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    before = (folder / "a.onnx").stat().st_mtime_ns
    with unpacked_files(files, tmp_path / "there") as again:
        assert again == folder
    assert (folder / "a.onnx").stat().st_mtime_ns == before


def test_a_file_that_was_changed_there_is_written_again(tmp_path: Path) -> None:
    files = {"a.onnx": b"graph"}
    with unpacked_files(files, tmp_path) as folder:
        (folder / "a.onnx").write_bytes(b"other")
    with unpacked_files(files, tmp_path) as again:
        assert (again / "a.onnx").read_bytes() == b"graph"
    with unpacked_files({"a.onnx": b"other"}, tmp_path) as another:
        assert another != folder


def bundle(number: int, folder: Path) -> Path:
    """Used at a moment of its own."""
    with unpacked_files({"a.onnx": str(number).encode()}, folder) as own:
        pass
    os.utime(own, ns=(number, number))
    return own


def test_the_bundles_that_were_used_last_stay_and_others_go(tmp_path: Path) -> None:
    (tmp_path / "another's").mkdir()
    found = [bundle(number, tmp_path) for number in range(KEPT + 3)]
    # Each is the newest as long as it is used.
    left = [found[number] for number in (*range(4, KEPT + 3), KEPT + 2)]
    assert {path for path in tmp_path.iterdir() if path.name != "another's"} == {*left, found[3]}
    # Found again, it is the newest.
    bundle(3, tmp_path)
    assert (found[3] / "a.onnx").read_bytes() == b"3" and (tmp_path / "another's").is_dir()


def test_a_bundle_that_a_worker_holds_stays_and_goes_with_the_worker(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys; from alexnet_deploy.scale.bundle import unpacked_files\n"
        "with unpacked_files({'a.onnx': b'held'}, pathlib.Path(sys.argv[1])) as own:\n"
        "    print(own, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        os.utime(held, ns=(0, 0))
        for number in range(1, KEPT + 2):
            bundle(number, tmp_path)
        assert (held / "a.onnx").read_bytes() == b"held"
        process.kill()
    bundle(KEPT + 2, tmp_path)
    assert not held.exists()


def test_a_bundle_that_is_removed_while_it_is_asked_for_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = fcntl.flock, list[Path]()

    def late(handle: int, kind: int) -> None:
        if kind == fcntl.LOCK_SH and not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].rmdir()
        lock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with unpacked_files({"a.onnx": b"graph"}, tmp_path) as own:
        assert removed == [own] and (own / "a.onnx").read_bytes() == b"graph"


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

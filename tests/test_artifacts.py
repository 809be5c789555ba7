"""Artifacts are whole or absent, and a passport vouches for one file and one request."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy import __version__
from alexnet_deploy.artifacts import (
    Passport,
    matching_passport,
    passport_path,
    read_passport,
    require_passport,
    write_artifact,
)
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.files import atomic_path, sha256_of, write_bytes, write_json
from tests.passports import write_passport


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_passport(folder: Path, data: bytes = b"engine", request: str = "abc") -> Path:
    path = folder / "a.engine"
    write_bytes(path, data)
    write_passport(path, kind="engine", request=request)
    return path


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_hash_is_sha256_across_the_pieces_it_is_read_in(size: int, tmp_path: Path) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "x").write_bytes(data[:size])
    assert sha256_of(tmp_path / "x") == hashlib.sha256(data[:size]).hexdigest()


def test_a_file_is_written_into_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "x.bin"
    write_bytes(path, b"data")
    assert path.read_bytes() == b"data"
    assert names(path.parent) == ["x.bin"]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half of the ne")
        assert path.read_bytes() == b"old"
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_an_interruption_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "x.bin") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_the_temporary_path_keeps_the_suffix_that_writers_go_by(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "curve.svg") as temporary:
        assert temporary.suffix == ".svg"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"<svg/>")
    assert (tmp_path / "curve.svg").read_bytes() == b"<svg/>"


def test_a_full_disk_is_an_artifact_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def full(_self: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtifactError, match="cannot be written") as caught:
        write_bytes(path, b"new")
    assert caught.value.got == "No space left on device"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_a_rename_that_fails_is_an_artifact_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def refuse(_source: Path, _target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("inside", ["x.bin", "below/x.bin"])
def test_a_file_where_the_folder_should_be_is_an_artifact_error(inside: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ArtifactError, match="cannot be written") as caught:
        write_bytes(tmp_path / "taken" / inside, b"data")
    assert caught.value.remedy is not None
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_folder_where_the_file_should_be_is_an_artifact_error(tmp_path: Path) -> None:
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_bytes(tmp_path / "x.bin", b"data")
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_of_any_new_file(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    left = [".a.onnx.k3j5h2l1.partial.onnx", ".b.k3j5h2l1.partial", ".c.s.k3j5h2l1.partial.training-state"]
    kept = [".a.onnx", ".c.partial", "a.k3j5h2l1.partial", ".c.short.partial.onnx", ".k3j5h2l1.partial.d"]
    for name in left + kept:
        (tmp_path / name).write_bytes(b"half")
    with atomic_path(tmp_path / "x.bin") as outer:
        write_bytes(tmp_path / "y.bin", b"y")
        outer.write_bytes(b"x")
    assert names(tmp_path) == sorted([*kept, "x.bin", "y.bin"])


def test_a_name_as_long_as_they_may_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".svg")
    write_bytes(path, b"x")
    assert names(tmp_path) == [path.name]


def test_no_handle_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        write_bytes(tmp_path / "x", b"x")
        with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "x"):
            raise ZeroDivisionError
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_passport_comes_before_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended in between, there is a file that does not match: it is made again, and nobody takes it for a stranger's."""
    path = tmp_path / "a.engine"
    write_artifact(path, b"old", kind="engine", request="1")
    replace = os.replace

    def ending(source: Path, target: Path) -> None:
        if target == path:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", ending)
    with pytest.raises(KeyboardInterrupt):
        write_artifact(path, b"new", kind="engine", request="2")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and matching_passport(path) is None
    passport = read_passport(path)
    assert passport is not None and passport.request == "2"
    assert write_artifact(path, b"new", kind="engine", request="2") == matching_passport(path) == passport
    assert names(tmp_path) == ["a.engine", "a.engine.json"]


def test_json_is_written_with_a_line_end_and_without_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1, 2.5], "b": None})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"a": [1, 2.5], "b": None}
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert (tmp_path / "x.json").read_text() == text


def test_a_passport_says_what_was_put_into_it(tmp_path: Path) -> None:
    parent, artifact = tmp_path / "p.onnx", tmp_path / "a.engine"
    parent.write_bytes(b"parent")
    artifact.write_bytes(b"artifact")
    written = write_passport(
        artifact, kind="engine", parents=[parent], request="r1", facts={"precision": "int8"}, tools={"torch": "2.9"}
    )
    assert written == Passport(
        kind="engine",
        sha256=hashlib.sha256(b"artifact").hexdigest(),
        parents=(("p.onnx", hashlib.sha256(b"parent").hexdigest()),),
        request="r1",
        facts={"precision": "int8"},
        tools={"alexnet-deploy": __version__, "torch": "2.9"},
    )
    assert passport_path(artifact) == tmp_path / "a.engine.json"
    assert read_passport(artifact) == written
    assert require_passport(artifact, because="says what it is") == written


def test_a_changed_artifact_fits_no_more(tmp_path: Path) -> None:
    path = with_passport(tmp_path)
    assert matching_passport(path) == read_passport(path)
    write_bytes(path, b"enginE")
    assert matching_passport(path) is None


def test_an_artifact_that_is_gone_does_not_fit(tmp_path: Path) -> None:
    path = with_passport(tmp_path)
    path.unlink()
    assert matching_passport(path) is None


def test_an_artifact_without_a_passport_does_not_fit(tmp_path: Path) -> None:
    path = with_passport(tmp_path)
    passport_path(path).unlink()
    assert read_passport(path) is None
    assert matching_passport(path) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"text"', "{}", "\x00\x01", '{"schema": 1}', '{"schema": 2}', "[" * 100],
)
def test_a_garbled_passport_is_none(text: str, tmp_path: Path) -> None:
    path = with_passport(tmp_path)
    passport_path(path).write_text(text)
    assert read_passport(path) is None
    assert matching_passport(path) is None


def test_a_passport_that_is_not_text_is_none(tmp_path: Path) -> None:
    path = with_passport(tmp_path)
    passport_path(path).write_bytes(b"\xff\xfe\x80")
    assert read_passport(path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 1},
        {"parents": None},
        {"parents": {"path": "x"}},
        {"parents": [["x", "y"]]},
        {"parents": [{"path": "x"}]},
        {"facts": "text"},
        {"facts": None},
        {"tools": [1]},
    ],
)
def test_a_passport_with_a_wrong_field_is_none(change: dict[str, Any], tmp_path: Path) -> None:
    """With a digest that is right, so that the field alone is what is wrong."""
    path = with_passport(tmp_path)
    values = json.loads(passport_path(path).read_text()) | change
    passport_path(path).write_text(json.dumps(values | {"digest": digest_of(values)}))
    assert read_passport(path) is None


def digest_of(values: dict[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "onnx"},
        {"request": "abd"},
        {"facts": {"keep_float": ["conv1"]}},
        {"tools": {"alexnet-deploy": "9"}},
        {"digest": "0" * 64},
        {"digest": None},
    ],
)
def test_a_passport_that_was_changed_is_none(change: dict[str, Any], tmp_path: Path) -> None:
    path = with_passport(tmp_path)
    values = json.loads(passport_path(path).read_text())
    assert values["digest"] == digest_of(values)
    passport_path(path).write_text(json.dumps(values | change))
    assert read_passport(path) is None
    with pytest.raises(ArtifactError, match="no passport") as caught:
        require_passport(path, because="says what it is")
    assert "changed" in str(caught.value.got)


def test_a_passport_means_the_same_however_it_is_laid_out(tmp_path: Path) -> None:
    path = with_passport(tmp_path)
    values = json.loads(passport_path(path).read_text())
    passport_path(path).write_text(json.dumps(dict(reversed(values.items()))))
    assert read_passport(path) is not None


@pytest.mark.parametrize("name", ["schema", "kind", "sha256", "parents", "request", "facts", "tools", "digest"])
def test_a_passport_with_a_missing_field_is_none(name: str, tmp_path: Path) -> None:
    path = with_passport(tmp_path)
    values = json.loads(passport_path(path).read_text())
    del values[name]
    passport_path(path).write_text(json.dumps(values))
    assert read_passport(path) is None


def test_a_changed_file_is_refused_with_both_hashes(tmp_path: Path) -> None:
    path = with_passport(tmp_path, b"engine")
    path.write_bytes(b"other")
    with pytest.raises(ArtifactError, match="not the file its passport describes") as caught:
        require_passport(path, because="says what it is")
    assert caught.value.got == f"sha256 {hashlib.sha256(b'other').hexdigest()}"
    assert caught.value.expected == f"sha256 {hashlib.sha256(b'engine').hexdigest()}"


def test_a_file_without_a_passport_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(b"engine")
    with pytest.raises(ArtifactError, match="has no passport, which names the device") as caught:
        require_passport(tmp_path / "a.engine", because="names the device")
    assert "a.engine.json" in str(caught.value.expected)


def test_a_missing_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        require_passport(tmp_path / "a.engine", because="says what it is")

"""An artifact is made once, made again when anything it came from changes, and never written over what is not ours."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.artifacts import passport_path, read_passport
from alexnet_deploy.errors import ArtifactError, GraphError, InputError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.pipeline import workspace as workspace_module
from alexnet_deploy.pipeline.workspace import Artifact, Made, Workspace
from alexnet_deploy.progress import Voice


class Maker:
    """Makes one artifact and counts how often its stage ran."""

    def __init__(self, folder: Path) -> None:
        self.stream = io.StringIO()
        self.workspace = Workspace(folder=folder / "work", voice=Voice(stream=self.stream))
        self.parent = folder / "parent.bin"
        self.parent.write_bytes(b"parent")
        self.calls = 0
        self.data = b"made"

    @property
    def path(self) -> Path:
        return self.workspace.folder / "artifact.bin"

    def make(self, path: Path | None = None, kind: str = "onnx", **request: Any) -> Artifact:
        return self.workspace.make(path or self.path, kind, request, [self.parent], self.stage)

    def stage(self) -> Made:
        self.calls += 1
        return Made(data=self.data, facts={"call": self.calls}, tools={"tool": "1.0"})


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def test_an_artifact_is_written_with_its_passport(maker: Maker) -> None:
    artifact = maker.make(opset=18)
    assert artifact == Artifact(path=maker.path, reused=False, facts={"call": 1})
    assert maker.path.read_bytes() == b"made"
    passport = read_passport(maker.path)
    assert passport is not None
    assert (passport.kind, passport.sha256) == ("onnx", sha256_of(maker.path))
    assert passport.parents == (("parent.bin", sha256_of(maker.parent)),)
    assert passport.facts == {"call": 1} and passport.tools["tool"] == "1.0"


def test_a_second_call_reuses_it_with_its_facts(maker: Maker) -> None:
    maker.make(opset=18)
    again = maker.make(opset=18)
    assert again == Artifact(path=maker.path, reused=True, facts={"call": 1})
    assert maker.calls == 1


def test_another_workspace_over_the_same_folder_reuses_it(maker: Maker) -> None:
    maker.make()
    other = Workspace(folder=maker.workspace.folder)
    assert other.make(maker.path, "onnx", {}, [maker.parent], maker.stage).reused
    assert maker.calls == 1


def test_a_changed_parent_makes_it_anew(maker: Maker) -> None:
    maker.make()
    maker.parent.write_bytes(b"another parent")
    maker.data = b"made anew"
    assert maker.make() == Artifact(path=maker.path, reused=False, facts={"call": 2})
    assert maker.path.read_bytes() == b"made anew"


def test_a_parent_that_was_only_touched_changes_nothing(maker: Maker) -> None:
    maker.make()
    os.utime(maker.parent, (1, 1))
    assert maker.make().reused


def test_another_request_makes_it_anew(maker: Maker) -> None:
    maker.make(opset=18)
    assert not maker.make(opset=20).reused
    assert not maker.make(kind="engine", opset=20).reused
    assert maker.calls == 3


def test_another_version_of_this_tool_makes_it_anew(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    maker.make()
    monkeypatch.setattr(workspace_module, "__version__", "9.9.9")
    assert not maker.make().reused


def test_an_artifact_that_was_changed_is_made_anew(maker: Maker) -> None:
    maker.make()
    maker.path.write_bytes(b"damaged")
    assert not maker.make().reused
    assert maker.path.read_bytes() == b"made"


@pytest.mark.parametrize("damage", ["{", "{}", '{"schema": 99}'])
def test_an_artifact_whose_passport_is_damaged_is_made_anew(maker: Maker, damage: str) -> None:
    maker.make()
    passport_path(maker.path).write_text(damage)
    assert not maker.make().reused
    assert json.loads(passport_path(maker.path).read_text())["kind"] == "onnx"


def test_a_file_that_is_not_ours_is_left_alone(maker: Maker) -> None:
    maker.workspace.folder.mkdir()
    maker.path.write_bytes(b"someone's work")
    with pytest.raises(InputError, match=r"artifact\.bin") as caught:
        maker.make()
    assert caught.value.remedy and maker.calls == 0
    assert maker.path.read_bytes() == b"someone's work"


@pytest.mark.parametrize("way", ["plain", "dotted", "link"])
def test_an_artifact_is_not_written_over_its_own_source(maker: Maker, way: str, tmp_path: Path) -> None:
    path = {"plain": maker.parent, "dotted": tmp_path / "x" / ".." / "parent.bin", "link": tmp_path / "link.bin"}[way]
    (tmp_path / "x").mkdir()
    (tmp_path / "link.bin").symlink_to(maker.parent)
    with pytest.raises(InputError, match="own source") as caught:
        maker.make(path)
    assert caught.value.remedy and maker.calls == 0
    assert maker.parent.read_bytes() == b"parent"


def test_a_folder_that_cannot_be_made_is_an_error_before_the_work(maker: Maker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ArtifactError, match="cannot be written") as caught:
        maker.make(tmp_path / "file" / "artifact.bin")
    assert caught.value.remedy and maker.calls == 0


def test_a_folder_that_cannot_be_written_is_an_error_before_the_work(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("alexnet_deploy.files.tempfile.mkstemp", refuse)
    with pytest.raises(ArtifactError, match="cannot be written") as caught:
        maker.make()
    assert caught.value.got == "Permission denied" and maker.calls == 0
    assert list(maker.workspace.folder.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing_half_written(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(ArtifactError, match="cannot be written") as caught:
        maker.make()
    assert caught.value.got == "No space left on device"
    assert list(maker.workspace.folder.iterdir()) == []


def test_a_stage_that_fails_leaves_the_old_artifact(maker: Maker) -> None:
    maker.make()

    def stage() -> Made:
        raise GraphError("the stage failed")

    with pytest.raises(GraphError):
        maker.workspace.make(maker.path, "onnx", {"other": 1}, [maker.parent], stage)
    assert sorted(path.name for path in maker.workspace.folder.iterdir()) == ["artifact.bin", "artifact.bin.json"]
    assert maker.make().reused


def test_the_voice_says_once_what_was_made_and_what_was_reused(maker: Maker) -> None:
    maker.data = b"x" * 1_234_567
    maker.make()
    maker.make()
    assert maker.stream.getvalue().splitlines() == [f"wrote {maker.path} (1.2 MB)"]
    stream = io.StringIO()
    later = Workspace(folder=maker.workspace.folder, voice=Voice(stream=stream))
    for _ in range(2):
        later.make(maker.path, "onnx", {}, [maker.parent], maker.stage)
    assert stream.getvalue().splitlines() == [f"reusing {maker.path}"]

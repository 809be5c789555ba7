"""What every test of a command needs: the command, a work directory, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.cli.main import main


@dataclass(frozen=True)
class Ended:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory that the commands of a module share, as a person's are."""
    return tmp_path_factory.mktemp("cli") / "work"


@pytest.fixture
def common(work: Path, small_checkpoint: Path) -> list[object]:
    return ["--model", small_checkpoint, "--workdir", work, "--quiet"]


def assert_refused(ended: Ended, code: int, *words: str) -> None:
    """One readable message on standard error, nothing on standard output."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err and "Exception" not in ended.err
    for word in words:
        assert word in ended.err, ended.err
    assert any(mark in ended.err for mark in ("remedy:", "expected:", "Try '", "Usage:")), ended.err

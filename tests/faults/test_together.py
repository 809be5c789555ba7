"""Commands at the same time in one work directory: each artifact is made once, and all end as one alone would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import ROOT, content
from tests.faults.test_kill import artifacts

COMMANDS = {
    "the-same": [["export"], ["export"], ["export"]],
    "one-needs-the-other": [
        ["export"],
        ["calibrate", "--images", "16"],
        ["export", "--precision", "fp16", "--target", "tensorrt-rtx"],
    ],
}


def started(work: Path, checkpoint: Path, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alexnet_deploy", *words, "--model", checkpoint, "--workdir", work],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_at_the_same_time(name: str, small_checkpoint: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone" / "work", tmp_path / "together" / "work"
    for words in COMMANDS[name]:
        _, err = (process := started(alone, small_checkpoint, words)).communicate()
        assert process.returncode == 0, err
    processes = [started(together, small_checkpoint, words) for words in COMMANDS[name]]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    assert artifacts(together) == artifacts(alone)
    written = [line.split()[1] for err in said for line in err.splitlines() if line.startswith("wrote ")]
    assert sorted(written) == sorted(set(written)), "an artifact was made twice"
    assert not [path for path in content(together) if ".partial" in path or path.endswith(".lock")]

"""A command killed at any point at which it writes leaves a work directory in which every command still works.

`make faults` tries every point of every command; the usual run of the tests every point of what all commands do, and
some of two commands.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_deploy.artifacts import matching_passport, read_passport, write_artifact
from alexnet_deploy.optional import is_installed
from tests.faults.conftest import Driver, content, copy_of
from tests.faults.driver import WORKSPACE

ALL = os.environ.get("ALEXNET_DEPLOY_FAULTS") == "all"
EVERY = 1 if ALL else 7
USUAL = ("export-over-an-older-one", "calibrate-over-an-older-one")
IMAGES = ["--images", 24]
# Commands before, the command that is killed, and the files that have no passport.
COMMANDS: dict[str, tuple[list[list[object]], list[object]]] = {
    "export": ([], ["export"]),
    "export-over-an-older-one": ([["export", "--opset", 20]], ["export"]),
    "export-fp16": ([["export"]], ["export", "--precision", "fp16", "--target", "tensorrt-rtx"]),
    "calibrate": ([["export"]], ["calibrate", *IMAGES]),
    "calibrate-over-an-older-one": ([["calibrate", "--images", 8]], ["calibrate", *IMAGES]),
    "export-int8": (
        [["calibrate", *IMAGES]],
        ["export", "--precision", "int8", "--target", "onnxruntime-cpu", "--rounding", "nearest"],
    ),
    "build-engine": ([["export"]], ["build-engine", "--fp16", "--backend", "tensorrt-rtx", "--sm", "89"]),
    "inspect": ([["calibrate", *IMAGES]], ["inspect", "calibration.json", "--draw", "drawn.svg"]),
}


# A builder times its kernels, so that an engine is another every time; its passport must fit it.
_NEVER_THE_SAME = (".engine",)


def points_of(last: int) -> Iterator[int]:
    """Which points are tried."""
    for point in range(1, last + 1):
        if point % EVERY == 0 or point in (1, last):
            yield point


def require_whole(work: Path, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Every file is the one from before or the one from after, and what its passport fits is whole."""
    for name, data in content(work).items():
        if name.endswith(".part") or ".partial" in name:
            continue
        if name.endswith(".json") and not name.endswith(("calibration.json",)):
            assert read_passport(work / name.removesuffix(".json")) is not None, name
        elif name in before or name in after:
            assert data in (before.get(name), after.get(name)), name


def artifacts(work: Path) -> dict[str, bytes]:
    """Artifacts without passports, which hold times."""
    return {
        name: data
        for name, data in content(work).items()
        if not name.endswith((".log", ".jsonl", ".svg", ".lock", *_NEVER_THE_SAME))
        and not name.endswith((".onnx.json", ".engine.json", ".json.json", ".safetensors.json"))
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_anywhere_and_run_again(
    name: str, driver: Driver, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ALL and name not in USUAL:
        pytest.skip("tried by `make faults`")
    earlier, command = COMMANDS[name]
    if name == "build-engine" and not is_installed("tensorrt_rtx"):
        pytest.skip("tensorrt_rtx is not installed")
    work, prepared = tmp_path / "work", tmp_path / "prepared"

    def run(arguments: list[object], kill_at: int | None = None) -> tuple[int, int]:
        first, *rest = arguments
        if first == "inspect":
            graph, option, picture = rest
            words = [first, work / str(graph), option, work / str(picture)]
        else:
            words = [first, *rest, "--model", small_checkpoint, "--workdir", work, "--quiet"]
        ended = driver(work, *words, kill_at=kill_at)
        assert "Traceback" not in ended.err, ended.err
        assert ended.code in (0, -signal.SIGKILL), ended.err
        return ended.code, ended.points

    for arguments in earlier:
        assert run(arguments)[0] == 0
    copy_of(work, prepared)
    before = artifacts(prepared)
    code, last = run(command)
    assert code == 0 and last >= 4
    after = artifacts(work)
    assert set(content(work)) != set(content(prepared)) or after != before
    for point in points_of(last):
        copy_of(prepared, work)
        assert run(command, point)[0] == -signal.SIGKILL
        require_whole(work, before, after)
        assert run(command)[0] == 0
        assert artifacts(work) == after, point
        for path in content(work):
            if (work / f"{path}.json").exists():
                assert matching_passport(work / path) is not None, (point, path)
        # A lock that nobody holds may stay; the next who makes the file takes it along.
        assert not [path for path in content(work) if ".partial" in path], point


def test_every_point_of_making_two_artifacts(driver: Driver, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for older in (False, True):
        prepared = tmp_path / f"prepared-{older}"
        if older:
            work.mkdir(exist_ok=True)
            for name in ("a.onnx", "b.onnx"):
                write_artifact(work / name, b"older", kind="onnx", request="another")
            copy_of(work, prepared)
        before = artifacts(prepared) if older else {}
        whole = driver(copy_of(prepared, work), WORKSPACE)
        assert whole.code == 0 and whole.points > 20, whole.err
        after = artifacts(work)
        for point in range(1, whole.points + 1):
            copy_of(prepared, work)
            assert driver(work, WORKSPACE, kill_at=point).code == -signal.SIGKILL
            for name, data in artifacts(work).items():
                assert ".partial" in name or data in (before.get(name), after[name]), (point, name)
            again = driver(work, WORKSPACE)
            assert again.code == 0, again.err
            assert artifacts(work) == after, point
            assert all(matching_passport(work / name) is not None for name in after), point


def test_training_killed_anywhere_ends_with_the_same_weights(driver: Driver, pictures: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command: list[object] = [
        "train", "--data", pictures, "--width", 0.125, "--image-size", 99, "--epochs", 3, "--batch-size", 8,
        "--precision", "fp32", "--workdir", work, "--quiet",
    ]  # fmt: skip
    whole = driver(work, *command)
    assert whole.code == 0, whole.err
    after = (work / "alexnet.safetensors").read_bytes()
    for point in points_of(whole.points):
        copy_of(tmp_path / "nothing", work)
        killed = driver(work, *command, kill_at=point)
        assert killed.code == -signal.SIGKILL, killed.err
        resume = ["--resume"] if (work / "alexnet.training-state").exists() else []
        again = driver(work, *command, *resume)
        assert again.code == 0, again.err
        assert (work / "alexnet.safetensors").read_bytes() == after, point
        assert matching_passport(work / "alexnet.safetensors") is not None
        assert not [path for path in content(work) if ".partial" in path or path.endswith("state")], point

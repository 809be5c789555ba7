"""Which rows a bench has: one artifact that cannot be made is a row that says so."""

from __future__ import annotations

import pytest

from alexnet_deploy.bench.candidate import BenchOptions
from alexnet_deploy.errors import EngineError, GraphError, MissingDependencyError, PrecisionProofError
from alexnet_deploy.pipeline import bench
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.runtimes.session import CUDA_GRAPH


@pytest.fixture
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return Deployment(Workspace(folder=tmp_path_factory.mktemp("bench")))


@pytest.mark.parametrize("error", [EngineError, GraphError, PrecisionProofError, MissingDependencyError])
def test_an_engine_that_cannot_be_built_is_a_row(
    error: type[Exception], deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise error("it cannot be built")

    monkeypatch.setattr(Deployment, "engine", broken)
    found = list(bench._candidates(deployment, "tensorrt-rtx", BenchOptions()))
    assert len(found) == 2
    assert all("it cannot be built" in str(each.reason) for each in found)
    assert {each.status for each in found} == ({"ok"} if error is MissingDependencyError else {"failed"})


def test_tensorrt_without_a_gpu_is_a_row_and_not_built(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "gpu_sm", lambda: None)
    monkeypatch.setattr(bench, "is_installed", lambda _module: True)
    monkeypatch.setattr(Deployment, "engine", lambda *_: pytest.fail("built"))
    found = list(bench._candidates(deployment, "tensorrt", BenchOptions()))
    assert all("no CUDA device" in str(each.reason) for each in found) and len(found) == 2


def test_on_a_gpu_engines_are_for_it_with_and_without_graphs(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def engine(_self: Deployment, options: object) -> None:
        asked.append(options)
        raise EngineError("not here")

    monkeypatch.setattr(bench, "gpu_sm", lambda: 89)
    monkeypatch.setattr(bench, "count_gpus", lambda: 1)
    monkeypatch.setattr(Deployment, "engine", engine)
    found = list(bench._candidates(deployment, "tensorrt-rtx", BenchOptions(batches=(1, 32))))
    assert [each.spec.hint for each in found] == [None, CUDA_GRAPH] * 2
    assert {each.spec.name for each in found} == {
        "tensorrt-rtx/fp16", "tensorrt-rtx/fp16+cuda-graph", "tensorrt-rtx/int8", "tensorrt-rtx/int8+cuda-graph",
    }  # fmt: skip
    assert all(options.sms == (89,) and options.profiles[0].max == 32 for options in asked)  # type: ignore[attr-defined]
    monkeypatch.setattr(bench, "gpu_sm", lambda: 90)
    hopper = list(bench._candidates(deployment, "tensorrt-rtx", BenchOptions()))
    assert all("TensorRT-RTX has no" in str(each.reason) and "SM90" in str(each.reason) for each in hopper)

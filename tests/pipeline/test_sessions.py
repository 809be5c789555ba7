"""What predict and serve run: every runtime of a graph, as the bench knows it, and never another than was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.bench.candidate import BenchOptions
from alexnet_deploy.cli import session_options
from alexnet_deploy.errors import InputError, RuntimeUnavailableError
from alexnet_deploy.machine import CPU_BF16_FLAGS
from alexnet_deploy.pipeline import candidates, sessions
from alexnet_deploy.pipeline.sessions import HELD, session_from_model
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.runtimes.open import ON_CPU, ON_REQUEST, RUNTIMES, open_session
from alexnet_deploy.specs import Precision

ON_GPU = sorted(set(HELD) - set(ON_CPU))


@pytest.fixture(scope="module")
def deployment(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    yield Deployment(Workspace(folder=tmp_path_factory.mktemp("work")), str(small_checkpoint))


def test_runtimes_of_a_graph_are_those_of_the_bench() -> None:
    engines = {"tensorrt", "tensorrt-rtx"}
    assert set(HELD) == set(RUNTIMES) - engines - ON_REQUEST
    assert set(session_options.RUNTIMES) == set(HELD)
    assert set(session_options.PRECISIONS) == {precision.value for held in HELD.values() for precision in held}


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime-cpu", "openvino"])
def test_a_runtime_of_the_cpu_gives_the_models_answers(runtime: str, deployment: Deployment) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    images = np.stack([np.full((3, 99, 99), value, np.float32) for value in (-0.5, 0.5)])
    spec = session_from_model(deployment, runtime, threads=1)
    assert spec.path.is_absolute() and (spec.runtime, spec.precision) == (runtime, Precision.FP32)
    with open_session(spec) as session, open_session(session_from_model(deployment, "torch", threads=1)) as reference:
        np.testing.assert_allclose(session.run(images), reference.run(images), atol=1e-3)


@pytest.mark.parametrize("runtime", ON_GPU)
def test_a_gpus_runtime_is_refused_without_one_before_anything_is_made(
    runtime: str, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "count_gpus", lambda: 0)
    untouched = Deployment(Workspace(folder=tmp_path / "work"), str(small_checkpoint))
    with pytest.raises(RuntimeUnavailableError) as caught:
        session_from_model(untouched, runtime, threads=1)
    assert caught.value.got == "no CUDA device" and "--runtime" in str(caught.value.remedy)
    assert not (tmp_path / "work").exists()


def test_a_gpus_runtime_gets_the_graph_that_the_bench_gives_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a cluster, whose devices are its own affair."""
    monkeypatch.setattr(sessions, "count_gpus", lambda: 0)
    monkeypatch.setattr(candidates, "count_gpus", lambda: 1)
    for precision in HELD["onnxruntime-cuda"]:
        spec = session_from_model(deployment, "onnxruntime-cuda", precision, threads=1, here=False)
        (benched,) = candidates.candidates_of(deployment, BenchOptions(), ["onnxruntime-cuda"], [precision])
        assert (spec.path, spec.precision) == (benched.spec.path.absolute(), precision)


def test_bf16_is_not_emulated(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(RuntimeUnavailableError, match="would emulate bf16"):
        session_from_model(deployment, "torch", Precision.BF16, threads=1)
    monkeypatch.setattr(sessions, "cpu_flags", lambda: CPU_BF16_FLAGS)
    assert session_from_model(deployment, "torch", Precision.BF16, threads=1).precision is Precision.BF16


def test_what_a_runtime_does_not_hold_is_refused(deployment: Deployment) -> None:
    with pytest.raises(InputError, match="onnxruntime-cpu does not hold") as caught:
        session_from_model(deployment, "onnxruntime-cpu", Precision.FP16, threads=1)
    assert caught.value.expected == "fp32, int8"
    with pytest.raises(InputError, match="no such runtime"):
        session_from_model(deployment, "tensorrt", threads=1)


def test_a_graph_has_no_torch_network(deployment: Deployment) -> None:
    graph = deployment.fp32_graph().path
    with pytest.raises(InputError, match="no torch network"):
        session_from_model(Deployment(deployment.workspace, str(graph)), "torch", threads=1)

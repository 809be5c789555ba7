"""Which rows a bench has: one artifact that cannot be made is a row that says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_deploy.bench.candidate import BenchOptions
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.errors import EngineError, GraphError, InputError, MissingDependencyError, PrecisionProofError
from alexnet_deploy.pipeline import candidates
from alexnet_deploy.pipeline.costs import Costs
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.runtimes.session import CUDA_GRAPH
from alexnet_deploy.specs import Precision
from tests.conftest import SMALL_SIDE


@pytest.fixture(scope="module")
def deployment(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return Deployment(Workspace(folder=tmp_path_factory.mktemp("bench")), model=str(small_checkpoint))


@pytest.mark.parametrize("error", [EngineError, GraphError, PrecisionProofError, MissingDependencyError])
def test_an_engine_that_cannot_be_built_is_a_row(
    error: type[Exception], deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise error("it cannot be built")

    monkeypatch.setattr(Deployment, "engine", broken)
    found = list(candidates.candidates_of(deployment, BenchOptions(), ["tensorrt-rtx"]))
    assert len(found) == 2
    assert all("it cannot be built" in str(each.reason) for each in found)
    assert {each.status for each in found} == ({"ok"} if error is MissingDependencyError else {"failed"})


def test_tensorrt_without_a_gpu_is_a_row_and_not_built(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "gpu_sm", lambda: None)
    monkeypatch.setattr(candidates, "is_installed", lambda _module: True)
    monkeypatch.setattr(Deployment, "engine", lambda *_: pytest.fail("built"))
    found = list(candidates.candidates_of(deployment, BenchOptions(), ["tensorrt"]))
    assert all("no CUDA device" in str(each.reason) for each in found) and len(found) == 2


def test_on_a_gpu_engines_are_for_it_with_and_without_graphs(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[EngineOptions]()

    def engine(_self: Deployment, options: EngineOptions) -> None:
        asked.append(options)
        raise EngineError("not here")

    monkeypatch.setattr(candidates, "gpu_sm", lambda: 89)
    monkeypatch.setattr(candidates, "count_gpus", lambda: 1)
    monkeypatch.setattr(Deployment, "engine", engine)
    found = list(candidates.candidates_of(deployment, BenchOptions(batches=(1, 32)), ["tensorrt-rtx"]))
    assert [each.spec.hint for each in found] == [None, CUDA_GRAPH] * 2
    assert {each.spec.name for each in found} == {
        "tensorrt-rtx/fp16", "tensorrt-rtx/fp16+cuda-graph", "tensorrt-rtx/int8", "tensorrt-rtx/int8+cuda-graph",
    }  # fmt: skip
    assert {options.sms for options in asked} == {(89,)}
    # Each batch is measured in a profile that was tuned for it.
    assert {tuple(map(str, options.profiles)) for options in asked} == {("1:1:1", "2:32:32")}
    monkeypatch.setattr(candidates, "gpu_sm", lambda: 90)
    hopper = list(candidates.candidates_of(deployment, BenchOptions(), ["tensorrt-rtx"]))
    assert all("TensorRT-RTX has no" in str(each.reason) and "SM90" in str(each.reason) for each in hopper)


def test_openvino_has_a_row_for_latency_and_one_for_throughput(deployment: Deployment) -> None:
    found = candidates.candidates_of(deployment, BenchOptions(), ["openvino"], [Precision.FP32])
    assert [each.spec.name for each in found] == ["openvino/fp32", "openvino/fp32+throughput"]
    # More requests at once compute the same.
    assert [each.same_as for each in found] == [None, "openvino/fp32"]
    assert found[0].spec.path == found[1].spec.path


def test_compiled_torch_is_there_only_where_it_is_named(deployment: Deployment) -> None:
    narrowed = candidates.candidates_of(deployment, BenchOptions(), (), [Precision.FP32])
    there = {each.spec.runtime for each in narrowed}
    assert "torch-compile" not in there and "torch" in there
    named = candidates.candidates_of(deployment, BenchOptions(), ["torch-compile"], [Precision.FP32])
    assert [each.spec.name for each in named] == ["torch-compile/fp32"]


@pytest.mark.parametrize(
    ("runtimes", "precisions", "words"),
    [(["tensorflow"], [], "no such runtime"), (["torch"], [Precision.INT8], "nothing to measure")],
)
def test_what_cannot_be_narrowed_to_is_refused(
    deployment: Deployment, runtimes: list[str], precisions: list[Precision], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        candidates.candidates_of(deployment, BenchOptions(), runtimes, precisions)


def test_costs_are_the_networks_arithmetic_and_the_sessions_weights(deployment: Deployment) -> None:
    full, small = (
        candidates.candidates_of(deployment, BenchOptions(), ["onnxruntime-cpu"], [precision])[0]
        for precision in (Precision.FP32, Precision.INT8)
    )
    names = [f"conv{k}" for k in range(1, 6)] + [f"fc{k}" for k in range(6, 9)]
    assert [cost.name for cost in full.costs] == [cost.name for cost in small.costs] == names
    assert {cost.precision for cost in full.costs} == {"fp32"} and {cost.precision for cost in small.costs} == {"int8"}
    # The banded LRN is a way of computing the network, not a part of it.
    assert [cost.macs for cost in full.costs] == [cost.macs for cost in small.costs]
    parameters = sum(cost.run_bytes for cost in full.costs) / 4
    assert sum(cost.run_bytes for cost in small.costs) == pytest.approx(parameters, rel=0.01)
    assert full.costs[0].image_bytes == 4 * 3 * SMALL_SIDE**2 and full.costs[-1].image_bytes == 40
    half = Costs(deployment).of(replace(full.spec, runtime="openvino", precision=Precision.BF16))
    assert sum(cost.run_bytes for cost in half) == 2 * parameters and half[0].precision == "bf16"
    torch = Costs(deployment).of(replace(full.spec, runtime="torch", precision=Precision.BF16))
    assert sum(cost.run_bytes for cost in torch) == 2 * parameters and torch[0].precision == "bf16"


@pytest.mark.parametrize(
    ("batches", "most", "profiles"),
    [
        ((1, 16), 16, ["1:1:1", "2:16:16"]),
        ((16,), 16, ["1:16:16"]),
        ((4, 1, 4), 16, ["1:1:1", "2:4:16"]),
        ((8, 64), 64, ["1:8:8", "9:64:64"]),
    ],
)
def test_profiles_are_tuned_for_the_batches_and_take_all_others(
    batches: tuple[int, ...], most: int, profiles: list[str]
) -> None:
    assert [str(profile) for profile in candidates._profiles_of(batches, most)] == profiles


def test_engines_have_further_precisions_where_they_are_named(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise EngineError("not built")

    monkeypatch.setattr(Deployment, "engine", broken)
    named = [Precision.FP32, Precision.FP8, Precision.INT4]
    found = candidates.candidates_of(deployment, BenchOptions(), ["tensorrt-rtx"], named)
    assert [each.spec.precision for each in found] == named
    assert candidates.offers_quantized(["tensorrt-rtx"], [Precision.INT4])
    assert not candidates.offers_quantized(["openvino"], [Precision.INT4])
    with pytest.raises(InputError, match="nothing to measure"):
        candidates.candidates_of(deployment, BenchOptions(), ["openvino"], [Precision.INT4])


def test_what_is_not_fp32_gets_a_reference_that_is_not_timed(deployment: Deployment) -> None:
    options = BenchOptions()
    quantized = candidates.candidates_of(deployment, options, ["openvino"], [Precision.INT8])
    *asked, reference = candidates.with_reference(quantized, deployment, options)
    assert asked == quantized and reference.spec.name == "onnxruntime-cpu/fp32" and not reference.timed
    whole = candidates.candidates_of(deployment, options, ["openvino"], [Precision.FP32, Precision.INT8])
    assert candidates.with_reference(whole, deployment, options) == whole
    # Where nothing runs there is nothing to compare.
    none = [replace(each, reason="no") for each in quantized]
    assert candidates.with_reference(none, deployment, options) == none


def test_a_bench_says_which_runtimes_it_went_over() -> None:
    everything = candidates.asked_of([], [])
    assert "torch-compile" not in everything["runtimes"] and "openvino" in everything["runtimes"]
    # What is measured where it is named was not asked for.
    assert "tensorrt/int8" in everything["rows"] and "tensorrt/fp8" not in everything["rows"]
    assert candidates.asked_of(["torch-compile"], [Precision.FP32]) == {
        "runtimes": ["torch-compile"], "precisions": ["fp32"], "rows": ["torch-compile/fp32"],
    }  # fmt: skip


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP8])
def test_what_the_gpu_does_not_hold_is_a_row_with_a_reason(
    precision: Precision, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_self: Deployment, _options: EngineOptions) -> None:
        raise InputError(f"SM75 cannot hold {precision.value}", expected="SM80 or newer")

    monkeypatch.setattr(candidates, "gpu_sm", lambda: 75)
    monkeypatch.setattr(candidates, "count_gpus", lambda: 1)
    # The CPU's instructions are no matter of an engine.
    monkeypatch.setattr(candidates, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(Deployment, "engine", refuses)
    found = candidates.candidates_of(deployment, BenchOptions(), ["tensorrt"], [precision])
    assert {each.reason for each in found} == {f"SM75 cannot hold {precision.value}, expected: SM80 or newer"}
    assert {each.status for each in found} == {"ok"}

"""The document of a scenario: a row a candidate, with LoadGen's verdict or the reason why there is none."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.bench.candidate import Candidate
from alexnet_deploy.bench.loadgen import LoadResult
from alexnet_deploy.bench.loadgen_log import Metric, Verdict
from alexnet_deploy.bench.loadgen_options import LoadOptions, Rules, Scenario
from alexnet_deploy.bench.loadgen_pace import Pace
from alexnet_deploy.bench.runner import EvaluationData
from alexnet_deploy.errors import DataError, InputError, MissingDependencyError, RuntimeUnavailableError, SessionError
from alexnet_deploy.pipeline import load
from alexnet_deploy.pipeline.load import load_document
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision
from alexnet_deploy.weights import ModelInfo
from tests.conftest import small_info, small_preprocessing
from tests.test_optional import hide

EVALUATION = EvaluationData(data="shipped", preprocessing=small_preprocessing(), indices=np.arange(40))
LABELS = np.arange(40) % 10
OPTIONS = LoadOptions(scenario=Scenario.SERVER, min_duration_s=1)
RULES = Rules(
    min_duration_s=1.0,
    mlperf_min_duration_s=600.0,
    min_queries=1001,
    mlperf_min_queries=100,
    performance_samples=40,
    mlperf_performance_samples=1024,
    target_latency_ms=15.0,
    mlperf_target_latency_ms=15.0,
)


def result_of(valid: bool = True) -> LoadResult:
    verdict = Verdict(
        valid=valid,
        invalid_because=() if valid else ("min duration not satisfied",),
        metric=Metric(name="completed samples per second", value=123.45678, unit="images/s"),
        also={"scheduled_ips": 124.0},
        latency_ms=dict.fromkeys(("p50", "p90", "p95", "p97", "p99", "p99.9", "min", "mean", "max"), 4.5),
        queries=1001,
        samples=1001,
        duration_s=1.5,
        version="6.0.17 @ abc",
        seeds={"qsl_rng_seed": 1},
        errors=(),
    )
    return LoadResult(
        verdict=verdict,
        rules=RULES,
        rate=124.5,
        rate_is_derived=True,
        pace=Pace(median_ms={1: 5.0}, fastest_ms={1: 4.0}),
        resident_images=40,
        resident_bytes=4000,
        answers=((0, 0), (11, 1), (12, 3), (0, 0)),
    )


def candidate(runtime: str, **changes: Any) -> Candidate:
    spec = SessionSpec(runtime=runtime, precision=Precision.INT8, path=Path("graph.onnx"), threads=2)
    return Candidate(spec=spec, size_bytes=7, **changes)


@pytest.fixture
def deployment(tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    info: ModelInfo = small_info()
    monkeypatch.setattr(Deployment, "info", info)
    monkeypatch.setattr(load, "rules_from_options", lambda *_: RULES)
    voice = Voice(quiet=True, stream=io.StringIO())
    return Deployment(Workspace(folder=tmp_path / "work", voice=voice), model=str(small_checkpoint))


def test_a_document_has_rules_and_a_row_a_candidate(deployment: Deployment) -> None:
    folders = []

    def run(spec: SessionSpec, _data: EvaluationData, _options: LoadOptions, folder: Path) -> LoadResult:
        folders.append(folder)
        if spec.runtime == "torch":
            raise SessionError("it broke", got="a reason")
        if spec.runtime == "tensorrt":
            raise RuntimeUnavailableError("no CUDA device")
        return result_of(valid=spec.runtime == "openvino")

    candidates = [candidate(runtime) for runtime in ("openvino", "onnxruntime-cpu", "torch", "tensorrt")]
    candidates += [candidate("tensorrt-rtx", reason="not here"), candidate("x", reason="not built", status="failed")]
    document = load_document(deployment, candidates, OPTIONS, EVALUATION, LABELS, skipped=3, run=run)
    json.dumps(document, allow_nan=False)
    assert (document["schema"], document["kind"]) == (1, "load")
    assert document["rules"]["min_duration_s"] == 1 and document["rules"]["mlperf_min_duration_s"] == 600
    assert document["rules"]["relaxed"] == ["min_duration_s", "performance_samples"]
    assert document["data"] | {"name": ""} == {"name": "", "images": 40, "skipped": 3, "labelled": True}
    rows = document["rows"]
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "skipped", "skipped", "failed"]
    assert [row["valid"] for row in rows] == [True, False, None, None, None, None]
    assert rows[0]["session"] == "openvino/int8" and rows[0]["log"] == "loadgen/server/openvino-int8"
    assert rows[0]["metric"] == {"name": "completed samples per second", "value": 123.4568, "unit": "images/s"}
    assert rows[0]["rate"] == {"qps": 124.5, "derived": True}
    assert rows[1]["invalid_because"] == ["min duration not satisfied"]
    assert "it broke" in rows[2]["reason"] and rows[2]["log"] is None and rows[4]["reason"] == "not here"
    assert folders[0] == deployment.workspace.folder / "loadgen" / "server" / "openvino-int8" and len(folders) == 4
    assert {frozenset(row) for row in rows} == {frozenset(rows[0])}


@pytest.mark.parametrize(("labels", "top1"), [(LABELS, 0.75), (None, None)])
def test_the_answers_under_load_are_compared_with_the_labels(deployment: Deployment, labels: Any, top1: Any) -> None:
    document = load_document(
        deployment, [candidate("openvino")], OPTIONS, EVALUATION, labels, run=lambda *_: result_of()
    )
    assert document["rows"][0]["accuracy"] == {"answers": 4, "top1": top1}


def test_a_multi_stream_document_says_how_many_samples_a_query_has(deployment: Deployment) -> None:
    options = LoadOptions(scenario=Scenario.MULTI_STREAM)
    assert load_document(deployment, [], options, EVALUATION, None)["options"]["samples_per_query"] == 8


def test_a_damaged_image_ends_the_command(deployment: Deployment) -> None:
    def run(*_arguments: object) -> LoadResult:
        raise DataError("an image is damaged")

    with pytest.raises(DataError):
        load_document(deployment, [candidate("openvino")], OPTIONS, EVALUATION, LABELS, run=run)


@pytest.mark.parametrize("reason", [None, "not here"])
def test_batches_that_a_session_is_not_made_for_are_refused_before_anything_runs(
    deployment: Deployment, reason: str | None
) -> None:
    options = LoadOptions(scenario=Scenario.OFFLINE, max_batch=32)
    arguments = (deployment, [candidate("openvino", reason=reason)], options, EVALUATION, LABELS)
    if reason is not None:
        assert load_document(*arguments)["rows"][0]["status"] == "skipped"
        return
    with pytest.raises(InputError, match="smaller batches"):
        load_document(*arguments, run=lambda *_: pytest.fail("ran"))


def test_without_loadgen_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "mlperf_loadgen")
    deployment = Deployment(Workspace(folder=tmp_path / "work"))
    with pytest.raises(MissingDependencyError) as caught:
        load_document(
            deployment, [candidate("openvino")], OPTIONS, EVALUATION, LABELS, run=lambda *_: pytest.fail("ran")
        )
    assert caught.value.remedy == "pip install 'alexnet-deploy[loadgen]'" and not (tmp_path / "work").exists()

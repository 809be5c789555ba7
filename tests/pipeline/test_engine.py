"""An engine in a workspace: its passport, its timing cache, and what is asked of the proof."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.engines import build
from alexnet_deploy.engines.build import BuiltEngine
from alexnet_deploy.engines.options import EngineOptions, Profile
from alexnet_deploy.engines.proof import Plan, PlanLayer
from alexnet_deploy.errors import PrecisionProofError
from alexnet_deploy.pipeline import engine as pipeline
from alexnet_deploy.pipeline.engine import EngineRequest, engine_in_workspace, engine_name
from alexnet_deploy.pipeline.workspace import Artifact, Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Precision
from tests.passports import write_passport

OPTIONS = EngineOptions(precision=Precision.INT8, backend="tensorrt", sms=(90,))


class Builder:
    """Stands for the builder: gives layers in the precisions it is told."""

    def __init__(self, **precisions: str) -> None:
        self.precisions, self.given, self.plugins = precisions, list[bytes | None](), ()

    def __call__(self, graph: bytes, options: EngineOptions, **arguments: Any) -> BuiltEngine:
        self.given.append(arguments["timing_cache"])
        arguments["log"].write_text("[INFO] built\n")
        layers = tuple(
            PlanLayer(name=name, op="conv", precision=precision, weight_bytes=1)
            for name, precision in self.precisions.items()
        )
        plan = Plan(
            sms=(90,), size_bytes=6, layers=layers, weight_bytes_by_type={"int8": 2}, reformats=1, plugins=self.plugins
        )
        return BuiltEngine(
            data=b"engine" + graph, options=options, version="10.16", plan=plan, layers=3, seconds=1.234,
            timing_cache=b"times", cache_taken=arguments["timing_cache"] != b"another's",
        )  # fmt: skip


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineRequest:
    monkeypatch.setattr(pipeline, "tensorrt_version", lambda _backend: "10.16")
    monkeypatch.setattr(pipeline, "cuda_driver_version", lambda: "13.0")
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"graph")
    facts = {"model": {"name": "small"}, "lrn": "native", "lrn_reason": "by rule", "keep_float": []}
    write_passport(path, kind="onnx", facts=facts)
    return EngineRequest(
        options=OPTIONS,
        graph=Artifact(path=path, reused=True, facts=facts),
        layers=("conv1", "fc6"),
        norms=2,
        timing_cache=tmp_path / "cache",
    )


def made(asked: EngineRequest, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> tuple[Artifact, str]:
    said = io.StringIO()
    monkeypatch.setattr(build, "engine_from_onnx", builder)
    folder = asked.graph.path.parent
    return engine_in_workspace(
        Workspace(folder=folder, voice=Voice(stream=said)), folder / "a.engine", asked
    ), said.getvalue()


def test_the_passport_says_all_that_opening_it_takes(asked: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, said = made(asked, Builder(conv1="int8", fc6="int8"), monkeypatch)
    assert "2 of 2 layers in int8; weights int8 0.00 MB; 1 kernels that only move" in said
    passport = read_passport(artifact.path)
    assert passport is not None and passport.tools["tensorrt"] == "10.16"
    facts = passport.facts
    assert (facts["backend"], facts["precision"], facts["driver"]) == ("tensorrt", "int8", "13.0")
    assert facts["options"]["sms"] == [90] and facts["plan"]["sms"] == ["sm90"]
    assert facts["plan"]["layers_by_precision"] == {"int8": 2} and facts["build_seconds"] == 1.23
    assert facts["model"] == {"name": "small"} and facts["source"] == "shipped"


def test_a_timing_cache_goes_from_build_to_build(asked: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder(conv1="int8", fc6="int8")
    made(asked, builder, monkeypatch)
    assert asked.timing_cache is not None and asked.timing_cache.read_bytes() == b"times"
    monkeypatch.setattr(pipeline, "tensorrt_version", lambda _backend: "10.17")
    made(asked, builder, monkeypatch)
    assert builder.given == [None, b"times"]


def test_a_file_that_is_no_timing_cache_is_left_alone(asked: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked.timing_cache is not None
    asked.timing_cache.write_bytes(b"another's")
    made(asked, Builder(conv1="int8", fc6="int8"), monkeypatch)
    assert asked.timing_cache.read_bytes() == b"another's"


def test_another_engine_has_another_name() -> None:
    names = {
        engine_name("net", dataclasses.replace(OPTIONS, **change))
        for change in ({}, {"profiles": (Profile(max=32),)}, {"strip": True}, {"workspace_bytes": 1 << 20})
    }
    assert len(names) == 4 and "net.int8.tensorrt.sm90.engine" in names


def test_a_layer_that_fell_back_leaves_no_engine_and_its_log(
    asked: EngineRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PrecisionProofError, match="1 of 2") as caught:
        made(asked, Builder(conv1="int8", fc6="fp16"), monkeypatch)
    assert caught.value.exit_code == 3
    folder = asked.graph.path.parent
    assert not (folder / "a.engine").exists() and (folder / "a.engine.log").is_file()


def test_a_layer_that_may_be_float_is_kept_and_counted(asked: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = dataclasses.replace(asked, allow_float=True)
    artifact, said = made(allowed, Builder(conv1="int8", fc6="fp16"), monkeypatch)
    assert artifact.path.is_file() and "1 of 2 layers in int8" in said
    guarded = dataclasses.replace(
        asked, graph=dataclasses.replace(asked.graph, facts={**asked.graph.facts, "keep_float": ["fc6"]})
    )
    assert "1 of 1 layers in int8" in made(guarded, Builder(conv1="int8", fc6="fp16"), monkeypatch)[1]


def test_the_plugin_must_be_there_for_every_norm(asked: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = dataclasses.replace(asked, options=dataclasses.replace(OPTIONS, plugin=True))
    with pytest.raises(PrecisionProofError, match="LRN plugin"):
        made(plugin, Builder(conv1="int8", fc6="int8"), monkeypatch)


@pytest.mark.parametrize(
    ("backend", "plugin", "name"),
    [
        ("tensorrt", False, "net.int8.tensorrt.sm90.engine"),
        ("tensorrt-rtx", True, "net.int8.tensorrt-rtx.sm86+sm89.lrn-plugin.engine"),
    ],
)
def test_the_name_says_what_it_is(backend: str, plugin: bool, name: str) -> None:
    sms = (90,) if backend == "tensorrt" else (86, 89)
    options = EngineOptions(precision=Precision.INT8, backend=backend, sms=sms, plugin=plugin, profiles=(Profile(),))
    assert engine_name("net", options) == name

"""Engines are built without a GPU, alike each time, and what cannot be built is refused with the builder's words."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from alexnet_deploy.engines.build import BuiltEngine, engine_from_onnx, write_log
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.engines.plan import MAGIC, read_plan
from alexnet_deploy.errors import EngineError, InputError, MissingDependencyError
from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.specs import Precision
from tests.graphs import engine_graph, model_of, small_engine

pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_an_engine_says_what_made_it(precision: Precision) -> None:
    built = small_engine(precision)
    assert built.plan[:4] == MAGIC
    assert built.backend == "tensorrt-rtx"
    assert built.version.startswith("1.")
    assert built.layers >= 20 and built.seconds > 0
    assert all(line.startswith("[") for line in built.log)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_the_same_graph_gives_the_same_engine(precision: Precision) -> None:
    options = EngineOptions(precision=precision, backend="tensorrt-rtx", sms=(86, 89))
    again, first = engine_from_onnx(engine_graph(precision), options).plan, small_engine(precision).plan
    # The builder's threads number their intermediate values in the order they come by, and nothing else differs.
    assert len(again) == len(first)
    assert described(again) == described(first)


def described(plan: bytes) -> dict[str, Any]:
    values = read_plan(plan).to_json()
    return values | {"layers": sorted(values["layers"], key=lambda layer: str(layer["name"]))}


@pytest.mark.parametrize("sms", [(89,), (80, 120, 121), (75, 86)])
def test_the_engine_holds_the_architectures_asked_for(sms: tuple[int, ...]) -> None:
    options = EngineOptions(precision=Precision.FP16, backend="tensorrt-rtx", sms=sms)
    assert read_plan(engine_from_onnx(engine_graph(Precision.FP16), options).plan).sms == sms


def test_a_fixed_batch_needs_no_profile() -> None:
    weight = np.ones((8, 3, 3, 3), np.float32)
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"], name="conv1")], [2, 3, 8, 8], {"w": weight})
    options = EngineOptions(precision=Precision.FP32, backend="tensorrt-rtx", sms=(89,))
    assert [layer.name for layer in read_plan(engine_from_onnx(graph_bytes(model), options).plan).layers] == ["conv1"]


@pytest.mark.parametrize("graph", [b"", b"not an ONNX graph"])
def test_what_is_not_a_graph_is_refused(graph: bytes) -> None:
    with pytest.raises(EngineError, match="cannot read the graph") as caught:
        engine_from_onnx(graph, EngineOptions(backend="tensorrt-rtx", sms=(89,)))
    assert caught.value.got


def test_an_operator_the_parser_lacks_is_refused_in_its_words() -> None:
    model = model_of([helper.make_node("Unique", ["x"], ["y"], name="uniques")], ["N", 3, 8, 8], {})
    with pytest.raises(EngineError, match="tensorrt-rtx cannot read the graph") as caught:
        engine_from_onnx(graph_bytes(model), EngineOptions(backend="tensorrt-rtx", sms=(89,)))
    assert "Unique" in str(caught.value.got)


def test_a_dynamic_image_size_is_refused() -> None:
    weight = np.ones((8, 3, 3, 3), np.float32)
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"], name="conv1")], ["N", 3, "H", "W"], {"w": weight})
    with pytest.raises(EngineError, match="image size is dynamic"):
        engine_from_onnx(graph_bytes(model), EngineOptions(backend="tensorrt-rtx", sms=(89,)))


def test_a_failure_after_a_success_gives_its_own_error() -> None:
    small_engine(Precision.FP16)
    with pytest.raises(EngineError) as first:
        engine_from_onnx(b"not an ONNX graph", EngineOptions(backend="tensorrt-rtx", sms=(89,)))
    model = model_of([helper.make_node("Unique", ["x"], ["y"], name="uniques")], ["N", 3, 8, 8], {})
    with pytest.raises(EngineError) as second:
        engine_from_onnx(graph_bytes(model), EngineOptions(backend="tensorrt-rtx", sms=(89,)))
    assert first.value.got != second.value.got


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_backend_that_is_not_installed_names_its_extra() -> None:
    with pytest.raises(MissingDependencyError, match="tensorrt") as caught:
        engine_from_onnx(engine_graph(Precision.FP16), EngineOptions(backend="tensorrt"))
    assert caught.value.remedy and "alexnet-deploy[tensorrt]" in caught.value.remedy


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match="backend") as caught:
        engine_from_onnx(engine_graph(Precision.FP16), EngineOptions(backend="openvino"))
    assert "tensorrt-rtx" in str(caught.value.expected)


def test_an_interrupt_from_the_progress_bar_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_deploy.progress import Track

    def interrupted(self: Track, count: int = 1, note: str = "") -> None:
        if count:
            raise KeyboardInterrupt

    monkeypatch.setattr(Track, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(engine_graph(Precision.FP16), EngineOptions(backend="tensorrt-rtx", sms=(89,)))


def test_the_log_leaves_out_that_there_is_no_driver(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    write_log(path, ("[INFO] begins", "[ERROR] CUDA initialization failure: cudaError 35", "[WARNING] ends"))
    assert path.read_text() == "[INFO] begins\n[WARNING] ends\n"


def test_a_built_engine_is_a_value() -> None:
    built = BuiltEngine(plan=b"x", backend="tensorrt-rtx", version="1.7", log=(), layers=1, seconds=0.5)
    assert built == BuiltEngine(plan=b"x", backend="tensorrt-rtx", version="1.7", log=(), layers=1, seconds=0.5)

"""Engines are built without a GPU, alike each time, and what cannot be built is refused with the builder's words."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from alexnet_deploy.engines.build import engine_from_onnx
from alexnet_deploy.engines.options import EngineOptions, Profile
from alexnet_deploy.engines.plan import MAGIC, read_plan
from alexnet_deploy.engines.progress import STEPS, BuildProgress
from alexnet_deploy.errors import EngineError, InputError, MissingDependencyError
from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.progress import Track, Voice
from alexnet_deploy.specs import Precision
from tests.graphs import engine_graph, model_of, small_engine

pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_an_engine_says_what_made_it(precision: Precision) -> None:
    built = small_engine(precision)
    assert built.data[:4] == MAGIC
    assert built.options.backend == "tensorrt-rtx" and built.options.sms == (86, 89)
    assert built.version.startswith("1.")
    assert built.layers >= 20 and built.seconds > 0
    assert built.plan == read_plan(built.data)
    assert built.timing_cache is None


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_the_same_graph_gives_the_same_engine(precision: Precision) -> None:
    options = EngineOptions(precision=precision, backend="tensorrt-rtx", sms=(86, 89))
    again, first = engine_from_onnx(engine_graph(precision), options).data, small_engine(precision).data
    # The builder's threads number their intermediate values in the order they come by, and nothing else differs.
    assert len(again) == len(first)
    assert described(again) == described(first)


def described(plan: bytes) -> dict[str, Any]:
    values = read_plan(plan).to_json()
    return values | {"layers": sorted(values["layers"], key=lambda layer: str(layer["name"]))}


@pytest.mark.parametrize("sms", [(89,), (80, 120, 121), (75, 86)])
def test_the_engine_holds_the_architectures_asked_for(sms: tuple[int, ...]) -> None:
    options = EngineOptions(precision=Precision.FP16, backend="tensorrt-rtx", sms=sms)
    assert engine_from_onnx(engine_graph(Precision.FP16), options).plan.sms == sms


def test_a_fixed_batch_needs_no_profile() -> None:
    weight = np.ones((8, 3, 3, 3), np.float32)
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"], name="conv1")], [2, 3, 8, 8], {"w": weight})
    options = EngineOptions(precision=Precision.FP32, backend="tensorrt-rtx", sms=(89,))
    assert [layer.name for layer in engine_from_onnx(graph_bytes(model), options).plan.layers] == ["conv1"]


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


@pytest.mark.parametrize("method", ["start", "step", "finish"])
def test_an_interrupt_in_a_callback_ends_the_build(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BuildProgress, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(engine_graph(Precision.FP16), EngineOptions(backend="tensorrt-rtx", sms=(89,)))
    monkeypatch.undo()
    assert engine_from_onnx(engine_graph(Precision.FP16), EngineOptions(backend="tensorrt-rtx", sms=(89,))).data


def test_ctrl_c_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal itself, as the terminal sends it, in the middle of a build."""
    step = BuildProgress.step

    def signalled(self: BuildProgress, name: str, number: int) -> None:
        if self.fraction > 0.3:
            signal.raise_signal(signal.SIGINT)
        step(self, name, number)

    monkeypatch.setattr(BuildProgress, "step", signalled)
    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(engine_graph(Precision.FP16), EngineOptions(backend="tensorrt-rtx", sms=(89,)))


def test_every_node_that_cannot_be_read_is_named() -> None:
    weight = np.ones((8, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv1"),
        helper.make_node("Unique", ["a"], ["b"], name="uniques"),
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv2"),
        helper.make_node("BitwiseNot", ["c"], ["y"], name="inverted"),
    ]
    with pytest.raises(EngineError, match="cannot read the graph") as caught:
        engine_from_onnx(
            graph_bytes(model_of(nodes, ["N", 3, 8, 8], {"w": weight})),
            EngineOptions(backend="tensorrt-rtx", sms=(89,)),
        )
    assert caught.value.got == (
        "uniques (Unique): no such operator (UNSUPPORTED_NODE); "
        "inverted (BitwiseNot): no such operator (UNSUPPORTED_NODE)"
    )


def test_a_node_with_an_attribute_that_is_not_taken_is_named_with_the_reason() -> None:
    nodes = [helper.make_node("LRN", ["x"], ["y"], name="norm1", size=4)]
    with pytest.raises(EngineError) as caught:
        engine_from_onnx(graph_bytes(model_of(nodes, ["N", 8, 8, 8], {})), EngineOptions(backend="tensorrt-rtx"))
    assert str(caught.value.got).startswith("norm1 (LRN): ") and "indow" in str(caught.value.got)


def test_an_engine_has_the_profiles_it_was_asked_for() -> None:
    """Two profiles are two sets of kernels: the engine grows, its layers are the same."""
    one = engine_from_onnx(engine_graph(Precision.FP16), EngineOptions(backend="tensorrt-rtx", sms=(89,)))
    profiles = (Profile(max=1), Profile(min=2, opt=8, max=16))
    two = engine_from_onnx(
        engine_graph(Precision.FP16), EngineOptions(backend="tensorrt-rtx", sms=(89,), profiles=profiles)
    )
    assert len(two.data) > len(one.data)
    assert sorted(layer.name for layer in two.plan.layers) == sorted(layer.name for layer in one.plan.layers)
    assert {layer.precision for layer in two.plan.layers} == {"fp16"}


def test_a_workspace_that_is_named_is_taken() -> None:
    enough = EngineOptions(backend="tensorrt-rtx", sms=(89,), workspace_bytes=64 << 20)
    assert engine_from_onnx(engine_graph(Precision.FP16), enough).plan.sms == (89,)
    with pytest.raises(EngineError, match="could not build") as caught:
        engine_from_onnx(engine_graph(Precision.FP16), dataclasses.replace(enough, workspace_bytes=1 << 10))
    assert "workspace" in str(caught.value.got)


def test_what_the_backend_lacks_is_refused_before_the_build() -> None:
    with pytest.raises(InputError, match="lacks an option"):
        engine_from_onnx(b"", EngineOptions(backend="tensorrt-rtx", version_compatible=True))


def test_the_log_is_written_without_saying_that_there_is_no_driver(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    options = EngineOptions(backend="tensorrt-rtx", sms=(89,))
    engine_from_onnx(engine_graph(Precision.FP16), options, log=log)
    lines = log.read_text().splitlines()
    assert lines and all(line.startswith("[") for line in lines)
    assert not any("cudaError 35" in line for line in lines)


def test_a_build_that_fails_leaves_its_log(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    nodes = [helper.make_node("LRN", ["x"], ["y"], name="norm1", size=4)]
    with pytest.raises(EngineError):
        engine_from_onnx(
            graph_bytes(model_of(nodes, ["N", 8, 8, 8], {})), EngineOptions(backend="tensorrt-rtx"), log=log
        )
    assert "norm1" in log.read_text()


class Words(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_of_a_build_reaches_its_end() -> None:
    """A test of what is said, not of how it looks: the track is advanced to its total by the builder's own phases."""
    moved: list[int] = []

    class Counted(Voice):
        @contextlib.contextmanager
        def track(self, description: str, total: int, done: int = 0) -> Iterator[Track]:
            assert description == "build fp16" and total == STEPS
            with super().track(description, total, done) as track:
                advance = track.advance

                def counted(count: int = 1, note: str = "") -> None:
                    assert note
                    moved.append(count)
                    advance(count, note)

                track.advance = counted  # type: ignore[method-assign]
                yield track

    voice = Counted(stream=Words())
    engine_from_onnx(engine_graph(Precision.FP16), EngineOptions(backend="tensorrt-rtx", sms=(89,)), voice=voice)
    assert len(moved) > 5 and all(count > 0 for count in moved)
    assert sum(moved) == STEPS

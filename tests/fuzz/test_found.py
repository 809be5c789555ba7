"""What the fuzz has found, each by hand and without chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from alexnet_deploy.artifacts import passport_path
from alexnet_deploy.bench.documents import MOST_ROUNDS, read_bench
from alexnet_deploy.data import sources
from alexnet_deploy.engines.plan import read_plan
from alexnet_deploy.errors import ArtifactError, DataError, EngineError, GraphError, ImageError, InputError, ParityError
from alexnet_deploy.export import parity, require_parity
from alexnet_deploy.graph import info_of, read_graph
from alexnet_deploy.inspection import inspect_file
from alexnet_deploy.normalise import normalise
from alexnet_deploy.precision.resume import Progress
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.prediction import engine_spec, labels_from_file
from alexnet_deploy.specs import Preprocessing, fingerprint
from alexnet_deploy.training.state import load_state
from tests.fuzz.targets.artifacts import _digest_of, _facts, _passport_of, _plan
from tests.fuzz.targets.checkpoints import _optimizer, _state_seeds
from tests.fuzz.targets.documents import _bench_seeds, _resumed_seeds, _table_seeds
from tests.fuzz.targets.hand_made import graphs
from tests.fuzz.targets.networks import SPEC

ENDLESS = 10**400
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("percentile",), ENDLESS),
        (("percentile",), float("-inf")),
        (("percentile",), 0),
        (("tensors", "x", "min"), ENDLESS),
        (("tensors", "x", "thresholds", "max"), -1.0),
        (("tensors", "x", "thresholds", "mse"), 1e6),
        (("tensors", "x", "max"), 1e6),
        (("tensors", "x", "min"), 1e-3),
        (("tensors", "z", "max"), 1.0),
    ],
)
def test_a_table_whose_numbers_do_not_fit_each_other(place: tuple[str, ...], value: float, tmp_path: Path) -> None:
    document = json.loads(json.dumps(_table_seeds()["table"]))
    inner: Any = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="calibration table") as caught:
        CalibrationTable.read(tmp_path / "t.json")
    assert caught.value.remedy


def test_nested_deeper_than_python_reads(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(DEEP)
    with pytest.raises(InputError):
        CalibrationTable.read(tmp_path / "x.json")
    assert Progress(tmp_path / "x.json", "r").restore(["x"])[0] == 0
    model = normalise(read_graph(hand_made(tmp_path))).model
    model.metadata_props["alexnet_deploy.model"] = DEEP
    with pytest.raises(InputError, match="metadata"):
        info_of(model)


def hand_made(folder: Path) -> Path:
    path = folder / "x.onnx"
    path.write_bytes(graphs()[0])
    return path


@pytest.mark.parametrize("done", [0, -16, "16", 1.5, None])
def test_counts_of_no_number_of_images_are_not_taken_up(done: object, tmp_path: Path) -> None:
    content = _resumed_seeds() | {"done": done}
    (tmp_path / "x.part").write_text(json.dumps({**content, "fingerprint": fingerprint(content)}))
    found, histograms = Progress(tmp_path / "x.part", "r").restore(["x", "y"])
    assert found == 0 and not any(each.magnitudes.any() for each in histograms.values())


@pytest.mark.parametrize(
    "changes",
    [{"options": {"rounds": MOST_ROUNDS + 1}}, {"made": "\ud800"}, {"options": {"rounds": ENDLESS}}],
)
def test_a_bench_that_would_take_for_ever_or_cannot_be_shown(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(_bench_seeds()["old"] | changes))
    with pytest.raises(InputError, match="no bench"):
        read_bench(tmp_path / "b.json")


@pytest.mark.parametrize("name", ["top1", "agreement"])
def test_a_bench_row_without_its_accuracy(name: str, tmp_path: Path) -> None:
    document = _bench_seeds()["old"]
    del document["rows"][0][name]
    (tmp_path / "b.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="no bench"):
        read_bench(tmp_path / "b.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"backend": "other"}, {"precision": {}}, {"precision": None}, {"options": []}, {"plan": {"sms": ["x"]}},
        {"plan": {"sms": 3}}, {"options": {"profiles": [1]}}, {"options": {"sms": "86"}}, {"driver": 13},
    ],
)  # fmt: skip
def test_a_passport_that_is_whole_and_says_nothing_of_an_engine(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(_plan())
    values = _passport_of(_plan(), _facts("tensorrt"))
    values["facts"] |= changes
    passport_path(path).write_text(json.dumps(values | {"digest": _digest_of(values)}))
    with pytest.raises(ArtifactError, match="does not describe an engine") as caught:
        engine_spec(path, threads=1, trust=False)
    assert caught.value.got and caught.value.remedy


def test_a_passport_whose_plan_is_none_cannot_be_inspected(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(_plan())
    values = _passport_of(_plan(), _facts("tensorrt"))
    values["facts"]["plan"] = {"layers": 3}
    passport_path(path).write_text(json.dumps(values | {"digest": _digest_of(values)}))
    with pytest.raises(ArtifactError, match="does not describe an engine"):
        inspect_file(str(path))


def test_plans_that_end_in_their_header_have_names_in_no_encoding_or_never_end() -> None:
    data = _plan()
    with pytest.raises(EngineError):
        read_plan(data[:0x25])
    changed = data.replace(b"[ONNX Layer: conv1]", b"[ONNX Layer: c\xff\xfe1]")
    assert "c\ufffd\ufffd1" in {layer.name for layer in read_plan(changed).layers}
    profile = data.replace(b"[profile 1]", b"[profile 999999999999]")
    assert read_plan(profile).layers
    # Ten million steps where the pattern looks once, and 10**13 where it looks over and over.
    assert read_plan(data + b"\n  corrltn={ name=x " + b"[ONNX Layer: " * 200_000).size_bytes > len(data)
    assert read_plan(data + b"\n  corrltn={ name=x " + b'input={"' * 200_000).size_bytes > len(data)


def test_images_without_pixels_are_refused() -> None:
    with pytest.raises(DataError, match="no pixels") as caught:
        sources.ArraySource(np.zeros((2, 0, 5), np.uint8), np.zeros(2, np.int64), ("a",), "x")
    assert caught.value.got and caught.value.expected


@pytest.mark.parametrize("content", [b"", b" \n \n", b"a\x1b[2Jb\n", b"\xff\xfea\x00"])
def test_labels_that_are_none_or_cannot_be_shown(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"l\.txt") as caught:
        labels_from_file(tmp_path / "l.txt")
    assert caught.value.got is not None and caught.value.expected


def test_a_mark_at_the_beginning_is_no_part_of_a_label(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("Löwe\nn01\ttench\n", encoding="utf-8-sig")
    assert labels_from_file(tmp_path / "l.txt") == ("Löwe", "n01\ttench")


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 0.0}, {"scale": float("nan")}, {"scale": float("inf")}, {"scale": -1.0}, {"std": (1e-320, 1.0, 1.0)},
        {"std": (float("inf"), 1.0, 1.0)}, {"mean": (float("nan"), 0.0, 0.0)}, {"mean": (0.0, 1e30, 0.0)},
    ],
)  # fmt: skip
def test_preprocessing_that_makes_no_numbers(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="preprocessing") as caught:
        Preprocessing(**changes)
    assert caught.value.got and caught.value.expected


@pytest.mark.parametrize("shape", [[5, 3, 3, 3], [6, 3, 3, 4], [-6, 3, 3, -3], [6, 3, 3, 3, 2**40]])
def test_a_constant_whose_shape_is_not_its_data(shape: list[int], tmp_path: Path) -> None:
    model = onnx.load_from_string(graphs()[0])
    tensor = next(each for each in model.graph.initializer if each.name == "conv_w")
    tensor.dims[:] = shape
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="conv_w"):
        read_graph(tmp_path / "x.onnx")


def test_a_graph_that_the_converter_finds_contradictory_is_not_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contradict(*_: object) -> None:
        raise onnx.shape_inference.InferenceError("differ in rank")

    monkeypatch.setattr(onnx.version_converter, "convert_version", contradict)
    (tmp_path / "x.onnx").write_bytes(graphs()[1])
    with pytest.raises(GraphError, match="cannot be converted") as caught:
        normalise(read_graph(tmp_path / "x.onnx"))
    assert caught.value.got == "differ in rank"


@pytest.mark.parametrize("error", [IndexError, NotImplementedError, OverflowError, MemoryError, KeyError])
def test_whatever_pillow_raises_is_about_the_image(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "x.png")

    def fail(_image: object) -> None:
        raise error

    monkeypatch.setattr(sources, "_pixels", fail)
    with pytest.raises(ImageError, match=r"x\.png") as caught:
        sources.read_image(tmp_path / "x.png")
    assert caught.value.got


@pytest.mark.parametrize("position", [[], {}, {"fingerprint": "f" * 16}, {"fingerprint": 3, "step": 1}])
def test_a_training_state_without_a_position(position: Any, tmp_path: Path) -> None:
    from safetensors.torch import load, save

    from alexnet_deploy.network import AlexNet

    data = save(load(_state_seeds()), {"alexnet_deploy_training": json.dumps(position)})
    (tmp_path / "s").write_bytes(data)
    network = AlexNet(SPEC)
    with pytest.raises(InputError, match="no run to resume"):
        load_state(tmp_path / "s", network, _optimizer(network), "f" * 16)


@pytest.mark.parametrize(
    "name", ["network.conv1.weight", "optimizer.0.momentum_buffer", "optimizer.99.x", "optimizer.x.y"]
)
def test_a_training_state_that_is_not_whole(name: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load, save

    from alexnet_deploy.network import AlexNet

    tensors = load(_state_seeds())
    if name in tensors:
        del tensors[name]
    else:
        tensors[name] = torch.zeros(1)
    position = {"fingerprint": "f" * 16, "step": 3, "validation_top1": 0.5}
    (tmp_path / "s").write_bytes(save(tensors, {"alexnet_deploy_training": json.dumps(position)}))
    network = AlexNet(SPEC)
    with pytest.raises(InputError, match="damaged") as caught:
        load_state(tmp_path / "s", network, _optimizer(network), "f" * 16)
    assert caught.value.got and caught.value.remedy


def test_an_error_quotes_no_more_than_a_person_reads_and_nothing_that_a_terminal_acts_on() -> None:
    text = str(InputError("it is wrong\x1b[2J", got="x" * 100_000, expected="\x07"))
    assert len(text) < 1200 and "\x1b" not in text and "\x07" not in text and "\\x1b" in text


def test_outputs_that_are_infinite_on_both_sides_are_refused_without_a_librarys_warning() -> None:
    endless = np.full((2, 3), np.inf, np.float32)
    with pytest.raises(ParityError) as caught:
        require_parity(parity(endless, endless, 1e-4), "the graph")
    assert caught.value.remedy

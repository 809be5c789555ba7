"""Inspection says what a file is, layer by layer, with the numbers of the textbook and of the file itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from alexnet_deploy.errors import EngineError, InputError, WeightsError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.graph import write_graph
from alexnet_deploy.inspection import inspect_file, inspect_variant
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.report.inspect_text import print_inspection
from alexnet_deploy.specs import Precision, Target
from alexnet_deploy.variants import VARIANTS, NetworkSpec
from alexnet_deploy.weights import save_checkpoint
from tests.conftest import small_info, small_network
from tests.graphs import CONVOLUTIONS, LINEARS, small_engine, small_graph, small_table
from tests.passports import write_passport

KEYS = {
    "schema", "kind", "path", "sha256", "size_bytes", "sms", "passport", "weight_bytes_by_type", "reformats", "layers",
}  # fmt: skip
LAYER_KEYS = {"name", "op", "precision", "output", "parameters", "macs", "weight_bytes"}
# Krizhevsky et al. 2012 give 60 million parameters; these are the sums of the five architectures.
PARAMETERS = {
    "paper": 60_965_224, "bvlc": 60_965_224, "caffenet": 60_965_224, "owt": 61_100_840, "unpadded": 49_430_888,
}  # fmt: skip


def layers_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {layer["name"]: layer for layer in document["layers"]}


def as_text(document: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_inspection(document, Console(file=stream, width=160))
    return stream.getvalue()


def assert_describes(document: dict[str, Any], kind: str, path: Path) -> None:
    assert set(document) >= KEYS
    assert (document["kind"], document["path"]) == (kind, str(path))
    assert (document["sha256"], document["size_bytes"]) == (sha256_of(path), path.stat().st_size)
    assert all(set(layer) >= LAYER_KEYS for layer in document["layers"])
    json.dumps(document)
    text = as_text(document)
    assert sha256_of(path) in text and "…" not in text


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_the_parameters_of_the_literature(variant: str) -> None:
    document = inspect_variant(NetworkSpec(variant=variant))
    assert sum(layer["parameters"] for layer in document["layers"]) == PARAMETERS[variant]
    assert document["weight_bytes_by_type"] == {"fp32": 4 * PARAMETERS[variant]}
    assert document["summary"] == VARIANTS[variant].summary
    assert f"{PARAMETERS[variant]:,}" in as_text(document)


def test_a_checkpoint_is_described_with_its_model_and_density(small_checkpoint: Path) -> None:
    document = inspect_file(str(small_checkpoint))
    assert_describes(document, "checkpoint", small_checkpoint)
    assert document["model"] == small_info().to_json()
    assert document["density"] == dict.fromkeys(CONVOLUTIONS + LINEARS, 1.0)
    parameters = sum(tensor.numel() for tensor in small_network().state_dict().values())
    assert sum(layer["parameters"] for layer in document["layers"]) == parameters


def test_the_density_of_a_pruned_layer_is_its_share_of_nonzero_weights(tmp_path: Path) -> None:
    network = small_network()
    with torch.no_grad():
        network.fc7.weight[:256] = 0  # type: ignore[operator, union-attr]
    path = tmp_path / "pruned.safetensors.zst"
    save_checkpoint(network, small_info(), path)
    document = inspect_file(str(path))
    assert document["density"]["fc7"] == 0.5 and document["density"]["fc6"] == 1.0
    assert "50.0 %" in as_text(document)


def test_a_graph_is_described_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.onnx"
    write_graph(small_graph(), path)
    document = inspect_file(str(path))
    assert_describes(document, "onnx", path)
    assert document["opset"] == 18 and document["model"] == small_info().to_json()
    assert document["passport"] is None
    assert set(document["weight_bytes_by_type"]) == {"float"} or set(document["weight_bytes_by_type"]) == {"fp32"}
    layers = layers_of(document)
    assert layers["conv1"]["output"] == [16, 24, 24] and layers["conv1"]["macs"] == 16 * 3 * 121 * 24 * 24
    assert {layers[name]["precision"] for name in CONVOLUTIONS + LINEARS} == {"fp32"}


def test_an_fp16_graph_says_so(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.fp16.onnx"
    write_graph(half_from_fp32(small_graph(), Precision.FP16), path)
    layers = layers_of(inspect_file(str(path)))
    assert {layers[name]["precision"] for name in CONVOLUTIONS + LINEARS} == {"fp16"}
    assert layers["norm1"]["precision"] == "fp32"


@pytest.mark.parametrize("target", [Target.OPENVINO, Target.ONNXRUNTIME_CPU])
def test_an_int8_graph_says_so_and_keeps_its_costs(tmp_path: Path, target: Target) -> None:
    path = tmp_path / "alexnet.int8.onnx"
    write_graph(int8_from_fp32(small_graph(), small_table(), target), path)
    fp32 = tmp_path / "alexnet.onnx"
    write_graph(small_graph(), fp32)
    layers, expected = layers_of(inspect_file(str(path))), layers_of(inspect_file(str(fp32)))
    for name in CONVOLUTIONS + LINEARS:
        assert layers[name]["precision"] == "int8", name
        for key in ("parameters", "macs", "output"):
            assert layers[name][key] == expected[name][key], (name, key)


def test_a_passport_is_shown_with_its_artifact(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.onnx"
    write_graph(small_graph(), path)
    write_passport(path, kind="onnx", facts={"precision": "fp32"})
    document = inspect_file(str(path))
    assert document["passport"]["facts"] == {"precision": "fp32"}
    assert "no passport" not in as_text(document)


def test_an_engine_is_described_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "alexnet.engine"
    path.write_bytes(small_engine(Precision.INT8).data)
    document = inspect_file(str(path))
    assert_describes(document, "engine", path)
    assert document["sms"] == ["sm86", "sm89"]
    assert {name: layer["precision"] for name, layer in layers_of(document).items()} == dict.fromkeys(
        CONVOLUTIONS + LINEARS, "int8"
    )
    assert "sm86, sm89" in as_text(document)


def test_a_calibration_table_is_described(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    small_table().write(path)
    document = inspect_file(str(path))
    assert_describes(document, "calibration", path)
    assert (document["method"], document["percentile"], document["images"]) == ("max", 99.99, 32)
    assert document["images_sha256"] == list(small_table().images)
    found = small_table().tensors["pool1"]
    assert document["tensors"]["pool1"] == found.to_json()
    line = next(line for line in as_text(document).splitlines() if "pool1" in line)
    for number in (
        found.histogram.maximum,
        *found.thresholds.values(),
        small_table().range_of("pool1").symmetric_scale,
    ):
        assert f" {number:.5g} " in line


@pytest.mark.parametrize("method", Method)
def test_the_method_in_use_is_described_with_its_scale(tmp_path: Path, method: Method) -> None:
    path = tmp_path / "calibration.json"
    table = small_table().by_method(method, 99.0)
    table.write(path)
    document = inspect_file(str(path))
    assert (document["method"], document["percentile"]) == (method.value, 99.0)
    text = as_text(document)
    assert f"{method.value} in use" in text
    line = next(line for line in text.splitlines() if "pool1" in line)
    assert f" {table.tensors['pool1'].thresholds[method] / 127:.5g} " in line


def test_a_passport_is_no_calibration_table(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.onnx"
    path.write_bytes(b"x")
    write_passport(path, kind="onnx")
    with pytest.raises(InputError, match="not a calibration table") as caught:
        inspect_file(str(tmp_path / "alexnet.onnx.json"))
    assert "passport" in str(caught.value.expected)


@pytest.mark.parametrize("name", ["nothing.onnx", "."])
def test_a_missing_file_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no file") as caught:
        inspect_file(name)
    assert caught.value.expected


@pytest.mark.parametrize("name", ["notes.txt", "model", "model.tflite"])
def test_a_file_of_no_known_kind_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match="no known kind") as caught:
        inspect_file(str(tmp_path / name))
    assert ".engine" in str(caught.value.expected)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("a.onnx", InputError),
        ("a.engine", EngineError),
        ("a.plan", EngineError),
        ("a.safetensors", InputError),
        ("a.safetensors.zst", InputError),
        ("a.pth", InputError),
        ("a.json", InputError),
    ],
)
def test_a_broken_file_of_each_kind_is_an_error_that_says_what_was_expected(
    name: str, error: type[InputError], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"this is not what its name says")
    with pytest.raises(error) as caught:
        inspect_file(str(tmp_path / name))
    assert caught.value.got is not None
    assert caught.value.remedy or caught.value.expected


def test_weights_of_no_alexnet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"linear.weight": torch.ones(2, 2)}, path)
    with pytest.raises(WeightsError, match="AlexNet"):
        inspect_file(str(path))

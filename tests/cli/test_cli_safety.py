"""What is unsafe in a network's numbers is said by the command that makes it, kept in the passport, and inspected."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_deploy.precision.findings import CHANNEL_IMAGES
from alexnet_deploy.weights import save_checkpoint
from tests.cli.conftest import Run, assert_refused
from tests.conftest import small_info, small_network


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_network` with idle channels in conv3, dead ones in conv4, and a weight beyond FP16 in fc7."""
    network = small_network()
    with torch.no_grad():
        network.conv3.weight[:12] = 0  # type: ignore[operator, union-attr]
        network.conv4.bias[::2] = -1000  # type: ignore[operator, union-attr]
        network.fc7.weight[0, 0] = 1e5  # type: ignore[operator, union-attr]
    path = tmp_path_factory.mktemp("damaged") / "damaged.safetensors"
    save_checkpoint(network, small_info(), path)
    return path


def warnings_of(err: str) -> list[str]:
    return [line.removeprefix("warning: ") for line in err.splitlines() if line.startswith("warning: ")]


def test_export_names_layers_and_shares_and_keeps_them(run: Run, damaged: Path, tmp_path: Path) -> None:
    arguments = ["export", "--model", damaged, "--workdir", tmp_path / "work", "--quiet", "--json"]
    ended = run(*arguments)
    assert ended.code == 0
    idle, overflow = warnings_of(ended.err)
    assert idle.startswith("idle-channels: the weights of conv3 (12 of 48, 25 %): ")
    assert overflow.startswith("fp16-overflow: the weights of fc7 (1 of 262,144, ") and "up to 1e+05" in overflow
    kept = [(each["kind"], each["layer"], each["count"]) for each in ended.document["passport"]["facts"]["safety"]]
    assert kept == [("idle-channels", "conv3", 12), ("fp16-overflow", "fc7", 1)]
    again = run(*arguments)
    assert warnings_of(again.err) == [] and again.document["passport"] == ended.document["passport"]
    text = run("inspect", ended.document["path"]).out
    assert idle in text and overflow in text
    refused = run(*arguments[:-1], "--target", "tensorrt-rtx", "--precision", "fp16")
    assert_refused(refused, 1, "fc7.weight do not fit FP16", "--bf16")


def test_calibrate_names_dead_channels_and_what_its_method_clips(run: Run, damaged: Path, tmp_path: Path) -> None:
    arguments = ["--model", damaged, "--workdir", tmp_path / "work", "--quiet"]
    assert run("export", *arguments).code == 0
    method = ["--method", "percentile", "--percentile", 99]
    ended = run("calibrate", *arguments, "--images", CHANNEL_IMAGES, *method, "--json")
    assert ended.code == 0
    found = {line.split(":")[0]: line for line in warnings_of(ended.err)}
    assert "dead-channels: conv4 (24 of 48, 50 %): " in found["dead-channels"]
    assert " more: values beyond the threshold of INT8; " in found["int8-clipping"]
    clipped = [each for each in ended.document["passport"]["facts"]["safety"] if each["kind"] == "int8-clipping"]
    assert len(clipped) > 4 and all(0.005 <= each["share"] <= 0.01 for each in clipped)
    document = run("inspect", ended.document["path"], "--json").document
    for each in clipped:
        assert document["tensors"][each["tensor"]]["beyond"]["percentile"] == each["share"]
    assert document["tensors"]["relu4"]["constant_channels"] == 24
    assert found["dead-channels"] in run("inspect", ended.document["path"]).out


def test_a_graph_is_judged_by_what_it_quantizes_with_which_threshold(
    run: Run, common: list[object], tmp_path: Path
) -> None:
    table = tmp_path / "table.json"
    method = ["--method", "percentile", "--percentile", 99]
    assert run("calibrate", *common, "--images", 16, *method, "--output", table).code == 0
    export = ["export", *common, "--precision", "int8", "--rounding", "nearest", "--json"]
    tensors = {}
    for target in ("onnxruntime-cpu", "tensorrt-rtx"):
        output = tmp_path / f"{target}.onnx"
        ended = run(*export, "--target", target, "--calibration", table, "--output", output)
        assert ended.code == 0 and warnings_of(ended.err)[0].startswith("int8-clipping: "), ended.err
        tensors[target] = {each["tensor"] for each in ended.document["passport"]["facts"]["safety"]}
    # ONNX Runtime's graph quantizes what layers give too; TensorRT's only what they read.
    assert "relu1" in tensors["onnxruntime-cpu"] - tensors["tensorrt-rtx"]
    assert "pool1" in tensors["onnxruntime-cpu"] & tensors["tensorrt-rtx"]


def test_a_sound_network_gets_no_warning(run: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["--model", small_checkpoint, "--workdir", tmp_path / "work", "--json"]
    runs = [
        run("export", *arguments),
        run("calibrate", *arguments, "--images", CHANNEL_IMAGES),
        run("export", *arguments, "--target", "tensorrt-rtx", "--precision", "fp16"),
        run("export", *arguments, "--target", "onnxruntime-cpu", "--precision", "int8", "--rounding", "nearest"),
    ]
    for ended in runs:
        assert ended.code == 0 and warnings_of(ended.err) == [], ended.err
        assert ended.document["passport"]["facts"]["safety"] == []

"""`export` for a target: what goes together, what is written, and what the passport says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from alexnet_deploy.cli.main import cli
from alexnet_deploy.weights import save_checkpoint
from tests.conftest import small_info, small_network


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_checkpoint(small_network("paper"), small_info("paper"), path)
    return path


@pytest.mark.parametrize(
    "options",
    [
        ["--precision", "int8"],
        ["--lrn", "auto"],
        ["--target", "openvino", "--max-drop", "0.2"],
        ["--target", "openvino", "--allow-float"],
        ["--target", "openvino", "--precision", "int8", "--lrn", "auto"],
        ["--target", "openvino", "--precision", "int8", "--max-drop", "-1"],
        ["--contain-nan"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_are_usage_errors(options: list[str], tmp_path: Path) -> None:
    ended = CliRunner().invoke(cli, ["export", "--workdir", str(tmp_path), *options])
    assert ended.exit_code == 2, ended.output
    assert not list(tmp_path.iterdir())


def test_an_int8_graph_is_written_with_its_proof(model: Path, tmp_path: Path) -> None:
    arguments = ["export", "--model", str(model), "--workdir", str(tmp_path), "--quiet"]
    options = ["--target", "onnxruntime-cpu", "--precision", "int8", "--max-drop", "100", "--json"]
    ended = CliRunner().invoke(cli, [*arguments, *options], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    facts = json.loads(ended.stdout)["passport"]["facts"]
    assert set(facts["proof"].values()) == {"int8"} and len(facts["proof"]) == 8
    assert (facts["keep_float"], facts["calibration_method"], facts["lrn"]) == ([], "max", "banded")
    assert facts["guard"]["images"] == 1000 and facts["guard"]["max_drop"] == 1.0


def test_a_native_graph_for_a_target_goes_where_it_is_told(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "there.onnx"
    arguments = ["export", "--model", str(model), "--workdir", str(tmp_path / "work"), "--output", str(output)]
    ended = CliRunner().invoke(cli, [*arguments, "--target", "tensorrt-rtx"], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert output.is_file() and ended.stdout.strip() == str(output)

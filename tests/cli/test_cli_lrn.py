"""The commands' ways with LRN: what `--lrn` writes and builds, what `inspect` says of it, and what is a usage error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy import inspection
from alexnet_deploy.engines.plan import read_plan
from alexnet_deploy.graph import read_graph
from alexnet_deploy.lrn import cubin
from alexnet_deploy.lrn.node import POOLED_NODE, plugin_nodes
from alexnet_deploy.specs import Precision
from tests.cli.conftest import Run, assert_refused
from tests.graphs import operators


def test_export_writes_the_plugins_node(run: Run, common: list[object], work: Path) -> None:
    ended = run("export", *common, "--lrn", "plugin")
    assert (ended.code, ended.out, ended.err) == (0, f"{work / 'alexnet.lrn-plugin.onnx'}\n", "")
    model = read_graph(work / "alexnet.lrn-plugin.onnx")
    assert [node.op_type for node in plugin_nodes(model)] == [POOLED_NODE, POOLED_NODE]
    assert len(model.functions) == 2
    assert "LRN" in operators(read_graph(work / "alexnet.onnx"))


def test_export_says_how_and_why_in_the_passport(run: Run, common: list[object], tmp_path: Path) -> None:
    facts = {}
    for lrn in ("native", "banded", "plugin"):
        document = run("export", *common, "--lrn", lrn, "--output", tmp_path / f"{lrn}.onnx", "--json").document
        facts[lrn] = document["passport"]["facts"]
    assert {lrn: found["lrn"] for lrn, found in facts.items()} == {lrn: lrn for lrn in facts}
    assert facts["banded"]["lrn_reason"] == facts["plugin"]["lrn_reason"] == "asked for"
    for lrn in ("banded", "plugin"):
        assert facts[lrn]["parity"]["max_relative_error"] < 1e-5


def test_export_takes_another_operator_set_with_the_plugin(run: Run, common: list[object], tmp_path: Path) -> None:
    output = tmp_path / "later.onnx"
    common[3] = tmp_path / "work"
    ended = run("export", *common, "--lrn", "plugin", "--opset", 22, "--output", output)
    assert ended.code == 0, ended.err
    model = read_graph(output)
    assert model.graph.opset_imports[""] == 22
    assert {function.opset_imports[""] for function in model.functions.values()} == {22}


def test_export_contains_a_nan_on_request(run: Run, common: list[object], work: Path) -> None:
    plain = run("export", *common, "--lrn", "banded", "--json").document
    path = Path(plain["path"])
    assert path == work / "alexnet.lrn-banded.onnx"
    assert "AveragePool" not in operators(read_graph(path)) and "contain_nan" not in plain["passport"]["facts"]
    contained = run("export", *common, "--lrn", "banded", "--contain-nan", "--json").document
    assert contained["passport"]["facts"]["contain_nan"] is True and not contained["reused"]
    assert operators(read_graph(Path(contained["path"]))).count("AveragePool") == 2
    text = run("inspect", contained["path"])
    assert "LRN banded, contain nan: asked for\n" in text.out


@pytest.mark.parametrize("lrn", [[], ["--lrn", "native"], ["--lrn", "plugin"]], ids=" ".join)
def test_contain_nan_goes_with_the_band_alone(run: Run, common: list[object], lrn: list[str], tmp_path: Path) -> None:
    output = tmp_path / "none.onnx"
    ended = run("export", *common, *lrn, "--contain-nan", "--output", output)
    assert_refused(ended, 2, "--contain-nan goes with --lrn banded")
    assert not output.exists()


@pytest.mark.parametrize("command", ["export", "build-engine"])
def test_an_unknown_form_is_refused_with_the_known_ones(run: Run, common: list[object], command: str) -> None:
    assert_refused(run(command, *common, "--lrn", "magic"), 2, "native", "plugin")


def test_build_engine_does_not_take_the_band(run: Run, common: list[object]) -> None:
    assert_refused(run("build-engine", *common, "--lrn", "banded"), 2, "auto", "native", "plugin")


BUILD: tuple[object, ...] = ("--backend", "tensorrt-rtx", "--sm", "sm86,sm89")


@pytest.fixture
def engine(run: Run, common: list[object], work: Path) -> Path:
    """An FP16 engine with the plugin."""
    pytest.importorskip("tensorrt_rtx")
    ended = run("build-engine", *common, *BUILD, "--lrn", "plugin")
    path = work / "alexnet.fp16.tensorrt-rtx.sm86+sm89.lrn-plugin.engine"
    assert (ended.code, ended.out) == (0, f"{path}\n"), ended.err
    return path


def test_build_engine_puts_the_plugin_in(engine: Path) -> None:
    plan = read_plan(engine.read_bytes())
    assert plan.plugins == (POOLED_NODE, POOLED_NODE)
    assert plan.plugin_sms == plan.sms == (86, 89)


def test_build_engine_says_how_many_plugins_there_are(run: Run, work: Path, small_checkpoint: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    common = ["--model", small_checkpoint, "--workdir", work]
    ended = run("build-engine", *common, *BUILD, "--lrn", "plugin", "--output", work / "loud.engine")
    assert ended.code == 0 and "8 of 8 layers in fp16" in ended.err and "; 2 LRN plugins" in ended.err
    ended = run("build-engine", *common, *BUILD, "--lrn", "native", "--output", work / "loud.engine")
    assert ended.code == 0 and "8 of 8 layers in fp16" in ended.err and "LRN plugins" not in ended.err


@pytest.mark.parametrize("precision", ["--fp32", "--bf16", "--int8"])
def test_build_engine_builds_the_plugin_in_every_precision(run: Run, common: list[object], precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    if precision == "--int8":
        assert run("calibrate", *common, "--images", 8).code == 0
    document = run("build-engine", *common, *BUILD, precision, "--lrn", "plugin", "--json").document
    (made,) = document["engines"]
    facts = made["passport"]["facts"]
    assert (facts["precision"], facts["lrn"]) == (precision.removeprefix("--"), "plugin")
    assert facts["plan"]["plugins"] == [POOLED_NODE, POOLED_NODE]
    assert {layer["precision"] for layer in facts["plan"]["layers"]} == {facts["precision"]}


def test_build_engine_by_itself_takes_the_native_layer(run: Run, common: list[object], engine: Path) -> None:
    ended = run("build-engine", *common, *BUILD)
    path = Path(ended.out.strip())
    assert ended.code == 0 and path != engine and path.is_file() and engine.is_file()
    assert read_plan(path.read_bytes()).plugins == ()


def test_inspect_shows_the_plugins_of_an_engine(run: Run, engine: Path) -> None:
    text = run("inspect", engine)
    assert (text.code, text.err) == (0, "")
    assert "LRN plugin: asked for\n" in text.out
    assert f"LRN plugins: {POOLED_NODE}, {POOLED_NODE}; with kernels for sm86, sm89\n" in text.out
    document = run("inspect", engine, "--json").document
    assert document["plugins"] == [POOLED_NODE, POOLED_NODE]
    assert document["plugin_sms"] == document["sms"] == ["sm86", "sm89"]


def test_inspect_shows_no_plugins_where_there_are_none(run: Run, common: list[object]) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = run("build-engine", *common, *BUILD).out.strip()
    text = run("inspect", path)
    assert "LRN native: " in text.out and "LRN plugins" not in text.out
    assert run("inspect", path, "--json").document["plugins"] == []


def test_inspect_shows_the_node_in_a_graph(run: Run, common: list[object], work: Path) -> None:
    run("export", *common, "--lrn", "plugin")
    path = work / "alexnet.lrn-plugin.onnx"
    text = run("inspect", path)
    assert text.code == 0 and "LRN plugin: asked for\n" in text.out
    layers = {layer["name"]: layer for layer in run("inspect", path, "--json").document["layers"]}
    assert {"norm1", "norm2", "conv1", "fc8"} <= set(layers)
    assert "pool1" not in layers and POOLED_NODE in text.out
    # Behind its pool: sides of 24 have become 11.
    assert layers["relu1"]["output"] == [16, 24, 24] and layers["norm1"]["output"] == [16, 11, 11]


@pytest.fixture
def few_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cubin, "KERNEL_SMS", (75, 89))
    monkeypatch.setattr(cubin, "KERNEL_PRECISIONS", (Precision.FP16, Precision.BF16))


@pytest.mark.usefixtures("few_kernels")
def test_inspect_kernel_is_one_document(run: Run) -> None:
    ended = run("inspect", "--kernel", "--json", "--quiet")
    assert ended.code == 0 and ended.err == ""
    document = ended.document
    assert (document["kind"], document["path"], document["sms"]) == ("kernel", None, ["sm75", "sm89"])
    rows = document["kernels"]
    found = {(row["sm"], row["precision"], row["pooled"], row["layout"]) for row in rows}
    kinds = [("sm75", "fp16"), ("sm89", "fp16"), ("sm89", "bf16")]
    assert found == {
        (*kind, pooled, layout) for kind in kinds for pooled in (False, True) for layout in ("NCHW", "NHWC")
    }
    assert len(rows) == len(found)
    for row in rows:
        assert row["spill_bytes"] == 0 and 0 < row["registers"] <= 255 and row["cubin_bytes"] > 1000
    traffic: list[dict[str, Any]] = document["traffic"]
    assert {(row["norm"], row["batch"], row["precision"]) for row in traffic} == {
        (norm, batch, "fp16") for norm in ("norm1", "norm2") for batch in (1, 16)
    }
    assert all(row["microseconds"]["H100 SXM"] < row["microseconds"]["RTX 4090"] for row in traffic)


@pytest.mark.usefixtures("few_kernels")
def test_inspect_kernel_prints_what_its_document_says(run: Run) -> None:
    document = json.loads(run("inspect", "--kernel", "--json", "--quiet").out)
    text = run("inspect", "--kernel", "--quiet")
    assert text.code == 0 and text.err == ""
    assert "LRN and pool" in text.out and "not measured" in text.out
    for row in document["kernels"]:
        assert f"{row['cubin_bytes']:,}" in text.out and row["sm"] in text.out
    for row in document["traffic"]:
        assert f"{row['bytes'] / 1e6:.2f}" in text.out


@pytest.mark.usefixtures("few_kernels")
def test_the_kernels_document_can_be_of_one_precision() -> None:
    document = inspection.inspect_kernel([Precision.BF16])
    assert {row["precision"] for row in document["kernels"]} == {"bf16"}
    assert {row["sm"] for row in document["kernels"]} == {"sm89"}


@pytest.mark.parametrize(
    "arguments",
    [["shipped"], ["--variant", "paper"], ["any.onnx", "--json"], ["--variant", "paper", "--draw", "net.svg"]],
    ids=" ".join,
)
def test_the_kernel_is_inspected_alone(run: Run, arguments: list[str]) -> None:
    assert_refused(run("inspect", "--kernel", *arguments), 2, "--kernel")


def test_the_kernel_is_not_drawn(run: Run, tmp_path: Path) -> None:
    assert_refused(run("inspect", "--kernel", "--draw", tmp_path / "net.svg"), 2, "--draw goes with --variant")
    assert not (tmp_path / "net.svg").exists()

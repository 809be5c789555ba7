"""Engines by command: what they are built for, that their precision is proved, found again, refused, and never opened
when anything about them is not as it was made."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from alexnet_deploy import machine, prediction
from alexnet_deploy.artifacts import passport_path
from alexnet_deploy.engines.options import able_sms
from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.runtimes import admission, opened_engine
from alexnet_deploy.specs import RTX_SMS, Precision
from tests.cli.conftest import Run, assert_refused
from tests.graphs import CONVOLUTIONS, LINEARS, model_of

pytest.importorskip("tensorrt_rtx")
Build = Callable[..., Path]


@pytest.fixture
def build(run: Run, common: list[object], tmp_path: Path) -> Build:
    """Builds an engine of the small network into a folder of the test's own."""

    def call(*options: object) -> Path:
        path = tmp_path / "alexnet.engine"
        ended = run("build-engine", *common, "--backend", "tensorrt-rtx", *options, "--output", path)
        assert (ended.code, ended.out) == (0, f"{path}\n"), ended.err
        return path

    return call


@pytest.fixture
def calibrated(run: Run, common: list[object], work: Path) -> None:
    """A table of few images, once for all tests of this module."""
    if not (work / "calibration.json").exists():
        assert run("calibrate", *common, "--images", 32).code == 0


@pytest.mark.parametrize("sm", able_sms(Precision.INT8), ids=lambda sm: f"sm{sm}")
def test_every_layer_is_int8_for_every_sm(sm: int, run: Run, build: Build, calibrated: None) -> None:
    path = build("--int8", "--sm", f"sm{sm}", "--rounding", "nearest")
    document = run("inspect", path, "--json").document
    assert document["sms"] == [f"sm{sm}"] and document["passport_matches"] is True
    assert {layer["name"]: (layer["op"], layer["precision"]) for layer in document["layers"]} == {
        **dict.fromkeys(CONVOLUTIONS, ("conv", "int8")),
        **dict.fromkeys(LINEARS, ("linear", "int8")),
    }
    assert document["layers_by_precision"] == {"int8": 8}
    assert document["weight_bytes_by_type"]["int8"] > 0 and document["reformats"] >= 0
    assert document["passport"]["facts"]["plan"]["layers_by_precision"] == {"int8": 8}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_all_sms_that_hold_a_precision_are_built_for(precision: Precision, run: Run, build: Build) -> None:
    path = build(f"--{precision.value}", "--sm", "all")
    document = run("inspect", path, "--json").document
    assert document["sms"] == [f"sm{sm}" for sm in able_sms(precision)]
    assert document["layers_by_precision"] == {precision.value: 8}


@pytest.mark.parametrize("precision", ["--fp8", "--int4"])
def test_narrow_types_are_built_and_said(precision: str, run: Run, build: Build, calibrated: None) -> None:
    document = run("inspect", build(precision, "--sm", "all"), "--json").document
    counts = document["layers_by_precision"]
    assert sum(counts.values()) == 8 and counts[precision.strip("-")] >= 3


def test_the_engine_says_what_was_asked_for(run: Run, build: Build) -> None:
    path = build("--fp16", "--sm", "sm86,sm120", "--profile", "1:1:1", "--profile", "2:8:32", "--workspace", "64M")
    facts = json.loads(passport_path(path).read_text())["facts"]
    assert facts["options"]["profiles"] == [{"min": 1, "opt": 1, "max": 1}, {"min": 2, "opt": 8, "max": 32}]
    assert facts["options"]["workspace_bytes"] == 64 << 20 and facts["options"]["sms"] == [86, 120]
    assert path.with_name(f"{path.name}.log").is_file()
    text = run("inspect", path).out
    assert "for sm86, sm120" in text and "convolutions and fully connected layers: 8 in fp16" in text


def test_a_second_build_finds_the_first_and_says_so(
    run: Run, work: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["build-engine", "--model", small_checkpoint, "--workdir", work, "--fp16", "--sm", "sm89"]
    first = run(*arguments)
    assert first.code == 0
    path = Path(first.out.strip())
    assert path == work / "alexnet.fp16.tensorrt-rtx.sm89.engine"
    before = path.stat().st_mtime_ns

    def read(*_arguments: object) -> None:
        raise AssertionError("a graph was opened to find an engine again")

    monkeypatch.setattr("alexnet_deploy.graph.read_graph", read)
    again = run(*arguments)
    assert again.out == first.out and f"reusing {path}" in again.err
    assert path.stat().st_mtime_ns == before
    monkeypatch.undo()
    # Another engine has another name, and the first one stays.
    more = run(*arguments, "--max-batch", 4)
    other = Path(more.out.strip())
    assert more.code == 0 and f"wrote {other}" in more.err and other != path
    assert f"reusing {path}" in run(*arguments).err


def test_a_changed_engine_or_passport_is_built_anew(run: Run, work: Path, small_checkpoint: Path) -> None:
    arguments = ["build-engine", "--model", small_checkpoint, "--workdir", work, "--fp16", "--sm", "sm86"]
    path = Path(run(*arguments).out.strip())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert f"wrote {path}" in run(*arguments).err
    passport_path(path).write_text(passport_path(path).read_text().replace('"sm86"', '"sm89"'))
    assert f"wrote {path}" in run(*arguments).err
    assert f"reusing {path}" in run(*arguments).err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--int8", "--sm", "sm75"], 2, ["SM75 cannot hold int8", "--fp16 --sm sm75", "--int8 from --sm sm80"]),
        (["--bf16", "--sm", "sm75,sm86"], 2, ["SM75 cannot hold bf16"]),
        (["--fp8", "--sm", "sm86"], 2, ["SM86 cannot hold fp8", "--int8 --sm sm86"]),
        (["--fp16", "--sm", "sm90"], 2, ["SM90", "--backend tensorrt"]),
        (["--fp16", "--sm", "banana"], 2, ["no such SM: 'banana'"]),
        (["--fp16", "--version-compatible"], 2, ["lean runtime"]),
        (["--fp16", "--hardware-compatible", "ampere+"], 2, ["--sm names"]),
        (["--fp16", "--optimization-level", "5"], 2, ["every level"]),
        (["--fp16", "--profile", "1:2"], 2, ["1:8:16"]),
        (["--fp16", "--profile", "1:1:1", "--max-batch", "2"], 2, ["takes the place"]),
        (["--fp16", "--profile", "1:1:1", "--profile", "1:1:1"], 2, ["alike"]),
        (["--fp16", "--workspace", "3X"], 2, ["512M or 2G"]),
        (["--fp16", "--optimization-level", "9"], 2, ["0<=x<=5"]),
        (["--fp16", "--workspace", "0"], 2, ["no such workspace"]),
        (["--fp16", "--workspace", "999999999999G"], 2, ["no such workspace"]),
        (["--fp16", "--timing-cache", "cache"], 2, ["no timing cache"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_what_cannot_be_built_is_refused_before_anything_is_made(
    options: list[str], code: int, words: list[str], run: Run, small_checkpoint: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    ended = run("build-engine", "--model", small_checkpoint, "--workdir", work, "--backend", "tensorrt-rtx", *options)
    assert_refused(ended, code, *words)
    assert not work.exists()


def test_what_takes_a_gpu_says_so(run: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    if machine.count_gpus():
        pytest.skip("there is a CUDA device")
    common = ["build-engine", "--model", small_checkpoint, "--workdir", tmp_path / "work", "--backend", "tensorrt-rtx"]
    for options in (["--sm", "native"], ["--refit"], ["--strip"]):
        ended = run(*common, *options)
        assert ended.code in (1, 2) and "no CUDA device" in ended.err
    assert not (tmp_path / "work").exists()


# An engine that does not fit its passport, or a passport that does not fit itself, is not opened.


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with a GPU on which every engine is admitted that should be; opening one fails the test."""

    def opened(*_arguments: object, **_options: object) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr(admission, "count_gpus", lambda: 1)
    monkeypatch.setattr(admission, "gpu_sm", lambda: 89)
    monkeypatch.setattr(admission, "cuda_driver_version", lambda: "13.0")
    monkeypatch.setattr(opened_engine, "tensorrt_module", opened)
    monkeypatch.setattr("alexnet_deploy.runtimes.engine.Device", opened)
    yield


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("image") / "image.png"
    Image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)).save(path)
    return path


def damaged(data: bytes, random_: random.Random) -> bytes:
    """Bytes flipped, cut off, or left out; never the same."""
    changed = bytearray(data)
    for _ in range(random_.randint(1, 8)):
        changed[random_.randrange(len(changed))] ^= random_.randint(1, 255)
    if random_.random() < 0.3:
        changed = changed[: random_.randrange(len(changed))]
    return bytes(changed) if bytes(changed) != data else data[:-1]


def test_a_whole_engine_would_be_opened(run: Run, work: Path, build: Build, image: Path, unopened: None) -> None:
    """Or the tests below would pass for another reason."""
    path = build("--fp16", "--sm", "sm89")
    with pytest.raises(AssertionError, match="an engine was opened"):
        run("predict", image, "--workdir", work, "--engine", path)


@pytest.mark.parametrize("kind", ["engine", "passport"])
def test_damaged_engines_and_passports_are_refused(
    kind: str, run: Run, work: Path, build: Build, image: Path, unopened: None, tmp_path: Path
) -> None:
    whole = build("--fp16", "--sm", "sm89")
    path = tmp_path / "copy.engine"
    for seed in range(70):
        shutil.copy(whole, path)
        shutil.copy(passport_path(whole), passport_path(path))
        victim = path if kind == "engine" else passport_path(path)
        original = victim.read_bytes()
        victim.write_bytes(damaged(original, random.Random(seed)))
        if kind == "passport" and same_values(original, victim.read_bytes()):
            continue
        ended = run("predict", image, "--workdir", work, "--engine", path)
        assert_refused(ended, 1, "passport")
        ended = run("inspect", path, "--json")
        assert ended.code in (0, 1) and "Traceback" not in ended.err
        if ended.code == 0:
            assert ended.document["passport_matches"] in (False, None)


def same_values(first: bytes, second: bytes) -> bool:
    """A flipped blank is no damage."""
    try:
        return bool(json.loads(first) == json.loads(second))
    except ValueError:
        return False


def small_onnx() -> bytes:
    random_ = np.random.default_rng(0)
    constants = {
        "w": random_.normal(size=(16, 3, 3, 3)).astype(np.float32),
        "v": random_.normal(size=(10, 16)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv1"),
        helper.make_node("LRN", ["a"], ["b"], name="norm1", size=5),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], name="pool"),
        helper.make_node("Flatten", ["c"], ["d"], name="flat"),
        helper.make_node("Gemm", ["d", "v"], ["y"], name="fc", transB=1),
    ]
    return graph_bytes(model_of(nodes, ["N", 3, 32, 32], constants))


def test_damaged_onnx_files_are_refused_or_are_other_models(run: Run, tmp_path: Path) -> None:
    """A flipped bit of a weight makes another model, which is built; anything else is one message."""
    data, codes = small_onnx(), set()
    path = tmp_path / "model.onnx"
    for seed in range(60):
        path.write_bytes(damaged(data, random.Random(seed)))
        ended = run("build-engine", "--fp16", "--sm", "sm89", "--model", path, "--workdir", tmp_path / f"{seed}")
        assert ended.code in (0, 1, 2, 3) and "Traceback" not in ended.err
        assert (ended.code == 0) == bool(ended.out)
        codes.add(ended.code)
    assert {0, 2} <= codes


# Any ONNX file that is not what it should be is one clear message.


def with_external_data(proto: onnx.ModelProto, location: str, folder: Path) -> None:
    onnx.save(proto, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(stored.SerializeToString())


def broken(kind: str, folder: Path) -> Path:
    """An ONNX file that is wrong in one way."""
    path, proto = folder / "model.onnx", onnx.load_from_string(small_onnx())
    data: Any = None
    if kind == "zero bytes":
        data = b""
    elif kind == "truncated":
        data = small_onnx()[:1000]
    elif kind == "text":
        data = b"this is not ONNX at all"
    elif kind.startswith("opset"):
        proto.opset_import[0].version = int(kind.split()[1])
    elif kind == "unknown operator":
        proto.graph.node[1].op_type = "Frobnicate"
    elif kind == "foreign operator":
        proto.graph.node[1].domain = "com.acme"
        proto.opset_import.append(helper.make_opsetid("com.acme", 1))
    elif kind == "data missing":
        with_external_data(proto, "weights.bin", folder)
        (folder / "weights.bin").unlink()
        return path
    elif kind == "data cut short":
        with_external_data(proto, "weights.bin", folder)
        (folder / "weights.bin").write_bytes(b"short")
        return path
    elif kind in ("data above", "data absolute", "data through a link"):
        outside = folder.parent / "outside.bin"
        outside.write_bytes(bytes(10_000))
        link = folder / "link.bin"
        link.symlink_to(outside)
        where = {"data above": "../outside.bin", "data absolute": str(outside), "data through a link": "link.bin"}
        with_external_data(proto, where[kind], folder)
        return path
    elif kind == "grey images":
        nodes = [helper.make_node("Flatten", ["x"], ["y"], name="flat")]
        data = graph_bytes(model_of(nodes, ["N", 1, 28, 28], {}))
    elif kind == "oblong images":
        nodes = [helper.make_node("Flatten", ["x"], ["y"], name="flat")]
        data = graph_bytes(model_of(nodes, ["N", 3, 28, 32], {}))
    elif kind == "images of any size":
        nodes = [helper.make_node("Flatten", ["x"], ["y"], name="flat")]
        data = graph_bytes(model_of(nodes, ["N", 3, "H", "W"], {}))
    elif kind == "no images":
        nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
        data = graph_bytes(model_of(nodes, ["N", 12], {}))
    else:
        nodes = [
            helper.make_node("Flatten", ["x"], ["a"], name="flat"),
            helper.make_node("Det", ["x"], ["b"], name="determinant"),
            helper.make_node("Unique", ["a"], ["c"], name="uniques"),
            helper.make_node("Shape", ["c"], ["s"], name="shape"),
            helper.make_node("Cast", ["s"], ["t"], name="cast", to=1),
            helper.make_node("ReduceSum", ["t"], ["u"], name="sum", keepdims=0),
            helper.make_node("Add", ["b", "u"], ["y"], name="add"),
        ]
        data = graph_bytes(model_of(nodes, ["N", 3, 8, 8], {}))
    path.write_bytes(proto.SerializeToString() if data is None else data)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("zero bytes", ["is empty"]),
        ("truncated", ["not an ONNX file, or cut short", "1000 bytes"]),
        ("text", ["not an ONNX file, or cut short"]),
        ("opset 3", ["operator set", "opset 3", "opset 7 to"]),
        ("opset 99", ["operator set", "opset 99"]),
        ("unknown operator", ["not a valid ONNX file", "Frobnicate"]),
        ("foreign operator", ["cannot run the graph", "com.acme"]),
        ("data missing", ["weights.bin", "is not there", "one folder"]),
        ("data cut short", ["is not whole in its file", "of 5"]),
        ("data above", ["outside its folder", "../outside.bin"]),
        ("data absolute", ["outside its folder"]),
        ("data through a link", ["outside its folder", "link.bin"]),
        ("grey images", ["square colour images", "?x1x28x28"]),
        ("oblong images", ["square colour images", "?x3x28x32"]),
        ("images of any size", ["dynamic image size"]),
        ("no images", ["does not read one batch of images"]),
        ("nodes that TensorRT lacks", ["determinant (Det)", "uniques (Unique)", "no such operator"]),
    ],
)
def test_a_graph_that_cannot_be_built_is_one_clear_message(
    kind: str, words: list[str], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    path = broken(kind, tmp_path / "folder")
    ended = run("build-engine", "--fp32", "--sm", "sm89", "--model", path, "--workdir", tmp_path / "work", "--quiet")
    assert ended.code in (1, 2)
    assert_refused(ended, ended.code, *words)
    assert sum(line.startswith("error: ") for line in ended.err.splitlines()) == 1
    assert not list((tmp_path / "work").glob("*.engine"))


def test_a_graph_with_its_weights_beside_it_is_built(run: Run, tmp_path: Path) -> None:
    proto = onnx.load_from_string(small_onnx())
    with_external_data(proto, "weights.bin", tmp_path)
    path = tmp_path / "model.onnx"
    ended = run("build-engine", "--fp16", "--sm", "sm89", "--model", path, "--workdir", tmp_path / "work", "--json")
    assert ended.code == 0, ended.err
    plan = ended.document["engines"][0]["passport"]["facts"]["plan"]
    assert {layer["name"]: layer["precision"] for layer in plan["layers"]} == {"conv1": "fp16", "fc": "fp16"}


def test_other_weights_beside_the_same_graph_are_another_engine(run: Run, tmp_path: Path) -> None:
    """torch writes the same file for other weights of the same network."""
    with_external_data(onnx.load_from_string(small_onnx()), "weights.bin", tmp_path)
    path, weights = tmp_path / "model.onnx", tmp_path / "weights.bin"
    arguments = ["build-engine", "--fp16", "--sm", "sm89", "--model", path, "--workdir", tmp_path / "work"]
    engine = Path(run(*arguments).out.strip())
    first, graph = engine.read_bytes(), path.read_bytes()
    assert f"reusing {engine}" in run(*arguments).err
    values = np.frombuffer(weights.read_bytes(), np.float32)
    weights.write_bytes((values * np.float32(0.5)).tobytes())
    ended = run(*arguments)
    assert path.read_bytes() == graph and f"wrote {engine}" in ended.err and engine.read_bytes() != first
    weights.unlink()
    assert_refused(run(*arguments), 2, "weights.bin", "is not there")


def test_architectures_are_taken_however_often_they_are_said(run: Run, build: Build) -> None:
    document = run("inspect", build("--fp16", "--sm", "sm86", "--sm", "sm89"), "--json").document
    assert document["sms"] == ["sm86", "sm89"]


def test_one_precision_that_cannot_be_had_refuses_all(run: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    common = ["--model", small_checkpoint, "--workdir", tmp_path / "work", "--backend", "tensorrt-rtx"]
    assert_refused(run("build-engine", *common, "--fp16", "--fp8", "--sm", "sm86,sm89"), 2, "SM86 cannot hold fp8")
    assert not (tmp_path / "work").exists()


def test_a_graph_without_weights_is_built(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["a"], name="pool"),
        helper.make_node("Flatten", ["a"], ["y"], name="flat"),
    ]
    path.write_bytes(graph_bytes(model_of(nodes, ["N", 3, 32, 32], {})))
    ended = run("build-engine", "--fp16", "--sm", "sm89", "--model", path, "--workdir", tmp_path / "work")
    assert ended.code == 0 and "0 of 0 layers in fp16; weights none" in ended.err


# `predict` with an engine.


def test_predict_refuses_an_engine_without_its_passport(run: Run, work: Path, build: Build, image: Path) -> None:
    path = build("--fp16", "--sm", "sm89")
    passport_path(path).unlink()
    assert_refused(run("predict", image, "--workdir", work, "--engine", path), 1, "no passport", "--trust")


def test_predict_says_that_an_engine_was_built_and_not_run(run: Run, work: Path, build: Build, image: Path) -> None:
    if machine.count_gpus():
        pytest.skip("there is a CUDA device")
    ended = run("predict", image, "--workdir", work, "--engine", build("--fp16", "--sm", "sm89"))
    assert (ended.code, ended.out) == (1, "") and "built, not run: no CUDA device" in ended.err


def test_an_engine_has_its_own_precision_and_model(
    run: Run, common: list[object], build: Build, image: Path, work: Path, small_checkpoint: Path
) -> None:
    path = build("--fp16", "--sm", "sm89")
    ended = run("predict", image, "--workdir", work, "--engine", path, "--precision", "int8")
    assert_refused(ended, 2, "--precision and --runtime go without --engine")
    ended = run("predict", image, "--workdir", work, "--engine", path, "--model", small_checkpoint)
    assert_refused(ended, 2, "--model goes without --engine")


def test_trust_goes_with_an_engine(run: Run, common: list[object], image: Path) -> None:
    assert_refused(run("predict", image, *common, "--trust"), 2, "--trust goes with --engine")


@pytest.mark.parametrize("trust", [False, True])
def test_predict_takes_the_model_from_the_engines_passport(
    trust: bool, run: Run, common: list[object], build: Build, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or from --model where there is none."""
    path = build("--fp16", "--sm", "sm89")
    if trust:
        passport_path(path).unlink()
    spec, info = prediction.engine_spec(path, threads=1, trust=trust)
    assert (spec.runtime, spec.path, spec.trust) == ("tensorrt-rtx", path, trust)
    assert info is None if trust else info is not None and len(info.labels) == 10


def test_the_sms_are_what_the_documentation_says() -> None:
    readme = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    for sm in RTX_SMS:
        assert f"SM{sm}" in readme

"""A package holds the artifact that was measured, and a configuration that Triton's schema and client agree with."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from alexnet_deploy.artifacts import read_passport, require_passport, write_artifact
from alexnet_deploy.data.catalog import FASHION_MNIST_CLASSES
from alexnet_deploy.errors import ArtifactError, EngineError, GraphError, InputError
from alexnet_deploy.export import run_onnx
from alexnet_deploy.files import sha256_of, write_json
from alexnet_deploy.graph import read_graph
from alexnet_deploy.packaging.triton import BACKENDS, Package, PackageOptions, triton_model
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Lowering, Precision, Target
from tests.conftest import small_info, small_preprocessing
from tests.graphs import shipped_batch
from tests.packaging.benches import bench_of
from tests.packaging.client import read_config, request_of
from tests.passports import write_passport

SIDE = 99


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton") / "work"


@pytest.fixture
def deployment(work: Path, small_checkpoint: Path) -> Deployment:
    voice = Voice(quiet=True, stream=io.StringIO())
    return Deployment(workspace=Workspace(folder=work, voice=voice), model=str(small_checkpoint))


@pytest.fixture
def engine(deployment: Deployment, tmp_path: Path) -> Path:
    """What TensorRT would have built, beside its graph; the server reads the bytes, nobody here does."""
    graph = deployment.graph(Precision.FP16, Target.TENSORRT).path
    beside = tmp_path / graph.name
    beside.write_bytes(graph.read_bytes())
    return engine_file(tmp_path / "alexnet.engine", beside)


def engine_file(path: Path, graph: Path, **options: Any) -> Path:
    profiles = [{"min": 1, "opt": 1, "max": 8}, {"min": 1, "opt": 16, "max": 32}]
    facts = {
        "model": small_info().to_json(),
        "precision": "fp16",
        "backend": "tensorrt",
        "options": {"profiles": profiles, **options},
    }
    tools = {"tensorrt": "10.14.1"}
    write_artifact(path, b"plan", kind="engine", parents=[graph], facts=facts, tools=tools)
    return path


def package(deployment: Deployment, folder: Path, **options: Any) -> Package:
    return triton_model(deployment, folder / "repository", PackageOptions(**options))


def config_of(found: Package) -> dict[str, Any]:
    return read_config((found.written.folder / "config.pbtxt").read_text())


GRAPHS = [
    ("onnxruntime-cpu", Precision.FP32),
    ("onnxruntime-cuda", Precision.FP32),
    ("onnxruntime-cuda", Precision.FP16),
    ("openvino", Precision.FP32),
    ("openvino", Precision.BF16),
]


@pytest.mark.parametrize(("runtime", "precision"), GRAPHS)
def test_a_configuration_says_what_the_graph_is(
    deployment: Deployment, tmp_path: Path, runtime: str, precision: Precision
) -> None:
    found = package(deployment, tmp_path, runtime=runtime, precision=precision, max_batch=8)
    folder, config = found.written.folder, config_of(found)
    graph = onnx.load(folder / "1" / "model.onnx").graph
    for kind, value in (("input", graph.input[0]), ("output", graph.output[0])):
        [told] = config[kind]
        assert told["name"] == value.name
        assert told["data_type"] == {1: "TYPE_FP32", 10: "TYPE_FP16"}[value.type.tensor_type.elem_type]
        assert [int(dim) for dim in told["dims"]] == [side.dim_value for side in value.type.tensor_type.shape.dim[1:]]
    assert config["name"] == folder.name == f"alexnet-{precision.value}-{runtime}"
    assert config["backend"] == BACKENDS[runtime].name and config["default_model_filename"] == "model.onnx"
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_GPU" if "cuda" in runtime else "KIND_CPU"}]
    assert config["max_batch_size"] == 8
    assert [each["batch_size"] for each in config["model_warmup"]] == [1, 8]


@pytest.mark.parametrize(("runtime", "precision"), GRAPHS)
def test_the_file_is_the_artifact_with_its_passport(
    deployment: Deployment, tmp_path: Path, runtime: str, precision: Precision
) -> None:
    found = package(deployment, tmp_path, runtime=runtime, precision=precision)
    copied = found.written.folder / "1" / "model.onnx"
    passport = require_passport(copied, because="is copied along")
    assert passport == read_passport(found.source.path)
    assert config_of(found)["parameters"]["alexnet_deploy.artifact_sha256"]["string_value"] == sha256_of(copied)
    domains = {node.domain for node in read_graph(copied).graph}
    assert domains == {""}


def test_labels_and_preprocessing_travel_with_the_model(deployment: Deployment, tmp_path: Path) -> None:
    found = package(deployment, tmp_path)
    folder, config = found.written.folder, config_of(found)
    assert config["output"][0]["label_filename"] == "labels.txt"
    assert (folder / "labels.txt").read_text().splitlines() == list(FASHION_MNIST_CLASSES)
    contract = json.loads((folder / "preprocessing.json").read_text())
    told = json.loads(config["parameters"]["alexnet_deploy.preprocessing"]["string_value"])
    wanted = json.loads(json.dumps(small_preprocessing().to_json()))
    assert contract["preprocessing"] == told == wanted
    assert contract["input"] == {"name": "input", "data_type": "TYPE_FP32", "shape": [-1, 3, SIDE, SIDE]}


def test_tritons_client_makes_the_request_that_the_configuration_takes(deployment: Deployment, tmp_path: Path) -> None:
    found = package(deployment, tmp_path)
    config = config_of(found)
    contract = json.loads((found.written.folder / "preprocessing.json").read_text())
    request = request_of(contract, batch=2)
    [tensor] = request["header"]["inputs"]
    assert (tensor["name"], f"TYPE_{tensor['datatype']}") == (
        config["input"][0]["name"],
        config["input"][0]["data_type"],
    )
    assert tensor["shape"] == [2, *(int(dim) for dim in config["input"][0]["dims"])]
    assert request["bytes"] == 2 * 3 * SIDE * SIDE * 4
    [output] = request["header"]["outputs"]
    assert output["name"] == config["output"][0]["name"]


def test_the_packaged_graph_computes_what_the_artifact_does(deployment: Deployment, tmp_path: Path) -> None:
    found = package(deployment, tmp_path)
    images = shipped_batch(4)
    packaged = run_onnx(read_graph(found.written.folder / "1" / "model.onnx"), images)
    assert np.array_equal(packaged, run_onnx(read_graph(found.source.path), images))
    assert packaged.shape == (4, 10)


def test_without_a_bench_no_request_waits(deployment: Deployment, tmp_path: Path) -> None:
    found = package(deployment, tmp_path)
    config = config_of(found)
    assert config["dynamic_batching"] == {} and config["max_batch_size"] == 4
    assert "intra_op_thread_count" not in config["parameters"]
    text = (found.written.folder / "config.pbtxt").read_text()
    assert "# nothing was measured" in text


def test_openvino_takes_whole_shapes_unless_batching_is_worth_its_padding(
    deployment: Deployment, tmp_path: Path
) -> None:
    config = config_of(package(deployment, tmp_path, runtime="openvino"))
    assert "max_batch_size" not in config and "dynamic_batching" not in config
    assert config["input"][0]["dims"] == ["-1", "3", str(SIDE), str(SIDE)]
    assert config["model_warmup"][0]["inputs"]["input"]["dims"] == ["1", "3", str(SIDE), str(SIDE)]
    parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
    assert (parameters["PERFORMANCE_HINT"], parameters["NUM_STREAMS"]) == ("LATENCY", "1")
    assert {"ENABLE_BATCH_PADDING", "HINT_BF16", "INFERENCE_NUM_THREADS"} & set(parameters) == set()
    half = config_of(package(deployment, tmp_path, runtime="openvino", precision=Precision.BF16, max_batch=4))
    assert half["parameters"]["HINT_BF16"] == half["parameters"]["ENABLE_BATCH_PADDING"] == {"string_value": "YES"}
    assert half["dynamic_batching"] == {} and half["max_batch_size"] == 4


def bench_file(deployment: Deployment, tmp_path: Path, runtime: str, target: Target, times: dict[str, float]) -> Path:
    digest = sha256_of(deployment.graph(Precision.FP32, target).path)
    path = tmp_path / "bench.json"
    write_json(path, bench_of({f"{runtime}/{key}": time for key, time in times.items()}, digest))
    return path


def test_a_bench_of_the_artifact_decides(deployment: Deployment, tmp_path: Path) -> None:
    times = {"fp32/1": 10.0, "fp32/8": 20.0, "fp32/16": 39.0}
    bench = bench_file(deployment, tmp_path, "onnxruntime-cpu", Target.ONNXRUNTIME_CPU, times)
    config = config_of(package(deployment, tmp_path, bench=bench))
    assert config["max_batch_size"] == 16
    assert config["dynamic_batching"] == {"preferred_batch_size": [8], "max_queue_delay_microseconds": "2000"}
    assert config["parameters"]["intra_op_thread_count"] == {"string_value": "2"}
    assert [each["batch_size"] for each in config["model_warmup"]] == [1, 8]


def test_a_bench_with_requests_in_flight_decides_openvinos_streams(deployment: Deployment, tmp_path: Path) -> None:
    times = {"fp32/1": 10.0, "fp32+throughput/1": 5.0, "fp32/16": 150.0}
    bench = bench_file(deployment, tmp_path, "openvino", Target.OPENVINO, times)
    config = config_of(package(deployment, tmp_path, runtime="openvino", bench=bench))
    assert config["instance_group"] == [{"count": 4, "kind": "KIND_CPU"}]
    parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
    assert (parameters["PERFORMANCE_HINT"], parameters["NUM_STREAMS"]) == ("THROUGHPUT", "4")
    assert parameters["INFERENCE_NUM_THREADS"] == "2"


def test_a_bench_of_another_artifact_writes_nothing(deployment: Deployment, tmp_path: Path) -> None:
    bench = bench_file(deployment, tmp_path, "onnxruntime-cpu", Target.OPENVINO, {"fp32/1": 10.0})
    with pytest.raises(InputError, match="measured another artifact"):
        package(deployment, tmp_path, bench=bench)
    assert not (tmp_path / "repository").exists()


def test_an_engine_says_its_profiles(deployment: Deployment, tmp_path: Path, engine: Path) -> None:
    found = package(deployment, tmp_path, runtime="tensorrt", artifact=engine)
    config = config_of(found)
    assert (found.written.folder / "1" / "model.plan").read_bytes() == b"plan"
    assert (config["backend"], config["platform"]) == ("tensorrt", "tensorrt_plan")
    assert config["max_batch_size"] == 32
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_GPU", "profile": ["0", "1"]}]
    assert [int(dim) for dim in config["input"][0]["dims"]] == [3, SIDE, SIDE]
    assert "built by TensorRT 10.14.1" in (found.written.folder / "config.pbtxt").read_text()


def test_batches_between_an_engines_profiles_are_not_offered(
    deployment: Deployment, tmp_path: Path, engine: Path
) -> None:
    """The server's backend looks for a profile when a batch is there, and has none for it."""
    graph = tmp_path / deployment.graph(Precision.FP16, Target.TENSORRT).path.name
    gap = [{"min": 1, "opt": 1, "max": 1}, {"min": 8, "opt": 16, "max": 32}]
    path = engine_file(tmp_path / "gap.engine", graph, profiles=gap)
    for most in (None, 16, 2):
        with pytest.raises(EngineError, match="takes no batch of 2, and the server would make one") as caught:
            package(deployment, tmp_path, runtime="tensorrt", artifact=path, max_batch=most)
        assert caught.value.got == "profiles 1:1:1, 8:16:32" and "--max-batch 1" in str(caught.value.remedy)
    assert not (tmp_path / "repository").exists()
    config = config_of(package(deployment, tmp_path, runtime="tensorrt", artifact=path, max_batch=1))
    assert config["max_batch_size"] == 1
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_GPU", "profile": ["0"]}]
    closed = engine_file(tmp_path / "closed.engine", graph, profiles=[*gap, {"min": 2, "opt": 4, "max": 7}])
    config = config_of(package(deployment, tmp_path, runtime="tensorrt", artifact=closed))
    assert config["max_batch_size"] == 32
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_GPU", "profile": ["0", "1", "2"]}]


def test_an_engine_that_triton_cannot_open_is_refused(deployment: Deployment, tmp_path: Path, engine: Path) -> None:
    graph = tmp_path / deployment.graph(Precision.FP16, Target.TENSORRT).path.name
    for option, words in (("plugin", "LRN plugin"), ("strip", "no weights")):
        path = engine_file(tmp_path / "other.engine", graph, **{option: True})
        with pytest.raises(EngineError, match=words):
            package(deployment, tmp_path, runtime="tensorrt", artifact=path)
    path = engine_file(tmp_path / "other.engine", graph, profiles=[{"min": 2, "opt": 2, "max": 8}])
    with pytest.raises(EngineError, match="takes no single image"):
        package(deployment, tmp_path, runtime="tensorrt", artifact=path)
    path.write_bytes(b"another")
    with pytest.raises(ArtifactError, match="not the file its passport describes"):
        package(deployment, tmp_path, runtime="tensorrt", artifact=path)


def test_an_engine_of_tensorrt_rtx_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "rtx.engine"
    facts = {"model": small_info().to_json(), "precision": "fp16", "backend": "tensorrt-rtx"}
    write_artifact(path, b"vtrt", kind="engine", facts=facts)
    with pytest.raises(EngineError, match="no TensorRT engine"):
        package(deployment, tmp_path, runtime="tensorrt", artifact=path)


def test_a_graph_with_our_plugin_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    graph = deployment.graph(Precision.FP32, Target.TENSORRT, lowering=Lowering.PLUGIN, output=tmp_path / "p.onnx")
    with pytest.raises(GraphError, match="operators that the backend does not"):
        package(deployment, tmp_path, runtime="onnxruntime-cuda", artifact=graph.path)


@pytest.mark.parametrize("change", [{"precision": Precision.INT8}, {"runtime": "openvino"}])
def test_a_file_that_is_something_else_than_asked_for_is_refused(
    deployment: Deployment, tmp_path: Path, change: dict[str, Any]
) -> None:
    graph = deployment.graph(Precision.FP32, Target.ONNXRUNTIME_CPU)
    assert package(deployment, tmp_path, artifact=graph.path).config.name.startswith("alexnet-fp32")
    with pytest.raises(InputError, match="not what was asked for"):
        package(deployment, tmp_path, artifact=graph.path, **change)


def test_labels_of_another_network_are_refused(deployment: Deployment, tmp_path: Path) -> None:
    source = deployment.graph(Precision.FP32, Target.ONNXRUNTIME_CPU)
    path = tmp_path / "alexnet.onnx"
    path.write_bytes(source.path.read_bytes())
    model = {**small_info().to_json(), "network": None, "labels": ["a", "b"]}
    write_passport(path, kind="onnx", facts={**source.facts, "model": model})
    with pytest.raises(ArtifactError, match="labels in the passport"):
        package(deployment, tmp_path, artifact=path)


def test_a_model_without_labels_has_no_file_of_them(deployment: Deployment, tmp_path: Path) -> None:
    source = deployment.graph(Precision.FP32, Target.ONNXRUNTIME_CPU)
    path = tmp_path / "wild name!.onnx"
    path.write_bytes(source.path.read_bytes())
    write_passport(path, kind="onnx", facts={**source.facts, "model": {**small_info().to_json(), "labels": []}})
    found = package(deployment, tmp_path, artifact=path)
    assert found.config.name == "wild-name-fp32-onnxruntime-cpu"
    assert "label_filename" not in config_of(found)["output"][0]
    assert not (found.written.folder / "labels.txt").exists()


@pytest.mark.parametrize(
    "options",
    [{"runtime": "torch"}, {"precision": Precision.FP16}, {"max_batch": 0}, {"name": "../x"}],
    ids=["runtime", "precision", "batch", "name"],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        PackageOptions(**options)

"""What the server's backends do with a model when they load it and when a request comes, by the runtimes' own Python.

A server was not at hand; the steps are those of the backends' sources.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.export import run_onnx
from alexnet_deploy.graph import read_graph
from alexnet_deploy.optional import is_installed
from alexnet_deploy.packaging.triton import Package, PackageOptions, triton_model
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.progress import Voice
from tests.graphs import shipped_batch
from tests.packaging.client import read_config


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backends") / "work"


def packaged(work: Path, checkpoint: Path, **options: Any) -> tuple[Package, dict[str, Any]]:
    workspace = Workspace(folder=work, voice=Voice(quiet=True, stream=io.StringIO()))
    deployment = Deployment(workspace=workspace, model=str(checkpoint))
    found = triton_model(deployment, work / "triton", PackageOptions(**options))
    return found, read_config((found.written.folder / "config.pbtxt").read_text())


def file_of(found: Package, config: dict[str, Any]) -> Path:
    return found.written.folder / "1" / str(config["default_model_filename"])


def dims(config: dict[str, Any], kind: str) -> list[int]:
    return [int(dim) for dim in config[kind][0]["dims"]]


def test_onnx_runtime_batches_such_a_graph(work: Path, small_checkpoint: Path) -> None:
    """The backend refuses `max_batch_size` unless the first size of every input and output is free."""
    import onnxruntime

    found, config = packaged(work, small_checkpoint)
    session: Any = onnxruntime.InferenceSession(str(file_of(found, config)), providers=["CPUExecutionProvider"])
    for kind, ports in (("input", session.get_inputs()), ("output", session.get_outputs())):
        [port] = ports
        assert port.name == config[kind][0]["name"]
        assert not isinstance(port.shape[0], int)
        assert port.shape[1:] == dims(config, kind)
    batch = config["max_batch_size"]
    [logits] = session.run(None, {config["input"][0]["name"]: shipped_batch(batch)})
    assert logits.shape == (batch, *dims(config, "output"))


@pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is not installed")
@pytest.mark.parametrize("batch", [None, 4])
def test_openvino_takes_the_graph_as_its_backend_does(work: Path, small_checkpoint: Path, batch: int | None) -> None:
    import openvino
    from openvino.preprocess import PrePostProcessor

    found, config = packaged(work, small_checkpoint, runtime="openvino", max_batch=batch, name=f"openvino-{batch}")
    core = openvino.Core()
    model: Any = core.read_model(str(file_of(found, config)))
    image, logits = config["input"][0]["name"], config["output"][0]["name"]
    assert model.input(0).get_any_name() == image and model.output(0).get_any_name() == logits
    steps: Any = PrePostProcessor(model)
    steps.input(image).tensor().set_element_type(openvino.Type.f32)
    if batch is not None:
        steps.input(image).tensor().set_layout(openvino.Layout("N..."))
    model = steps.build()
    if batch is not None:
        openvino.set_batch(model, batch)
    # Compared before the model is compiled: a free size, or one that is the same.
    whole = {kind: ([batch] if batch is not None else []) + dims(config, kind) for kind in ("input", "output")}
    for kind, shape in (("input", model.input(0).partial_shape), ("output", model.output(0).partial_shape)):
        assert len(shape) == len(whole[kind])
        assert all(side.is_dynamic or side.get_length() == size for side, size in zip(shape, whole[kind], strict=True))
    parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
    # Of these the backend makes properties of the same names.
    known = {name: parameters[name] for name in ("PERFORMANCE_HINT", "NUM_STREAMS")}
    compiled: Any = core.compile_model(model, "CPU", {**known, "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    images = shipped_batch(3)
    # One that is not full is padded; without a batch whatever comes is computed.
    padded = images if batch is None else np.concatenate([images, np.zeros((batch - 3, *images.shape[1:]), np.float32)])
    answer = np.asarray(request.infer({image: padded})[0])[:3]
    wanted = run_onnx(read_graph(found.source.path), images)
    assert float(np.abs(answer - wanted).max()) <= 1e-3 * float(np.abs(wanted).max())

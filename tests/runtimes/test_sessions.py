"""Sessions of every runtime agree on the same weights, and say what is wrong where they cannot run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from alexnet_deploy.errors import InputError, RuntimeUnavailableError, SessionError
from alexnet_deploy.export import lowered
from alexnet_deploy.graph import write_graph
from alexnet_deploy.machine import count_gpus, usable_cpus
from alexnet_deploy.optional import tensorrt_version
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import THROUGHPUT, Session, SessionSpec
from alexnet_deploy.runtimes.torch_eager import TorchSession
from alexnet_deploy.specs import Lowering, Precision, Target
from tests.conftest import SMALL_SIDE
from tests.graphs import model_of, relative_error, shipped_batch, small_graph, small_table
from tests.passports import write_passport

RUNNING = ["torch", "onnxruntime-cpu", "openvino"]
NO_GPU = pytest.mark.skipif(count_gpus() > 0, reason="there is a CUDA device")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> dict[str, Path]:
    """The same weights as each runtime reads them."""
    folder = tmp_path_factory.mktemp("sessions")
    model = small_graph()
    graphs = {
        "onnxruntime-cpu": lowered(model, Lowering.BANDED),
        "openvino": model,
        "onnxruntime-cpu int8": lowered(int8_from_fp32(model, small_table(), Target.ONNXRUNTIME_CPU), Lowering.BANDED),
        "openvino int8": int8_from_fp32(model, small_table(), Target.OPENVINO),
    }
    paths = {"torch": small_checkpoint}
    for name, graph in graphs.items():
        paths[name] = folder / f"{name.replace(' ', '.')}.onnx"
        write_graph(graph, paths[name])
    return paths


def opened(runtime: str, path: Path, precision: Precision = Precision.FP32, hint: str | None = None) -> Session:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    return open_session(SessionSpec(runtime=runtime, precision=precision, path=path, threads=2, hint=hint))


@pytest.mark.parametrize("runtime", RUNNING)
def test_runtimes_agree_with_torch(runtime: str, artifacts: dict[str, Path]) -> None:
    images = shipped_batch(16)
    with opened("torch", artifacts["torch"]) as reference, opened(runtime, artifacts[runtime]) as session:
        assert session.image_shape == (3, SMALL_SIDE, SMALL_SIDE)
        expected, got = reference.run(images), session.run(images)
    assert got.dtype == np.float32 and got.shape == (16, 10)
    assert float(expected.std(axis=0).min()) > 1e-3
    assert relative_error(got, expected) < 1e-4


@pytest.mark.parametrize("runtime", RUNNING)
def test_a_session_takes_batches_of_any_size_in_any_order(runtime: str, artifacts: dict[str, Path]) -> None:
    images = shipped_batch(16)
    with opened(runtime, artifacts[runtime]) as session:
        together = session.run(images)
        for part in (slice(3, 4), slice(0, 7), slice(15, 16)):
            assert relative_error(session.run(images[part]), together[part]) < 1e-5


@pytest.mark.parametrize("runtime", RUNNING)
def test_outputs_of_an_earlier_run_stay(runtime: str, artifacts: dict[str, Path]) -> None:
    images = shipped_batch(16)
    with opened(runtime, artifacts[runtime]) as session:
        first = session.run(images[:1])
        kept = first.copy()
        session.run(images[1:2])
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("hint", [None, THROUGHPUT])
@pytest.mark.parametrize("runtime", [*RUNNING, "onnxruntime-cpu int8", "openvino int8"])
def test_many_threads_get_each_their_own_answers(runtime: str, hint: str | None, artifacts: dict[str, Path]) -> None:
    if hint and not runtime.startswith("openvino"):
        pytest.skip("a hint of OpenVINO's")
    images = shipped_batch(16)
    precision = Precision.INT8 if runtime.endswith("int8") else Precision.FP32
    parts = [images[start : start + size] for size in (1, 2, 3) for start in range(0, 12, size)]
    with opened(runtime.split()[0], artifacts[runtime], precision, hint) as session:
        alone = [session.run(part) for part in parts]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(session.run, parts * 4))
    for index, rows in enumerate(found):
        np.testing.assert_array_equal(rows, alone[index % len(parts)])


@pytest.mark.skipif(usable_cpus() == 1, reason="there is one CPU, and nothing to share")
def test_sessions_of_openvino_that_share_the_cpus_are_not_bound_to_the_same_ones(artifacts: dict[str, Path]) -> None:
    pytest.importorskip("openvino")
    spec = SessionSpec(runtime="openvino", precision=Precision.FP32, path=artifacts["openvino"], threads=1)
    with open_session(spec) as session:
        request: Any = vars(session)["_request"]
        assert request.get_compiled_model().get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino"])
def test_int8_agrees_on_most_images(runtime: str, artifacts: dict[str, Path]) -> None:
    images = shipped_batch(64)
    with opened(runtime, artifacts[runtime]) as fp32:
        expected = fp32.run(images)
    with opened(runtime, artifacts[f"{runtime} int8"], Precision.INT8) as int8:
        got = int8.run(images)
    assert 0 < relative_error(got, expected) < 0.2
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9


@pytest.mark.parametrize("threads", [1, usable_cpus()])
def test_openvino_says_how_many_threads_it_took(artifacts: dict[str, Path], threads: int) -> None:
    pytest.importorskip("openvino")
    spec = SessionSpec(runtime="openvino", precision=Precision.FP32, path=artifacts["openvino"], threads=threads)
    with open_session(spec) as session:
        assert session.threads == threads


def test_torch_in_bf16_holds_its_weights_in_bf16(artifacts: dict[str, Path]) -> None:
    with opened("torch", artifacts["torch"], Precision.BF16) as session:
        assert isinstance(session, TorchSession)
        kinds = {weights.dtype for name, weights in session._network.named_parameters() if name.endswith("weight")}
        assert kinds == {torch.bfloat16}


def test_torch_in_bf16_is_near_and_not_the_same(artifacts: dict[str, Path]) -> None:
    images = shipped_batch(4)
    with opened("torch", artifacts["torch"]) as fp32, opened("torch", artifacts["torch"], Precision.BF16) as bf16:
        assert 1e-6 < relative_error(bf16.run(images), fp32.run(images)) < 5e-2


@pytest.mark.parametrize("runtime", RUNNING)
def test_a_wrong_image_size_is_refused(runtime: str, artifacts: dict[str, Path]) -> None:
    with opened(runtime, artifacts[runtime]) as session, pytest.raises(InputError, match="does not fit"):
        session.run(np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.parametrize("runtime", RUNNING)
def test_closing_twice_is_fine(runtime: str, artifacts: dict[str, Path]) -> None:
    session = opened(runtime, artifacts[runtime])
    session.close()
    session.close()


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino"])
@pytest.mark.parametrize("content", [b"", b"not a graph"], ids=["empty", "text"])
def test_a_broken_file_is_an_error_that_names_it(runtime: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(SessionError, match=r"broken\.onnx") as caught:
        opened(runtime, path)
    assert caught.value.got


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino"])
def test_a_missing_file_is_an_error_that_names_it(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"nothing\.onnx"):
        opened(runtime, tmp_path / "nothing.onnx")


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.safetensors"):
        opened("torch", tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino"])
def test_a_runtime_that_fails_while_it_runs_is_a_session_error(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    write_graph(model_of([helper.make_node("Flatten", ["x"], ["y"])], [2, 3, 4, 4], {}), path)
    with opened(runtime, path) as session:
        assert session.run(np.zeros((2, 3, 4, 4), np.float32)).shape == (2, 48)
        with pytest.raises(SessionError):
            session.run(np.zeros((3, 3, 4, 4), np.float32))


@NO_GPU
def test_cuda_without_a_device_says_so(artifacts: dict[str, Path]) -> None:
    with pytest.raises(RuntimeUnavailableError, match="no CUDA device"):
        opened("onnxruntime-cuda", artifacts["onnxruntime-cpu"])


@NO_GPU
def test_an_engine_is_built_and_not_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "alexnet.engine"
    path.write_bytes(b"vtrt")
    facts = {"precision": "int8", "backend": "tensorrt-rtx", "plan": {"sms": ["sm89"]}}
    write_passport(path, kind="engine", facts=facts, tools={"tensorrt-rtx": tensorrt_version("tensorrt-rtx")})
    with pytest.raises(RuntimeUnavailableError, match=r"^built, not run: "):
        opened("tensorrt-rtx", path, Precision.INT8)

"""ONNX Runtime's GPU providers compute what it computes on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.graph import write_graph
from alexnet_deploy.optional import is_installed
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.runtimes.onnxruntime import RTX_PACKAGE
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision
from tests.graphs import relative_error, shipped_batch, small_graph

RUNTIMES = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("precision", "tolerance"), [(Precision.FP32, 2e-3), (Precision.FP16, 2e-2)])
def test_a_provider_agrees_with_the_cpu(precision: Precision, tolerance: float, runtime: str, tmp_path: Path) -> None:
    """Every node runs there, or opening the session fails."""
    images, fp32, path = shipped_batch(16), tmp_path / "fp32.onnx", tmp_path / "graph.onnx"
    write_graph(small_graph(), fp32)
    write_graph(small_graph() if precision is Precision.FP32 else half_from_fp32(small_graph(), precision), path)
    reference = SessionSpec(runtime="onnxruntime-cpu", precision=Precision.FP32, path=fp32, threads=2)
    provider = SessionSpec(runtime=runtime, precision=precision, path=path, threads=2)
    if runtime == "onnxruntime-tensorrt-rtx" and not is_installed(RTX_PACKAGE):
        pytest.skip(f"{RTX_PACKAGE} is not installed")
    if runtime == "onnxruntime-tensorrt" and not is_installed("tensorrt"):
        pytest.skip("TensorRT is not installed")
    with open_session(reference) as cpu, open_session(provider) as gpu:
        expected, got = cpu.run(images), gpu.run(images)
        assert relative_error(got, expected) < tolerance
        assert (got.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 15 / 16
        np.testing.assert_allclose(gpu.run(images[:1]), got[:1], atol=tolerance * float(np.abs(expected).max()))
